"""What the ledger decides, on PostgreSQL and on SQLite alike."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from ledgers import Books, admission, later, settlement, user

# An import of the plugin's types before the server's fixtures is harmless: they import nothing of MLflow.
from paddock_mlflow.ledger.types import Admitted, Outcome, Reason, Refused, StaleConfiguration, Usage


@pytest.fixture(params=["postgres_url", "sqlite_url"])
def books(request: pytest.FixtureRequest) -> Books:
    made = Books(request.getfixturevalue(request.param))
    made.clear()
    return made


async def spend(ledger: Any, cost: str = "0.35", **values: Any) -> Any:
    """A call from admission to settlement; returns what the admission answered."""
    asked = await admission(ledger, **values)
    answer = await ledger.admit(asked)
    if isinstance(answer, Admitted):
        await ledger.settle(settlement(asked.call_id, cost))
    return answer


def test_a_call_without_budgets_is_admitted_and_recorded(books: Books) -> None:
    async def work(ledger: Any) -> Any:
        asked = await admission(ledger)
        assert await ledger.admit(asked) == Admitted("ada")
        used = Usage(input=10, output=5, cache_read=4, cache_write=3, reasoning=2)
        told = {"usage": used, "provider": "openai", "model": "gpt", "attempts": 2, "status": 201}
        await ledger.settle(settlement(asked.call_id, "0.0000123456", experiment_id="7", record=b"r", **told))
        return asked

    asked = books.run(work)
    row = books.call(asked.call_id)
    assert (row.username, row.endpoint_id, row.endpoint_name, row.key_id) == (
        "ada",
        "e-coder",
        "coder",
        None,
    )
    assert (row.provider, row.model, row.attempts, row.status, row.outcome) == ("openai", "gpt", 2, 201, "ok")
    assert (row.reserved_usd, row.cost_usd) == (Decimal("0.35"), Decimal("0.0000123456"))
    assert (row.input_tokens, row.output_tokens, row.cache_read_tokens) == (10, 5, 4)
    assert (row.cache_write_tokens, row.reasoning_tokens) == (3, 2)
    assert row.started_at <= row.ended_at < row.lease_until
    assert books.count("paddock_usage_outbox") == 1


def test_a_budget_is_reserved_then_spent_and_then_refuses(books: Books) -> None:
    policy = books.policy(1.0)

    async def work(ledger: Any) -> None:
        first = await admission(ledger)
        assert (await ledger.admit(first)).remaining == Decimal("0.65")
        assert books.window(policy) == (Decimal(0), Decimal("0.35"))
        await ledger.settle(settlement(first.call_id, "0.10"))
        assert books.window(policy) == (Decimal("0.10"), Decimal(0))
        for _ in range(2):
            assert isinstance(await spend(ledger), Admitted)
        refused = await spend(ledger)
        assert isinstance(refused, Refused)
        assert refused.reason is Reason.BUDGET_EXCEEDED
        assert (refused.limit, refused.remaining) == (Decimal(1), Decimal("0.20"))
        assert (refused.scope, refused.period, refused.username) == ("all calls", "1 day", "ada")
        assert refused.resets_at is not None
        assert refused.retry_after is not None
        assert abs((refused.resets_at - later(refused.retry_after)).total_seconds()) < 5
        # What is small enough still fits.
        assert isinstance(await spend(ledger, "0.20", bound=Decimal("0.20")), Admitted)

    books.run(work)
    assert books.window(policy) == (Decimal(1), Decimal(0))


def test_what_calls_in_flight_hold_is_told_from_what_is_spent(books: Books) -> None:
    books.policy(0.5)

    async def work(ledger: Any) -> None:
        asked = await admission(ledger)
        await ledger.admit(asked)
        refused = await ledger.admit(await admission(ledger))
        assert refused.reason is Reason.BUDGET_RESERVED
        assert refused.retry_after == 1.0
        await ledger.settle(settlement(asked.call_id, "0"))
        assert isinstance(await ledger.admit(await admission(ledger)), Admitted)

    books.run(work)


def test_a_refused_call_changes_nothing(books: Books) -> None:
    policy = books.policy(0.5, action="ALERT")
    books.policy(0.1, scope="ENDPOINT", target="e-coder")
    books.limit("user", "ada", requests=1, tokens=1000)

    async def work(ledger: Any) -> None:
        for _ in range(3):
            refused = await ledger.admit(await admission(ledger))
            assert refused.reason is Reason.BUDGET_EXCEEDED
            assert refused.scope == "endpoint coder"
        # Neither rate nor budget was taken.
        assert isinstance(await ledger.admit(await admission(ledger, endpoint_id="e-2")), Admitted)

    books.run(work)
    assert books.window(policy) == (Decimal(0), Decimal("0.35"))
    assert books.count("paddock_calls") == 1


@pytest.mark.parametrize(
    ("scope", "target", "applies"),
    [
        ("GLOBAL", None, True),
        ("WORKSPACE", None, True),
        ("ENDPOINT", "e-coder", True),
        ("ENDPOINT", "e-other", False),
        ("USER", "ada", True),
        ("USER", "bob", False),
    ],
)
def test_scopes(books: Books, scope: str, target: str | None, applies: bool) -> None:
    books.policy(0.1, scope=scope, target=target)
    answer = books.run(spend)
    assert isinstance(answer, Refused if applies else Admitted)


def test_a_policy_of_another_workspace_does_not_apply(books: Books) -> None:
    books.policy(0.1, scope="WORKSPACE", workspace="elsewhere")
    assert isinstance(books.run(spend), Admitted)


def test_user_and_global_move_together_and_alerts_only_count(books: Books) -> None:
    everyone, ada, watch = books.policy(1), books.policy(0.5, scope="USER", target="ada"), None
    watch = books.policy(0.01, action="ALERT", unit="HOURS", count=2)

    async def work(ledger: Any) -> None:
        assert (await spend(ledger)).remaining == Decimal("0.15")
        refused = await spend(ledger)
        assert (refused.reason, refused.scope) == (Reason.BUDGET_EXCEEDED, "user ada")
        assert isinstance(await spend(ledger, credential=user("bob")), Admitted)

    books.run(work)
    assert books.window(everyone) == books.window(watch) == (Decimal("0.70"), Decimal(0))
    assert books.window(ada) == (Decimal("0.35"), Decimal(0))


def test_a_new_policy_counts_what_was_spent_and_what_is_in_flight(books: Books) -> None:
    async def work(ledger: Any) -> None:
        await spend(ledger, "0.20")
        await spend(ledger, "0.05", credential=user("bob"))
        flying = await admission(ledger)
        await ledger.admit(flying)
        policy = books.policy(10, scope="USER", target="ada")
        assert (await spend(ledger, "0.35")).remaining == Decimal("9.10")
        assert books.window(policy) == (Decimal("0.55"), Decimal("0.35"))
        await ledger.settle(settlement(flying.call_id, "0.01"))
        assert books.window(policy) == (Decimal("0.56"), Decimal(0))

    books.run(work)


def test_edits_and_deletes_of_a_policy_act_at_once(books: Books) -> None:
    policy = books.policy(0.4)

    async def work(ledger: Any) -> None:
        await spend(ledger)
        assert isinstance(await spend(ledger), Refused)
        books.edit_policy(policy, budget_amount=0.8)
        assert isinstance(await spend(ledger), Admitted)
        books.edit_policy(policy, duration_unit="HOURS", duration_value=3)
        assert (await spend(ledger)).period == "3 hours"
        books.edit_policy(policy, target_scope="USER", target_value="bob")
        assert isinstance(await spend(ledger), Admitted)
        assert (await spend(ledger, credential=user("bob"))).remaining == Decimal("0.45")
        books.edit_policy(policy, target_scope="GLOBAL", target_value=None)
        assert isinstance(await spend(ledger), Refused)
        assert books.window(policy)[0] == books.spent()
        books.edit_policy(policy, budget_action="ALERT")
        assert isinstance(await spend(ledger), Admitted)
        books.edit_policy(policy, budget_action="REJECT")
        books.delete_policy(policy)
        assert isinstance(await spend(ledger), Admitted)

    books.run(work)


def test_a_window_that_is_over_does_not_count(books: Books) -> None:
    from paddock_mlflow.database import calls

    policy = books.policy(0.5, unit="MINUTES")
    books.run(spend)
    books.shift(calls, "started_at", -61)
    with books.engine.begin() as connection:
        from sqlalchemy import text

        connection.execute(text("DELETE FROM paddock_budget_windows"))
    assert isinstance(books.run(spend), Admitted)
    assert books.window(policy)[0] in (Decimal("0.35"), Decimal(0))


def test_settling_twice_counts_once(books: Books) -> None:
    policy = books.policy(5)

    async def work(ledger: Any) -> None:
        asked = await admission(ledger)
        await ledger.admit(asked)
        for cost in ("0.10", "0.20"):
            await ledger.settle(settlement(asked.call_id, cost, record=b"r", experiment_id="1"))
        await ledger.settle(settlement("nobody-knows-it", "3"))

    books.run(work)
    assert books.window(policy) == (Decimal("0.10"), Decimal(0))
    assert books.count("paddock_usage_outbox") == 1


def test_an_unknown_cost_is_the_bound_and_a_cost_above_it_counts_in_full(books: Books) -> None:
    policy = books.policy(5)

    async def work(ledger: Any) -> None:
        for cost, outcome in ((None, Outcome.ABANDONED), ("0.50", Outcome.OK), ("0", Outcome.ERROR)):
            asked = await admission(ledger)
            await ledger.admit(asked)
            await ledger.settle(settlement(asked.call_id, cost, outcome=outcome))

    books.run(work)
    assert books.window(policy) == (Decimal("0.85"), Decimal(0))


def test_a_lease_that_runs_out_charges_the_bound_and_a_late_settlement_corrects_it(books: Books) -> None:
    from paddock_mlflow.database import calls

    policy = books.policy(0.5)

    async def work(ledger: Any) -> None:
        asked = await admission(ledger)
        await ledger.admit(asked)
        assert await ledger.expire() == 0
        books.shift(calls, "lease_until", -61)
        assert await ledger.expire() == 1
        assert await ledger.expire() == 0
        assert books.window(policy) == (Decimal("0.35"), Decimal(0))
        assert books.call(asked.call_id).outcome == "expired"
        assert (await ledger.admit(await admission(ledger))).reason is Reason.BUDGET_EXCEEDED
        await ledger.settle(settlement(asked.call_id, "0.02", record=b"r", experiment_id="1"))
        assert books.window(policy) == (Decimal("0.02"), Decimal(0))
        assert books.call(asked.call_id).outcome == "ok"
        await ledger.settle(settlement(asked.call_id, "0.03"))
        assert books.window(policy) == (Decimal("0.02"), Decimal(0))

    books.run(work)


def test_a_dead_call_blocks_nobody_after_its_lease_without_any_sweeper(books: Books) -> None:
    from paddock_mlflow.database import calls

    policy = books.policy(0.8)

    async def work(ledger: Any) -> None:
        dead = await admission(ledger, bound=Decimal("0.5"))
        await ledger.admit(dead)
        assert (await ledger.admit(await admission(ledger))).reason is Reason.BUDGET_RESERVED
        books.shift(calls, "lease_until", -61)
        answer = await ledger.admit(await admission(ledger))
        # It is charged now, so this is final rather than worth another try.
        assert answer.reason is Reason.BUDGET_EXCEEDED

    books.run(work)
    assert books.window(policy) == (Decimal("0.5"), Decimal(0))


def test_more_is_reserved_for_another_attempt(books: Books) -> None:
    policy = books.policy(1)

    async def work(ledger: Any) -> None:
        asked = await admission(ledger)
        await ledger.admit(asked)
        assert await ledger.extend(asked.call_id, Decimal("0.35")) is None
        assert books.window(policy) == (Decimal(0), Decimal("0.70"))
        refused = await ledger.extend(asked.call_id, Decimal("0.35"))
        assert (refused.reason, refused.remaining) == (Reason.BUDGET_RESERVED, Decimal("0.30"))
        assert (await ledger.extend(asked.call_id, Decimal(2))).reason is Reason.BUDGET_EXCEEDED
        await ledger.settle(settlement(asked.call_id, None))
        assert books.window(policy) == (Decimal("0.70"), Decimal(0))
        assert (await ledger.extend(asked.call_id, Decimal("0.01"))).detail

    books.run(work)


def test_no_price_is_refused_with_the_model(books: Books) -> None:
    async def work(ledger: Any) -> None:
        for values in ({"bound": None}, {"unpriced": "acme/one"}):
            refused = await ledger.admit(
                await admission(ledger, **({"bound": None, "unpriced": "acme/one"} | values))
            )
            assert (refused.reason, refused.detail) == (Reason.UNPRICED_MODEL, "acme/one")

    books.run(work)
    assert books.count("paddock_calls") == 0


def test_another_configuration_is_told_before_anything_else(books: Books) -> None:
    books.policy(0.1)

    async def work(ledger: Any) -> None:
        version = await ledger.config_version()
        answer = await ledger.admit(await admission(ledger, config_version=version + 1))
        assert answer == StaleConfiguration(version)

    books.run(work)


def test_keys(books: Books) -> None:
    from paddock_mlflow.ledger.types import KeyCredential

    _, good = books.key()
    _, expired = books.key(expires_at=later(-1))
    _, revoked = books.key(revoked_at=later(-1))
    _, elsewhere = books.key(endpoints=["judge"])
    _, nowhere = books.key(endpoints=[])

    async def work(ledger: Any) -> None:
        answer = await spend(ledger, credential=good)
        assert (answer.username, answer.run_id) == ("ada", None)
        for credential, reason in (
            (KeyCredential(b"?" * 32), Reason.UNKNOWN_KEY),
            (expired, Reason.EXPIRED_KEY),
            (revoked, Reason.REVOKED_KEY),
            (elsewhere, Reason.FORBIDDEN_ENDPOINT),
            (nowhere, Reason.FORBIDDEN_ENDPOINT),
        ):
            assert (await spend(ledger, credential=credential)).reason is reason

    books.run(work)


def test_the_key_of_a_run_counts_in_its_place_alone(books: Books) -> None:
    from paddock_mlflow.ledger.types import KeyCredential

    identity, elsewhere = books.key(run_id="run-1", budget_usd=Decimal("0.50"))
    _, revoked = books.key(run_id="run-2", revoked_at=later(-1))
    in_place = KeyCredential(elsewhere.sha256, opens_run_keys=True)

    async def work(ledger: Any) -> None:
        for credential in (elsewhere, revoked):
            refused = await spend(ledger, credential=credential)
            assert refused.reason is Reason.RUN_KEY_ELSEWHERE
        assert refused.key_id
        # What is refused spends nothing.
        answer = await spend(ledger, credential=in_place)
        assert (answer.key_id, answer.run_id, answer.remaining) == (identity, "run-1", Decimal("0.15"))
        ended = KeyCredential(revoked.sha256, opens_run_keys=True)
        assert (await spend(ledger, credential=ended)).reason is Reason.REVOKED_KEY

    books.run(work)


def test_the_last_use_of_a_key_is_noted_once_a_minute(books: Books) -> None:
    from sqlalchemy import select

    from paddock_mlflow.database import keys

    _, credential = books.key()

    def last() -> Any:
        with books.engine.connect() as connection:
            return connection.execute(select(keys.c.last_used_at)).scalar_one()

    async def work(ledger: Any) -> None:
        await spend(ledger, credential=credential)

    assert last() is None
    books.run(work)
    first = last()
    assert later(-10) < first <= later(0)
    books.run(work)
    assert last() == first
    books.shift(keys, "last_used_at", -61)
    books.run(work)
    assert last() > first


def test_the_budget_of_a_key_lasts_its_life_or_its_window(books: Books) -> None:
    from paddock_mlflow.database import calls

    life, of_life = books.key(budget_usd=Decimal("0.50"))
    day, of_day = books.key(budget_usd=Decimal("0.50"), budget_unit="DAYS", budget_count=2)

    async def work(ledger: Any) -> None:
        assert (await spend(ledger, credential=of_life)).remaining == Decimal("0.15")
        assert isinstance(await spend(ledger, credential=of_day), Admitted)
        refused = await spend(ledger, credential=of_life)
        assert (refused.reason, refused.scope) == (Reason.BUDGET_EXCEEDED, f"key {life}")
        assert (refused.period, refused.resets_at, refused.retry_after) == ("", None, None)
        refused = await spend(ledger, credential=of_day)
        assert (refused.scope, refused.period) == (f"key {day}", "2 days")
        assert isinstance(await spend(ledger), Admitted)

    books.run(work)
    # A month later only the key that has a window may go on.
    books.shift(calls, "started_at", -30 * 86400)
    with books.engine.begin() as connection:
        from sqlalchemy import text

        connection.execute(text("DELETE FROM paddock_budget_windows"))

    async def a_month_later(ledger: Any) -> None:
        assert isinstance(await spend(ledger, credential=of_life), Refused)
        assert isinstance(await spend(ledger, credential=of_day), Admitted)

    books.run(a_month_later)


def test_requests_a_minute(books: Books) -> None:
    from paddock_mlflow.database import rate_buckets

    books.limit("endpoint", "e-coder", requests=6)

    async def work(ledger: Any) -> None:
        for _ in range(6):
            assert isinstance(await spend(ledger), Admitted)
        refused = await spend(ledger)
        assert (refused.reason, refused.scope, refused.limit) == (
            Reason.REQUEST_RATE,
            "endpoint coder",
            Decimal(6),
        )
        assert 8 < refused.retry_after <= 10
        assert isinstance(await spend(ledger, endpoint_id="e-2"), Admitted)
        # A second short of it is too early; after exactly so long there is one more, and not two.
        books.shift(rate_buckets, "updated_at", -refused.retry_after + 1)
        again = await spend(ledger)
        assert again.reason is Reason.REQUEST_RATE
        books.shift(rate_buckets, "updated_at", -again.retry_after)
        assert isinstance(await spend(ledger), Admitted)
        assert (await spend(ledger)).reason is Reason.REQUEST_RATE

    books.run(work)


def test_tokens_a_minute_are_announced_and_then_corrected(books: Books) -> None:
    key, credential = books.key(tokens_per_minute=1000)

    async def call(ledger: Any, tokens: int, usage: Usage | None, cost: str | None = "0") -> Any:
        asked = await admission(ledger, credential, tokens=tokens)
        answer = await ledger.admit(asked)
        if usage and isinstance(answer, Admitted):
            await ledger.settle(settlement(asked.call_id, cost, usage=usage))
        return answer

    async def work(ledger: Any) -> None:
        # More than the limit at once passes when the bucket is full, else nobody could ever make such a call.
        assert isinstance(await call(ledger, 50_000, Usage(100, 100)), Admitted)
        assert isinstance(await call(ledger, 700, None), Admitted)
        refused = await call(ledger, 400, None)
        assert (refused.reason, refused.scope) == (Reason.TOKEN_RATE, f"key {key}")
        assert refused.remaining is not None
        assert 100 <= refused.remaining < 166
        assert refused.retry_after is not None
        assert 14 < refused.retry_after <= 18
        assert isinstance(await call(ledger, 90, Usage(2000, 90)), Admitted)
        refused = await call(ledger, 1, None)
        assert refused.retry_after is not None
        assert 110 < refused.retry_after < 122

    books.run(work)


def test_a_key_and_its_user_and_the_endpoint_have_limits_of_their_own(books: Books) -> None:
    key, credential = books.key(requests_per_minute=5)
    books.limit("key", key, requests=4)
    books.limit("user", "ada", requests=3)
    books.limit("endpoint", "e-coder", requests=2)

    async def work(ledger: Any) -> None:
        for _ in range(2):
            assert isinstance(await spend(ledger, credential=credential), Admitted)
        assert (await spend(ledger, credential=credential)).scope == "endpoint coder"
        assert isinstance(await spend(ledger, credential=credential, endpoint_id="e-2"), Admitted)
        assert (await spend(ledger, credential=credential, endpoint_id="e-2")).scope == "user ada"

    books.run(work)


def test_a_refused_call_s_record_goes_to_the_outbox(books: Books) -> None:
    books.run(lambda ledger: ledger.note("3", b"refused"))
    assert books.count("paddock_usage_outbox") == 1


def test_windows_always_hold_what_the_calls_add_up_to(books: Books) -> None:
    """Random calls, policies and edits: every window is the sum of its calls."""
    import random

    from sqlalchemy import select

    from paddock_mlflow.database import budget_windows, calls

    choice = random.Random(4)
    names = ["ada", "bob", "cy"]

    async def call(ledger: Any) -> None:
        asked = await admission(
            ledger, user(choice.choice(names)), endpoint_id=choice.choice(["e-1", "e-2"]), bound=Decimal("0.02"),
            lease_seconds=choice.choice([60, 0.0]),
        )  # fmt: skip
        if isinstance(await ledger.admit(asked), Refused):
            return
        step = choice.random()
        if step < 0.2:
            await ledger.extend(asked.call_id, Decimal("0.01"))
        if step < 0.8:
            await ledger.settle(settlement(asked.call_id, choice.choice(["0.0123", "0.05", None])))

    async def work(ledger: Any) -> None:
        for _ in range(6):
            policy = books.policy(
                choice.choice([0.2, 5]), scope=choice.choice(["USER", "GLOBAL"]), target="ada",
                unit=choice.choice(["DAYS", "MONTHS"]),
            )  # fmt: skip
            await asyncio.gather(*(call(ledger) for _ in range(20)))
            await ledger.expire()
            if choice.random() < 0.5:
                books.edit_policy(policy, target_scope="USER", target_value="bob")

    books.run(work)
    with books.engine.connect() as connection:
        windows = connection.execute(select(budget_windows)).all()
        rows = connection.execute(select(calls)).all()
    assert len(windows) >= 6
    for window in windows:
        inside = [
            row
            for row in rows
            if window.subject in ("all", f"user:{row.username}")
            and window.window_start <= row.started_at < window.window_end
        ]
        assert window.spent == sum(row.cost_usd or 0 for row in inside)
        assert window.reserved == sum(row.reserved_usd for row in inside if row.ended_at is None)
