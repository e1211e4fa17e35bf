"""MLflow's view of budgets: its own pages and webhooks, on the ledger's numbers.

Upstream keeps spend in each worker's memory, reads policies anew after a while, and checks before a call what is counted
after it (mlflow.gateway.budget_tracker.in_memory): four workers let 21 of 24 calls of a spent budget pass. Here the
ledger decides (`ledger.types.Ledger.admit`), and what MLflow asks its tracker for is read from the same tables.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from mlflow.entities.gateway_budget_policy import BudgetAction, GatewayBudgetPolicy
from mlflow.gateway import budget_tracker
from mlflow.gateway.budget import fire_budget_exceeded_webhooks
from mlflow.gateway.budget_tracker import BudgetTracker, BudgetWindow
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.tracking.dbmodels.models import SqlGatewayBudgetPolicy
from sqlalchemy import ColumnElement, Connection, func, insert, select, true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from paddock_mlflow.database import alerts, budget_windows, calls, engine, now
from paddock_mlflow.ledger.windows import bounds
from paddock_mlflow.settings import Settings

_logger = logging.getLogger(__name__)

LATE_SECONDS = 60
"""So long after a window's end it still raises its alert: its last second counts too."""


@dataclass(frozen=True)
class Window:
    """A policy's window and what its calls cost, in USD."""

    policy: GatewayBudgetPolicy
    start: datetime
    end: datetime
    spent: Decimal

    @property
    def exceeded(self) -> bool:
        """As upstream: at the limit is beyond it."""
        return self.spent >= Decimal(repr(self.policy.budget_amount))

    def to_mlflow(self) -> BudgetWindow:
        return BudgetWindow(self.policy, self.start, self.end, float(self.spent), self.exceeded)


def windows_at(url: str, at: datetime) -> list[Window]:
    """Every policy's window that a moment lies in, as the ledger counts it.

    Args:
        url: SQLAlchemy's URL of the tracking database.
        at: any moment up to now, with its time zone.
    """
    with Session(engine(url)) as session:
        policies = [row.to_mlflow_entity() for row in session.scalars(select(SqlGatewayBudgetPolicy))]
        connection = session.connection()
        kept = {
            (row.policy_id, row.window_start, row.window_end, row.subject): row.spent
            for row in connection.execute(
                select(budget_windows).where(
                    budget_windows.c.window_start <= at, budget_windows.c.window_end > at
                )
            )
        }
        found = []
        for policy in policies:
            start, end = bounds(policy.duration.unit.value, policy.duration.value, at)
            spent = kept.get((policy.budget_policy_id, start, end, subject(policy)))
            if spent is None:
                # No call since the policy was made or edited.
                spent = _add_up(connection, policy, start, end)
            found.append(Window(policy, start, end, spent))
        return found


def subject(policy: GatewayBudgetPolicy) -> str:
    """Whose calls a policy counts, in the words of `budget_windows.subject`."""
    scope = policy.target_scope.value
    if scope == "GLOBAL":
        return "all"
    return f"{scope.lower()}:{policy.workspace if scope == 'WORKSPACE' else policy.target_value}"


def _add_up(connection: Connection, policy: GatewayBudgetPolicy, start: datetime, end: datetime) -> Decimal:
    applies: dict[str, ColumnElement[bool]] = {
        "GLOBAL": true(),
        "WORKSPACE": calls.c.workspace == policy.workspace,
        "ENDPOINT": calls.c.endpoint_id == policy.target_value,
        "USER": calls.c.username == policy.target_value,
    }
    inside = (calls.c.started_at >= start, calls.c.started_at < end)
    total = select(func.sum(calls.c.cost_usd)).where(*inside, applies[policy.target_scope.value])
    return connection.execute(total).scalar_one() or Decimal(0)


class LedgerBudgets(BudgetTracker):
    """Answers what MLflow's handlers ask; counts and refuses nothing itself."""

    def __init__(self, url: str) -> None:
        self._url = url

    def needs_refresh(self) -> bool:
        return False

    def refresh_policies(self, policies: list[GatewayBudgetPolicy]) -> list[BudgetWindow]:
        return []

    def record_cost(
        self,
        cost_usd: float,
        workspace: str | None = None,
        endpoint_id: str | None = None,
        username: str | None = None,
    ) -> list[BudgetWindow]:
        return []

    def should_reject_request(
        self, workspace: str | None = None, endpoint_id: str | None = None, username: str | None = None
    ) -> tuple[bool, BudgetWindow | None]:
        return False, None

    def backfill_spend(self, spend_by_policy: dict[str, float]) -> None:
        return None

    def get_all_windows(self) -> list[BudgetWindow]:
        return [window.to_mlflow() for window in windows_at(self._url, now())]

    def _get_window_info(self, budget_policy_id: str) -> BudgetWindow | None:
        found = (
            window for window in self.get_all_windows() if window.policy.budget_policy_id == budget_policy_id
        )
        return next(found, None)


def install(settings: Settings) -> None:
    """Make the ledger what MLflow asks about budgets, in this process."""
    budget_tracker._budget_tracker = LedgerBudgets(settings.tracking_database)


class AlertTick:
    """Fires MLflow's webhook `budget_policy.exceeded`, and writes a line, for each ALERT policy that is at its limit.

    Once a policy and window, over any number of processes and restarts, and for a policy that is at it from the start.

    Args:
        url: SQLAlchemy's URL of the tracking database.
        registry: the store that knows the webhooks.
    """

    def __init__(self, url: str, registry: AbstractStore) -> None:
        self._url = url
        self._registry = registry

    def tick(self) -> int:
        """Look at the present windows and those that ended a moment ago; returns how many alerts were fired."""
        moment = now()
        # Of the moment a minute ago: windows that ended since, by policies that are as old.
        earlier = moment - timedelta(seconds=LATE_SECONDS)
        ended = [
            window
            for window in windows_at(self._url, earlier)
            if window.end <= moment and (window.policy.created_at or 0) < window.end.timestamp() * 1000
        ]
        return sum(
            self._fire(window)
            for window in [*ended, *windows_at(self._url, moment)]
            if window.policy.budget_action == BudgetAction.ALERT and window.exceeded
        )

    def _fire(self, window: Window) -> bool:
        policy = window.policy
        row = {"policy_id": policy.budget_policy_id, "window_start": window.start, "fired_at": now()}
        with engine(self._url).connect() as connection:
            known = select(alerts.c.policy_id).where(
                alerts.c.policy_id == policy.budget_policy_id, alerts.c.window_start == window.start
            )
            if connection.execute(known).first():
                return False
        try:
            # Handed over before it is committed: a process that dies in between leaves the alert to the next one.
            with engine(self._url).begin() as connection:
                connection.execute(insert(alerts).values(**row))
                _logger.warning(
                    "budget %s (%s) is exceeded: %s of %s USD since %s",
                    policy.budget_policy_id,
                    subject(policy),
                    window.spent,
                    policy.budget_amount,
                    window.start.isoformat(),
                )
                fire_budget_exceeded_webhooks([window.to_mlflow()], None, self._registry)
        except IntegrityError:
            return False
        return True
