"""The ledger in PostgreSQL: one function, one round trip, one transaction for each question (functions.sql).

The connections are asyncpg's and apart from SQLAlchemy's, so no call waits for a query of the UI.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import asyncpg
import orjson
from sqlalchemy import make_url

from paddock_mlflow.database import usd
from paddock_mlflow.ledger.errors import LedgerUnavailable
from paddock_mlflow.ledger.settlements import Settlements
from paddock_mlflow.ledger.types import (
    Admission,
    Admitted,
    KeyCredential,
    Outcome,
    Refused,
    Settlement,
    StaleConfiguration,
    UserCredential,
)
from paddock_mlflow.ledger.verdicts import BUDGETS, Verdict, answer, refusal

_logger = logging.getLogger(__name__)

CONNECTIONS = 6
"""A worker's. More would only wait for each other at the budget's row."""

OPEN = 10_000
"""Calls in flight above which those are forgotten whose lease has run out."""

CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 10.0
CLOSE_SECONDS = 10.0

_ADMIT = "SELECT * FROM paddock_admit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_EXTEND = "SELECT * FROM paddock_extend($1, $2)"
_SETTLE = "SELECT paddock_settle($1, $2)"
_UNKNOWN = "SELECT array_agg(x) FROM unnest($1::text[]) x WHERE NOT EXISTS (SELECT FROM paddock_calls WHERE call_id = x)"
_RESTORE = "SELECT paddock_restore($1, $2, $3, $4, $5, $6, $7)"
_EXPIRE = "SELECT paddock_expire()"
_NOTE = (
    "INSERT INTO paddock_usage_outbox (experiment_id, record, created_at) VALUES ($1, $2, clock_timestamp())"
)
_VERSION = "SELECT version FROM paddock_config_version"


class PostgresLedger:
    """See `ledger.types.Ledger`.

    Args:
        url: SQLAlchemy's URL of the tracking database.
    """

    def __init__(self, url: str) -> None:
        self._connections = Connections(
            make_url(url).set(drivername="postgresql").render_as_string(hide_password=False), CONNECTIONS
        )
        self._settlements = Settlements(self._write)
        self._open: dict[str, _Open] = {}

    async def admit(self, admission: Admission) -> Admitted | Refused | StaleConfiguration:
        credential = admission.credential
        arguments = (
            admission.call_id,
            credential.sha256 if isinstance(credential, KeyCredential) else None,
            isinstance(credential, KeyCredential) and credential.opens_run_keys,
            credential.username if isinstance(credential, UserCredential) else None,
            admission.endpoint_id,
            admission.endpoint_name,
            admission.tokens,
            None if admission.bound is None else usd(admission.bound),
            admission.lease_seconds,
            admission.config_version,
            admission.unpriced,
        )
        swept = False
        while True:
            try:
                row = await self._connections.row(_ADMIT, *arguments)
            except BaseException:
                # It may have been admitted all the same: give back what it may have reserved.
                self._give_back(admission.call_id)
                raise
            verdict = Verdict(**row)
            if verdict.verdict == "again":
                continue
            if verdict.verdict in BUDGETS and verdict.some_expired and not swept:
                # Calls of a dead server stand in the way, and nobody has swept them up yet.
                swept = True
                await self.expire()
                continue
            answered = answer(verdict, admission)
            if isinstance(answered, Admitted):
                if len(self._open) >= OPEN:
                    self._open = {key: known for key, known in self._open.items() if not known.is_over()}
                self._open[admission.call_id] = _Open(admission, answered, time.monotonic())
            return answered

    async def extend(self, call_id: str, amount: Decimal) -> Refused | None:
        row = dict(await self._connections.row(_EXTEND, call_id, usd(amount)))
        endpoint_name = row.pop("endpoint_name") or ""
        if row["verdict"] == "admitted":
            return None
        return refusal(Verdict(**row), endpoint_name)

    async def settle(self, settlement: Settlement) -> None:
        await self._settlements.add(settlement)

    async def note(self, experiment_id: str, record: bytes) -> None:
        await self._connections.value(_NOTE, experiment_id, record)

    async def config_version(self) -> int:
        return int(await self._connections.value(_VERSION))

    async def expire(self) -> int:
        """Charge calls whose lease has run out their bound; returns how many there were."""
        return int(await self._connections.value(_EXPIRE))

    async def close(self) -> None:
        await self._settlements.close(CLOSE_SECONDS)
        await self._connections.close()

    def _give_back(self, call_id: str) -> None:
        try:
            self._settlements.add_later(
                Settlement(call_id, Outcome.ERROR, Decimal(0), status=503, attempts=0)
            )
        except LedgerUnavailable as error:
            _logger.warning("call %s: %s", call_id, error)

    async def _write(self, batch: Sequence[Settlement]) -> None:
        settled = await self._settled(batch)
        if settled != len(batch):
            lost = await self._restore(batch)
            settled += await self._settled(lost) if lost else 0
        if settled != len(batch):
            _logger.debug("%d of %d settlement(s) were settled before", len(batch) - settled, len(batch))
        for one in batch:
            self._open.pop(one.call_id, None)

    async def _settled(self, batch: Sequence[Settlement]) -> int:
        settlements = orjson.dumps([_as_json(one) for one in batch]).decode()
        return int(await self._connections.value(_SETTLE, settlements, [one.record for one in batch]))

    async def _restore(self, batch: Sequence[Settlement]) -> list[Settlement]:
        """Write the admissions down again that a dying PostgreSQL forgot; returns what is to be settled of them."""
        unknown = await self._connections.value(_UNKNOWN, [one.call_id for one in batch]) or []
        lost = [one for one in batch if one.call_id in unknown and one.call_id in self._open]
        for settlement in lost:
            known = self._open[settlement.call_id]
            await self._connections.value(
                _RESTORE,
                settlement.call_id,
                time.monotonic() - known.since,
                known.admission.endpoint_id,
                known.admission.endpoint_name,
                known.admitted.username,
                known.admitted.key_id,
                known.admitted.run_id,
            )
            _logger.warning("call %s: PostgreSQL had forgotten its admission", settlement.call_id)
        return [
            replace(one, cost=self._open[one.call_id].admission.bound) if one.cost is None else one
            for one in lost
        ]


@dataclass(frozen=True)
class _Open:
    """A call that was admitted here and is not settled yet. `since` is time.monotonic()'s."""

    admission: Admission
    admitted: Admitted
    since: float

    def is_over(self) -> bool:
        """Whether its lease has run out."""
        return time.monotonic() - self.since > self.admission.lease_seconds


