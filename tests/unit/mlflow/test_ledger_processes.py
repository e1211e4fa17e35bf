"""The ledger under several servers at once, and under those that die."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from ledgers import Books, admission, settlement
from postgres import ROOT, PostgresServer

CALLER = Path(__file__).with_name("ledger_caller.py")
BOTH = ["postgres_url", "sqlite_url"]


@pytest.fixture(params=BOTH)
def books(request: pytest.FixtureRequest) -> Books:
    made = Books(request.getfixturevalue(request.param))
    made.clear()
    return made


def start(books: Books, **given: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CALLER), json.dumps({"url": books.url} | given)],
        env={"PYTHONPATH": str(ROOT / "mlflow"), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> Counter[str]:
    """What all of them counted together."""
    total: Counter[str] = Counter()
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        total.update(json.loads(output))
    return total


def servers(books: Books) -> tuple[int, int, float]:
    """How many processes, callers in each, and seconds until all have started."""
    return (4, 8, 2.0) if books.url.startswith("postgres") else (2, 4, 4.0)


def test_four_servers_spend_a_budget_to_the_cent(books: Books) -> None:
    """15 calls of 0.35 USD fit into 5.25: exactly so many are made, by 32 callers at once, and not one more."""
    policy, ada = books.policy(5.25), books.policy(100, scope="USER", target="ada")
    processes, callers, lead = servers(books)
    begin = time.time() + lead
    total = finish(
        [start(books, callers=callers, bound="0.35", cost="0.35", begin=begin) for _ in range(processes)]
    )
    assert total["admitted"] == 15
    assert total["budget_exceeded"] == processes * callers
    assert books.spent() == Decimal("5.25")
    assert books.window(policy) == books.window(ada) == (Decimal("5.25"), Decimal(0))


def test_a_loose_bound_still_spends_to_within_one_call(postgres_url: str) -> None:
    books = Books(postgres_url)
    books.clear()
    books.policy(2)
    begin = time.time() + 2.0
    total = finish(
        [start(books, callers=8, bound="0.5", cost="0.011", begin=begin, seed=n) for n in range(2)]
    )
    assert total["admitted"] * Decimal("0.011") == books.spent()
    assert Decimal("1.5") < books.spent() <= Decimal(2)


def test_a_server_killed_in_mid_call_loses_no_money_and_blocks_nobody_for_long(books: Books) -> None:
    from paddock_mlflow.database import calls

    policy = books.policy(2)
    dying = start(books, callers=3, calls=1, bound="0.5", cost="0", lease=300, hold=True)
    assert dying.stdout is not None
    assert json.loads(dying.stdout.readline())["admitted"] == 3
    dying.kill()
    dying.wait()
    assert books.window(policy) == (Decimal(0), Decimal("1.5"))

    async def work(ledger: Any) -> None:
        # What the dead server reserved still counts ...
        refused = await ledger.admit(await admission(ledger, bound=Decimal(1)))
        assert refused.reason == "budget_reserved"
        # ... and is a cost as soon as its lease is over: what is left of the budget can be had then.
        books.shift(calls, "lease_until", -301)
        refused = await ledger.admit(await admission(ledger, bound=Decimal(1)))
        assert refused.reason == "budget_exceeded"
        asked = await admission(ledger, bound=Decimal("0.5"))
        assert (await ledger.admit(asked)).remaining == 0
        await ledger.settle(settlement(asked.call_id, "0.5"))

    books.run(work)
    assert books.window(policy) == (Decimal(2), Decimal(0))
    assert books.spent() == Decimal(2)


def test_a_rate_is_shared_by_all_servers(books: Books) -> None:
    books.limit("endpoint", "e-coder", requests=60)
    processes, callers, lead = servers(books)
    begin = time.time() + lead
    total = finish(
        [start(books, callers=callers, bound="0", cost="0", begin=begin) for _ in range(processes)]
    )
    assert total["request_rate"] == processes * callers
    # What was there at the start, and one more a second.
    assert 60 <= total["admitted"] <= 61 + time.time() - begin


def test_many_limits_at_once_never_deadlock_and_stay_true(postgres_url: str) -> None:
    """Users, endpoints, keys, edited policies, leases that run out: every window is its calls' sum at the end."""
    from sqlalchemy import select

    from paddock_mlflow.database import budget_windows, calls

    books = Books(postgres_url)
    books.clear()
    digests = [
        sha256(books.key(budget_usd=Decimal(3), tokens_per_minute=10_000)[0].encode()).hexdigest()
        for _ in range(3)
    ]
    policies = [
        books.policy(50, scope=scope, target=target, unit=unit)
        for scope, target in (("GLOBAL", None), ("USER", "ada"), ("USER", "bob"), ("ENDPOINT", "e-1"))
        for unit in ("DAYS", "MONTHS")
    ]
    books.limit("user", "ada", requests=100_000)
    books.limit("endpoint", "e-2", tokens=100_000)
    begin = time.time() + 2.0
    running = [
        start(
            books, callers=8, calls=25, bound="0.02", cost="0.0123456789", users=["ada", "bob"],
            endpoints=["e-1", "e-2"], keys=[None, *digests], begin=begin, seed=n, go_on=True, lease=0.01 * n,
        )
        for n in range(3)
    ]  # fmt: skip
    time.sleep(1.9)
    added = []
    while any(process.poll() is None for process in running):
        for policy in policies:
            books.edit_policy(policy, budget_amount=60.0)
        added.append(books.policy(50, scope="USER", target="bob", unit="HOURS"))
        time.sleep(0.1)
    total = finish(running)
    assert total["admitted"] > 400
    books.run(lambda ledger: ledger.expire())
    with books.engine.connect() as connection:
        windows = connection.execute(select(budget_windows)).all()
        rows = connection.execute(select(calls)).all()
    assert all(row.ended_at for row in rows)
    assert len(windows) > len(policies) + len(digests)
    for window in windows:
        subjects = [
            row.cost_usd
            for row in rows
            if window.subject
            in ("all", f"user:{row.username}", f"endpoint:{row.endpoint_id}", f"key:{row.key_id}")
            and window.window_start <= row.started_at < window.window_end
        ]
        assert (window.spent, window.reserved) == (sum(subjects), Decimal(0)), window.subject


