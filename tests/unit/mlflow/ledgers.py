"""A ledger in a test: policies, keys and limits made and looked at by SQL, and calls that go through it."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, text, update

TABLES = (
    "paddock_calls",
    "paddock_budget_windows",
    "paddock_rate_buckets",
    "paddock_rate_limits",
    "paddock_keys",
    "paddock_alerts",
    "paddock_usage_outbox",
    "budget_policies",
)


@dataclass
class Books:
    """The database behind a ledger."""

    url: str
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        from paddock_mlflow.database import engine

        self.engine = engine(self.url)

    def clear(self) -> None:
        with self.engine.begin() as connection:
            for table in TABLES:
                connection.execute(text(f"DELETE FROM {table}"))

    def run[T](self, work: Callable[[Any], Awaitable[T]]) -> T:
        """The result of `work(ledger)`, in an event loop of its own; the ledger is closed after it."""
        from paddock_mlflow.ledger import open_ledger

        async def main() -> T:
            ledger = open_ledger(self.url)
            try:
                return await work(ledger)
            finally:
                await ledger.close()

        return asyncio.run(main())

    def policy(
        self,
        amount: float,
        *,
        scope: str = "GLOBAL",
        target: str | None = None,
        action: str = "REJECT",
        unit: str = "DAYS",
        count: int = 1,
        workspace: str = "default",
    ) -> str:
        """A budget policy as MLflow writes it; returns its id."""
        from mlflow.store.tracking.dbmodels.models import SqlGatewayBudgetPolicy as Policy

        made = f"bp-{secrets.token_hex(6)}"
        row = {
            "budget_policy_id": made,
            "budget_unit": "USD",
            "budget_amount": amount,
            "duration_unit": unit,
            "duration_value": count,
            "target_scope": scope,
            "budget_action": action,
            "workspace": workspace,
            "target_value": target,
            "created_at": 1,
            "last_updated_at": 1,
        }
        with self.engine.begin() as connection:
            connection.execute(insert(Policy.__table__).values(**row))
        return made

    def edit_policy(self, policy_id: str, **values: object) -> None:
        from mlflow.store.tracking.dbmodels.models import SqlGatewayBudgetPolicy as Policy

        with self.engine.begin() as connection:
            connection.execute(
                update(Policy.__table__).where(Policy.budget_policy_id == policy_id).values(**values)
            )

    def delete_policy(self, policy_id: str) -> None:
        from mlflow.store.tracking.dbmodels.models import SqlGatewayBudgetPolicy as Policy

        with self.engine.begin() as connection:
            connection.execute(delete(Policy.__table__).where(Policy.budget_policy_id == policy_id))

    def key(self, **values: Any) -> tuple[str, Any]:
        """A bearer key of the user `ada` for the endpoint `coder`; returns its id and the credential."""
        from paddock_mlflow.database import keys, now
        from paddock_mlflow.ledger.types import KeyCredential

        made = f"pk_{secrets.token_hex(6)}"
        digest = sha256(made.encode()).digest()
        row = {
            "id": made,
            "sha256": digest,
            "username": "ada",
            "name": "a key",
            "endpoints": ["coder"],
            "experiment_ids": [],
            "created_at": now(),
            "created_by": "admin",
        }
        with self.engine.begin() as connection:
            connection.execute(insert(keys).values(**(row | values)))
        return made, KeyCredential(digest)

    def limit(self, scope: str, target: str, requests: int | None = None, tokens: int | None = None) -> None:
        from paddock_mlflow.database import rate_limits

        row = {"id": secrets.token_hex(6), "scope": scope, "target": target}
        with self.engine.begin() as connection:
            connection.execute(
                insert(rate_limits).values(requests_per_minute=requests, tokens_per_minute=tokens, **row)
            )

    def window(self, policy_id: str) -> tuple[Decimal, Decimal]:
        """What is spent and reserved in a policy's present window; nothing where there is no row."""
        from paddock_mlflow.database import budget_windows as windows
        from paddock_mlflow.database import now

        found = (
            select(windows.c.spent, windows.c.reserved)
            .where(windows.c.policy_id == policy_id)
            .where(windows.c.window_start <= now(), windows.c.window_end > now())
            # An edited policy leaves rows of its earlier spans.
            .order_by(windows.c.window_start.desc())
        )
        with self.engine.connect() as connection:
            row = connection.execute(found).first()
        return (row.spent, row.reserved) if row else (Decimal(0), Decimal(0))

    def spent(self) -> Decimal:
        """What all calls cost together."""
        from paddock_mlflow.database import calls

        with self.engine.connect() as connection:
            return connection.execute(select(func.sum(calls.c.cost_usd))).scalar_one() or Decimal(0)

    def call(self, call_id: str) -> Any:
        from paddock_mlflow.database import calls

        with self.engine.connect() as connection:
            return connection.execute(select(calls).where(calls.c.call_id == call_id)).one_or_none()

    def count(self, table: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    def shift(self, table: Any, column: str, seconds: float) -> None:
        """Move a moment of every row of a table by so many seconds."""
        moments = table.c[column]
        identity = next(iter(table.primary_key.columns))
        with self.engine.begin() as connection:
            for key, moment in connection.execute(select(identity, moments)).all():
                if moment is not None:
                    moved = {column: moment + timedelta(seconds=seconds)}
                    connection.execute(update(table).where(identity == key).values(**moved))


def user(name: str = "ada") -> Any:
    from paddock_mlflow.ledger.types import UserCredential

    return UserCredential(name)


async def admission(ledger: Any, credential: Any = None, **values: Any) -> Any:
    """An admission of a call of `ada` to `coder` that costs 0.35 USD at most."""
    from paddock_mlflow.ledger.types import Admission

    given: dict[str, Any] = {
        "call_id": secrets.token_hex(8),
        "credential": credential or user(),
        "endpoint_id": "e-coder",
        "endpoint_name": "coder",
        "tokens": 100,
        "bound": Decimal("0.35"),
        "lease_seconds": 60.0,
    }
    given |= values
    if "config_version" not in given:
        given["config_version"] = await ledger.config_version()
    return Admission(**given)


def settlement(call_id: str, cost: str | None = "0.35", **values: Any) -> Any:
    from paddock_mlflow.ledger.types import Outcome, Settlement

    given: dict[str, Any] = {"outcome": Outcome.OK} | values
    return Settlement(call_id, cost=None if cost is None else Decimal(cost), **given)


def later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
