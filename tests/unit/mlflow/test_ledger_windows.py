"""Windows of budgets: the SQL is MLflow's own rule."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import create_engine, text

EDGES = [
    datetime(2024, 2, 29, 23, 59, 59, 999999, UTC),
    datetime(2024, 3, 1, tzinfo=UTC),
    datetime(2024, 12, 31, 23, 59, 59, 999999, UTC),
    datetime(2025, 1, 1, tzinfo=UTC),
    # A Sunday, and the moment before it.
    datetime(2025, 11, 30, tzinfo=UTC),
    datetime(2025, 11, 29, 23, 59, 59, 999999, UTC),
    # Where the clocks of Europe and America change.
    datetime(2025, 3, 30, 1, 30, tzinfo=UTC),
    datetime(2025, 11, 2, 6, 30, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
]
UNITS = ["MINUTES", "HOURS", "DAYS", "WEEKS", "MONTHS"]


def test_sql_and_mlflow_agree_on_every_window(settings_environment: Any, postgres_url: str) -> None:
    from mlflow.entities.gateway_budget_policy import BudgetDuration, BudgetDurationUnit
    from mlflow.gateway.budget_tracker import _compute_window_end, _compute_window_start

    choice = random.Random(7)
    span = int(timedelta(days=365 * 80).total_seconds() * 1e6)
    moments = EDGES + [EDGES[-1] + timedelta(microseconds=choice.randrange(span)) for _ in range(300)]
    cases = [(unit, choice.randint(1, 40), at) for at in moments for unit in UNITS]
    cases += [(unit, 1, at) for at in EDGES for unit in UNITS]
    database = create_engine(postgres_url)
    with database.connect() as connection:
        # The server's own zone must not matter: this one has a day of 25 hours.
        connection.execute(text("SET TIME ZONE 'America/New_York'"))
        asked = text(
            "SELECT paddock_window_start(u, c, a), paddock_window_end(u, c, paddock_window_start(u, c, a))"
            " FROM unnest(CAST(:units AS text[]), CAST(:counts AS int[]), CAST(:moments AS timestamptz[]))"
            " WITH ORDINALITY AS x (u, c, a, place) ORDER BY place"
        )
        units, counts, at = map(list, zip(*cases, strict=True))
        rows = connection.execute(asked, {"units": units, "counts": counts, "moments": at}).all()
    database.dispose()
    assert len(rows) == len(cases)
    for (unit, count, moment), (start, end) in zip(cases, rows, strict=True):
        duration = BudgetDuration(BudgetDurationUnit(unit), count)
        expected = _compute_window_start(duration, moment)
        assert start == expected, (unit, count, moment)
        assert end == _compute_window_end(duration, expected), (unit, count, moment)
        assert start <= moment < end


def test_policies_match_as_mlflow_matches_them(settings_environment: Any, postgres_url: str) -> None:
    """Every scope against every caller, by the SQL and by `_policy_applies`."""
    from ledgers import Books
    from mlflow.gateway.budget_tracker import _policy_applies
    from mlflow.store.tracking.dbmodels.models import SqlGatewayBudgetPolicy
    from sqlalchemy.orm import Session

    books = Books(postgres_url)
    for scope in ("GLOBAL", "WORKSPACE", "ENDPOINT", "USER"):
        for target in (None, "ada", "e-1", ""):
            for workspace in ("default", "ada"):
                books.policy(1, scope=scope, target=target, workspace=workspace)
    with Session(books.engine) as session:
        policies = [row.to_mlflow_entity() for row in session.query(SqlGatewayBudgetPolicy)]
        for endpoint, workspace, username in (
            ("e-1", "default", "ada"), ("ada", "ada", "e-1"), ("e-2", "default", "bob"), ("all", "all", "all"),
        ):  # fmt: skip
            found = session.execute(
                text("SELECT policy_id FROM paddock_policies(paddock_subjects(:e, :w, :u, NULL), now())"),
                {"e": endpoint, "w": workspace, "u": username},
            )
            expected = {
                policy.budget_policy_id
                for policy in policies
                if _policy_applies(policy, workspace, endpoint, username)
            }
            assert {row.policy_id for row in found} == expected