def _as_json(settlement: Settlement) -> dict[str, Any]:
    usage = settlement.usage
    return {
        "call_id": settlement.call_id,
        "outcome": settlement.outcome,
        "cost": None if settlement.cost is None else str(usd(settlement.cost)),
        "provider": settlement.provider[:64],
        "model": settlement.model[:255],
        "status": settlement.status,
        "attempts": settlement.attempts,
        "experiment_id": settlement.experiment_id,
        "input": usage.input,
        "output": usage.output,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "reasoning": usage.reasoning,
    }


class Connections:
    """A few connections of one event loop, the last used first; made when they are needed.

    asyncpg's own pool resets a connection each time it comes back, a round trip that these autocommitted calls of
    functions have no use for.
    """

    def __init__(self, dsn: str, size: int) -> None:
        self._dsn = dsn
        self._size = size
        self._free: list[asyncpg.Connection] = []
        self._places: asyncio.Semaphore | None = None

    async def row(self, statement: str, *arguments: object) -> asyncpg.Record:
        """The first row of a statement's result."""
        return await self._run("fetchrow", statement, arguments)

    async def value(self, statement: str, *arguments: object) -> Any:
        """The first value of a statement's result."""
        return await self._run("fetchval", statement, arguments)

    async def close(self) -> None:
        """Close what is not in use."""
        while self._free:
            connection = self._free.pop()
            try:
                await connection.close(timeout=2)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    async def _run(self, method: str, statement: str, arguments: tuple[object, ...]) -> Any:
        if self._places is None:
            self._places = asyncio.Semaphore(self._size)
        async with self._places:
            connection = None
            try:
                connection = await self._take()
                result = await getattr(connection, method)(statement, *arguments, timeout=STATEMENT_SECONDS)
            except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
                if connection is not None:
                    connection.terminate()
                raise _unavailable(error) from error
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
                # The fault of what was sent, not of the database.
                self._free.append(connection)
                raise
            except asyncpg.PostgresError as error:
                if connection is not None:
                    self._free.append(connection)
                raise _unavailable(error) from error
            except BaseException:
                # Cancelled in mid-statement: what the connection is in the middle of, nobody knows.
                if connection is not None:
                    connection.terminate()
                raise
            self._free.append(connection)
            return result

    async def _take(self) -> asyncpg.Connection:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        return await asyncpg.connect(
            self._dsn,
            timeout=CONNECT_SECONDS,
            server_settings={
                "application_name": "paddock-ledger",
                "jit": "off",
                # The statements never change: a plan for any value is the plan.
                "plan_cache_mode": "force_generic_plan",
                # And it is made while the tables are empty, when reading them whole looks cheapest; they grow.
                "enable_seqscan": "off",
                "statement_timeout": str(int(STATEMENT_SECONDS * 1000)),
                "timezone": "UTC",
            },
        )


def _unavailable(error: BaseException) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"expected the ledger's database to answer, found {type(error).__name__}: {error};"
        " look at PostgreSQL's log, and whether `mlflow-migrate` has run"
    )
