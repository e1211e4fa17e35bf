"""What MLflow's pages and webhooks say about budgets: the ledger's numbers."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from identities import ADMIN
from ledgers import Books, admission, settlement, user

# An explicit path, since every other module of this folder may have its own server's environment set.
pytestmark = pytest.mark.usefixtures("settings_environment")


@pytest.fixture(params=["postgres_url", "sqlite_url"])
def books(request: pytest.FixtureRequest) -> Books:
    made = Books(request.getfixturevalue(request.param))
    made.clear()
    return made


def spend(books: Books, cost: str, **values: Any) -> None:
    async def work(ledger: Any) -> None:
        asked = await admission(ledger, **values)
        await ledger.admit(asked)
        await ledger.settle(settlement(asked.call_id, cost))

    books.run(work)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver of webhooks: its URL, and what it got."""
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    bodies: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}/", bodies
    listener.shutdown()


@pytest.fixture
def registry(books: Books, received: tuple[str, list[dict[str, Any]]]) -> Any:
    """The store of webhooks in the ledger's database, with one for exceeded budgets."""
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from mlflow.webhooks import delivery
    from sqlalchemy import text

    with books.engine.begin() as connection:
        connection.execute(text("DELETE FROM webhook_events"))
        connection.execute(text("DELETE FROM webhooks"))
    delivery._webhook_cache = None
    store = SqlAlchemyStore(books.url)
    event = WebhookEvent(WebhookEntity.BUDGET_POLICY, WebhookAction.EXCEEDED)
    store.create_webhook("alerts", received[0], [event])
    return store


def wait_for_deliveries() -> None:
    """Until what was handed over is sent."""
    from concurrent.futures import wait

    from mlflow.webhooks import delivery

    executor = delivery._webhook_delivery_executor
    # Each of the executor's threads comes here after what it had to do before.
    barrier = threading.Barrier(executor._max_workers)
    done, late = wait([executor.submit(barrier.wait, 20) for _ in range(executor._max_workers)], timeout=30)
    assert not late and all(one.exception() is None for one in done)


def test_the_windows_are_the_ledger_s(books: Books) -> None:
    from paddock_mlflow.budgets import LedgerBudgets

    everyone = books.policy(1)
    spend(books, "0.1234")
    later = books.policy(3, scope="USER", target="ada", unit="MONTHS")
    bob = books.policy(3, scope="USER", target="bob")
    workspace = books.policy(3, scope="WORKSPACE", unit="WEEKS")
    endpoint = books.policy(3, scope="ENDPOINT", target="e-coder", unit="HOURS")
    tracker = LedgerBudgets(books.url)
    told = {w.policy.budget_policy_id: w for w in tracker.get_all_windows()}
    assert {policy: told[policy].cumulative_spend for policy in told} == {
        everyone: 0.1234, later: 0.1234, bob: 0.0, workspace: 0.1234, endpoint: 0.1234,
    }  # fmt: skip
    assert told[everyone].window_end - told[everyone].window_start == timedelta(days=1)

    # At once, without any refresh: an edit to another span, a delete, one more call.
    books.edit_policy(everyone, duration_unit="HOURS", duration_value=2)
    books.delete_policy(bob)
    spend(books, "1")
    told = {w.policy.budget_policy_id: w for w in tracker.get_all_windows()}
    assert told.keys() == {everyone, later, workspace, endpoint}
    assert told[everyone].window_end - told[everyone].window_start == timedelta(hours=2)
    assert told[everyone].cumulative_spend == 1.1234
    assert told[everyone].exceeded
    assert tracker._get_window_info(later).cumulative_spend == 1.1234
    assert tracker._get_window_info("unknown") is None


def test_the_tracker_itself_decides_nothing(books: Books) -> None:
    from paddock_mlflow.budgets import LedgerBudgets

    policy = books.policy(0.1)
    spend(books, "0.1", bound=Decimal("0.1"))
    tracker = LedgerBudgets(books.url)
    assert not tracker.needs_refresh()
    assert tracker.record_cost(5.0) == []
    assert tracker.should_reject_request() == (False, None)
    assert books.window(policy) == (Decimal("0.1"), Decimal(0))


