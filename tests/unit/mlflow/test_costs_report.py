"""The report of costs: sums of the ledger by group, over both databases, for administrators alone."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from identities import ADMIN
from sqlalchemy import text

DAY = datetime(2026, 3, 10, 12, tzinfo=UTC)
PATH = "/api/3.0/paddock/costs"


def call(number: int, **changed: Any) -> dict[str, Any]:
    """A row of the ledger."""
    return {
        "call_id": f"call-{number}",
        "started_at": DAY,
        "ended_at": DAY,
        "endpoint_id": "e-1",
        "endpoint_name": "coder",
        "workspace": "default",
        "username": "ada",
        "key_id": "pk_ada",
        "run_id": None,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "outcome": "ok",
        "status": 200,
        "attempts": 1,
        "reserved_usd": Decimal(1),
        "cost_usd": Decimal("0.1234567891"),
        "reserved_tokens": 10,
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_read_tokens": 50,
        "cache_write_tokens": 5,
        "reasoning_tokens": 7,
        "lease_until": DAY,
    } | changed


CALLS = [
    *(call(number) for number in range(3)),
    call(3, username="bob", key_id=None, run_id="run-1", model="gpt-4o", cost_usd=Decimal(2)),
    call(4, endpoint_name="judge", outcome="error", cost_usd=Decimal(0), provider="", model=""),
    call(5, outcome="abandoned", cost_usd=Decimal("0.5"), started_at=DAY - timedelta(days=1)),
    # The last microsecond of a day, in UTC.
    call(6, outcome="expired", cost_usd=Decimal("0.25"), started_at=datetime(2026, 3, 8, 23, 59, 59, 999999, UTC)),
    call(7, outcome="", ended_at=None, cost_usd=None),
    call(8, started_at=DAY - timedelta(days=30), cost_usd=Decimal(100)),
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def report(request: pytest.FixtureRequest, server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`costs` over a database with CALLS in it and one refused call's trace."""
    from paddock_mlflow.admin_api import costs
    from paddock_mlflow.database import calls, engine, keys, now, usage_outbox
    from paddock_mlflow.usage_spans import encode
    from paddock_mlflow.usage_traces import UsageTraces

    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    monkeypatch.setattr(costs, "load", lambda: SimpleNamespace(tracking_database=url))
    refused = {
        "v": 1, "call_id": "refused", "endpoint_id": "e-1", "endpoint_name": "coder", "experiment_id": "88",
        "protocol": "openai_chat", "request_type": "unified/chat", "username": "ada", "key_id": "pk_ada",
        "start_ns": int(DAY.timestamp() * 1e9), "end_ns": int(DAY.timestamp() * 1e9), "request": {"messages": []},
        "status": 429, "error": {"type": "insufficient_quota", "message": "spent"}, "attempts": [],
    }  # fmt: skip
    if request.param == "postgresql":
        # Where another day begins at UTC's noon, so that a session's own days would show.
        with engine(url).begin() as connection:
            connection.execute(
                text(f"ALTER DATABASE {engine(url).url.database} SET TimeZone TO 'Etc/GMT-12'")
            )
        engine(url).dispose()
    with engine(url).begin() as connection:
        for table in ("paddock_usage_outbox", "spans", "trace_request_metadata", "trace_tags", "trace_info"):
            connection.execute(text(f"DELETE FROM {table}"))
        connection.execute(
            text(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
                " VALUES (88, 'gateway/coder', 'mlflow-artifacts:/88', 'active') ON CONFLICT DO NOTHING"
            )
        )
        connection.execute(calls.delete())
        connection.execute(keys.delete())
        connection.execute(calls.insert(), CALLS)
        connection.execute(
            keys.insert().values(
                id="pk_ada",
                sha256=b"\0" * 32,
                username="ada",
                name="laptop",
                created_at=DAY,
                created_by="admin",
            )
        )
        # Stopped by a guardrail: in the ledger, and so no refused one.
        stopped = refused | {"call_id": "5" * 32}
        connection.execute(calls.update().where(calls.c.call_id == "call-4").values(call_id="5" * 32))
        outbox = [encode(refused), encode(stopped), b"unreadable"]
        rows = [{"experiment_id": "88", "record": record, "created_at": now()} for record in outbox]
        connection.execute(usage_outbox.insert(), rows)
    assert UsageTraces(url).tick() == 2

    def ask(by: str) -> dict[str, Any]:
        return costs.costs(costs.By(by), DAY - timedelta(days=7), DAY + timedelta(hours=1))

    return ask


def figures(answer: dict[str, Any], *names: str) -> dict[str, tuple[Any, ...]]:
    return {group["group"]: tuple(group[name] for name in names) for group in answer["groups"]}


def test_by_endpoint(report: Any) -> None:
    answer = report("endpoint")
    assert figures(answer, "calls", "failed", "broken_off", "refused", "in_flight", "cost_usd") == {
        "coder": (7, 0, 2, 1, 1, "3.1203703673"),
        "judge": (1, 1, 0, 0, 0, "0.0000000000"),
    }
    # 3 × 0.1234567891 + 2 + 0.5 + 0.25, to the last place.
    total = answer["total"]
    assert (total["calls"], total["cost_usd"]) == (8, "3.1203703673")
    assert (total["input_tokens"], total["output_tokens"]) == (800, 160)
    tokens = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    assert tuple(total[name] for name in tokens) == (400, 40, 56)
    assert answer["usage_traces"] == {"waiting": 0, "set_aside": 1}


def test_by_day_in_utc(report: Any) -> None:
    days = {"2026-03-08": (1, 0), "2026-03-09": (1, 0), "2026-03-10": (6, 1)}
    answer = report("day")
    assert figures(answer, "calls", "refused") == days
    assert [group["group"] for group in answer["groups"]] == sorted(days)


def test_by_key(report: Any) -> None:
    answer = report("key")
    assert figures(answer, "calls", "refused") == {"pk_ada": (7, 1), "": (1, 0)}
    assert {group["label"] for group in answer["groups"]} == {"laptop (pk_ada)", ""}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("user", {"bob": (1, 0), "ada": (7, 1)}),
        ("run", {"run-1": (1, 0), "": (7, 1)}),
        ("model", {"openai/gpt-4o": (1, 0), "openai/gpt-4o-mini": (6, 0), "": (1, 1)}),
    ],
)
def test_by_the_rest(report: Any, by: str, expected: dict[str, tuple[int, int]]) -> None:
    answer = report(by)
    assert figures(answer, "calls", "refused") == expected
    costs = [Decimal(group["cost_usd"]) for group in answer["groups"]]
    assert costs == sorted(costs, reverse=True)


class TestRoute:
    def test_for_administrators_alone(self, server: Any) -> None:
        assert server.http.get(PATH).status_code == 401
        user = ("agent", "a-password-that-nobody-uses")
        assert server.http.get(PATH, auth=user).status_code == 403
        answer = server.http.get(PATH, auth=ADMIN)
        assert answer.status_code == 200, answer.text
        assert answer.json()["by"] == "endpoint"

    @pytest.mark.parametrize(
        ("parameters", "status", "said"),
        [
            ({"by": "weather"}, 422, "endpoint"),
            ({"since": "yesterday"}, 422, "since"),
            ({"since": "2026-01-01T00:00:00"}, 422, "timezone"),
            (
                {"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
                400,
                "since to be before until",
            ),
        ],
    )
    def test_bad_questions(self, server: Any, parameters: dict[str, str], status: int, said: str) -> None:
        answer = server.http.get(PATH, params=parameters, auth=ADMIN)
        assert answer.status_code == status
        assert said in answer.text
