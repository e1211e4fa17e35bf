"""The span of time that a budget counts in."""

from datetime import UTC, datetime

from mlflow.entities.gateway_budget_policy import BudgetDuration, BudgetDurationUnit
from mlflow.gateway.budget_tracker import _compute_window_end, _compute_window_start

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)


def bounds(unit: str | None, count: int, at: datetime) -> tuple[datetime, datetime]:
    """First moment of the window that `at` lies in, and first moment after it: aligned to the calendar in UTC by MLflow's
    own rules. No unit is a window without end.
    """
    if unit is None:
        return BEGINNING, END
    duration = BudgetDuration(BudgetDurationUnit(unit), count)
    start = _compute_window_start(duration, at)
    return start, _compute_window_end(duration, start)