def test_an_alert_fires_once_a_window(
    books: Books, registry: Any, received: tuple[str, list[dict[str, Any]]]
) -> None:
    from paddock_mlflow.budgets import AlertTick

    watch = books.policy(0.5, action="ALERT")
    reject = books.policy(5)
    tick = AlertTick(books.url, registry)
    spend(books, "0.3")
    assert tick.tick() == 0
    spend(books, "0.2")
    # Two processes at once, then one that was started anew.
    fired: list[int] = []
    together = [
        threading.Thread(target=lambda: fired.append(AlertTick(books.url, registry).tick())) for _ in range(2)
    ]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert sorted(fired) == [0, 1]
    spend(books, "0.3")
    assert AlertTick(books.url, registry).tick() == 0

    already = books.policy(0.1, action="ALERT", scope="USER", target="ada")
    assert tick.tick() == 1
    assert tick.tick() == 0
    wait_for_deliveries()
    told = {body["data"]["budget_policy_id"]: body["data"] for body in received[1]}
    assert len(received[1]) == 2
    assert {policy: data["current_spend"] for policy, data in told.items()} == {watch: 0.5, already: 0.8}
    assert reject not in told
    assert told[already]["target_value"] == "ada"


def test_the_next_window_has_an_alert_of_its_own(books: Books, registry: Any) -> None:
    from sqlalchemy import update

    from paddock_mlflow.budgets import AlertTick
    from paddock_mlflow.database import alerts

    books.policy(0.5, action="ALERT")
    spend(books, "0.5")
    tick = AlertTick(books.url, registry)
    assert tick.tick() == 1
    with books.engine.begin() as connection:
        moved = update(alerts).values(window_start=datetime(2020, 1, 1, tzinfo=UTC))
        connection.execute(moved)
    assert tick.tick() == 1


def test_a_failing_webhook_leaves_the_alert_to_the_next_look(
    books: Books, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_mlflow import budgets

    books.policy(0.5, action="ALERT")
    spend(books, "0.5")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(budgets, "fire_budget_exceeded_webhooks", dies)
        with pytest.raises(KeyboardInterrupt):
            budgets.AlertTick(books.url, registry).tick()
    assert budgets.AlertTick(books.url, registry).tick() == 1


def test_the_page_of_budgets_shows_the_ledger(server: Any, settings_environment: Any) -> None:
    """By MLflow's own route, on the application as it is served."""
    books = Books(f"sqlite:///{settings_environment}/mlflow.db")
    body = {
        "budget_unit": "USD",
        "budget_amount": 2.0,
        "duration": {"unit": "DAYS", "value": 1},
        "target_scope": "USER",
        "target_value": "page",
        "budget_action": "REJECT",
    }
    gateway = "/api/3.0/mlflow/gateway/budgets"
    made = server.http.post(f"{gateway}/create", json=body, auth=ADMIN).json()["budget_policy"]
    policy = made["budget_policy_id"]

    def shown() -> float | None:
        windows = server.http.get(f"{gateway}/windows", auth=ADMIN).json().get("windows", [])
        return next((w.get("current_spend", 0.0) for w in windows if w["budget_policy_id"] == policy), None)

    assert shown() == 0.0
    spend(books, "0.25", credential=user("page"))
    assert shown() == float(books.window(policy)[0]) == 0.25
    changed = {"budget_policy_id": policy, "target_value": "nobody", "target_scope": "USER"}
    assert server.http.post(f"{gateway}/update", json=changed, auth=ADMIN).status_code == 200
    assert shown() == 0.0
    deleted = server.http.request(
        "DELETE", f"{gateway}/delete", json={"budget_policy_id": policy}, auth=ADMIN
    )
    assert deleted.status_code == 200
    assert shown() is None