def test_an_admission_that_is_given_up_reserves_nothing(sqlite_url: str) -> None:
    """The client leaves while the file is held by somebody else; the thread goes on and writes."""
    from sqlalchemy import text

    books = Books(sqlite_url)
    books.clear()
    policy = books.policy(5)

    async def work(ledger: Any) -> None:
        asked = await admission(ledger)
        with books.engine.connect() as other:
            other.execute(text("UPDATE paddock_config_version SET version = version"))
            task = asyncio.create_task(ledger.admit(asked))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        # Closing waits for what is to be given back.

    books.run(work)
    assert books.count("paddock_calls") == 1
    assert books.window(policy) == (Decimal(0), Decimal(0))


def test_an_admission_whose_answer_is_lost_reserves_nothing(postgres_url: str) -> None:
    """The connection breaks after PostgreSQL has committed and before it has said so."""
    from paddock_mlflow.ledger import LedgerUnavailable

    books = Books(postgres_url)
    books.clear()
    policy = books.policy(5)

    async def work(ledger: Any) -> None:
        row = ledger._connections.row

        async def lost(*arguments: object) -> None:
            await row(*arguments)
            raise LedgerUnavailable("the connection broke")

        asked = await admission(ledger)
        ledger._connections.row = lost
        with pytest.raises(LedgerUnavailable):
            await ledger.admit(asked)

    books.run(work)
    assert books.count("paddock_calls") == 1
    assert books.window(policy) == (Decimal(0), Decimal(0))


def test_settlements_outlive_the_database(postgres_server: PostgresServer, postgres_url: str) -> None:
    from paddock_mlflow.ledger import LedgerUnavailable

    books = Books(postgres_url)
    books.clear()
    policy = books.policy(5)

    async def work(ledger: Any) -> None:
        asked, another = await admission(ledger), await admission(ledger)
        await ledger.admit(asked)
        await asyncio.to_thread(postgres_server.stop)
        try:
            with pytest.raises(LedgerUnavailable, match="mlflow-migrate"):
                await ledger.admit(another)
            # Nobody waits for a database that is away.
            await asyncio.wait_for(ledger.settle(settlement(asked.call_id, "0.01")), 2)
        finally:
            await asyncio.to_thread(postgres_server.start)
        # Closing waits for what is kept.

    books.run(work)
    books.engine.dispose()
    # It may have died before the admission and the window were on its disk; no cent is missing all the same.
    assert books.spent() == Decimal("0.01")

    async def one_more(ledger: Any) -> None:
        assert (await ledger.admit(await admission(ledger))).remaining == Decimal("4.64")

    books.run(one_more)
    assert books.window(policy) == (Decimal("0.01"), Decimal("0.35"))


def test_an_admission_that_a_dying_database_forgot_is_counted_when_it_is_settled(postgres_url: str) -> None:
    """Admissions don't wait for the disk: a PostgreSQL that loses its power may not know them afterwards."""
    from sqlalchemy import text

    books = Books(postgres_url)
    books.clear()
    policy = books.policy(5)
    key, credential = books.key(run_id="run-1", budget_usd=Decimal(2))
    credential = replace(credential, opens_run_keys=True)

    async def work(ledger: Any) -> None:
        asked = [await admission(ledger, credential) for _ in range(3)]
        for one in asked:
            await ledger.admit(one)
        with books.engine.begin() as connection:
            connection.execute(text("DELETE FROM paddock_calls"))
            connection.execute(text("UPDATE paddock_budget_windows SET reserved = 0"))
        await ledger.settle(settlement(asked[0].call_id, "0.01", record=b"r", experiment_id="1"))
        await ledger.settle(settlement(asked[0].call_id, "0.02"))
        await ledger.settle(settlement(asked[1].call_id, None))
        restored = books.call(asked[0].call_id)
        assert (restored.username, restored.key_id, restored.run_id) == ("ada", key, "run-1")
        assert restored.endpoint_id == "e-coder"

    books.run(work)
    assert books.window(policy) == books.window(f"key:{key}") == (Decimal("0.36"), Decimal(0))
    assert books.count("paddock_usage_outbox") == 1


def test_a_ledger_without_its_database_says_so(tmp_path: Path) -> None:
    from paddock_mlflow.ledger import LedgerUnavailable

    for url in (f"sqlite:///{tmp_path}/none.db", "postgresql+psycopg2://nobody:x@127.0.0.1:9/none"):
        with pytest.raises(LedgerUnavailable, match="expected"):
            Books(url).run(lambda ledger: ledger.config_version())
