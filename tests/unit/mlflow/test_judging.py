"""What ends is judged: once, by those who look, or told why not."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from judging_made import Bench, Judging, PlayedGateway, Reply, played_gateway, refused, said, verdict

BOTH = ["sqlite_url", "postgres_url"]
MODEL = "gateway:/judge"


@pytest.fixture(scope="module", params=BOTH)
def bench(request: pytest.FixtureRequest, server: Any) -> Bench:
    return Bench(request.getfixturevalue(request.param))


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedGateway]:
    with played_gateway() as made:
        monkeypatch.setenv("MLFLOW_GATEWAY_URI", made.url)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "judge")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "internal")
        yield made


@pytest.fixture
def judging(bench: Bench, gateway: PlayedGateway) -> Iterator[Judging]:
    made = Judging(bench)
    yield made
    made.close()


@pytest.fixture
def experiment(bench: Bench) -> Iterator[str]:
    made = bench.experiment()
    yield made
    bench.forget(made)


def relevance() -> Any:
    from mlflow.genai.scorers import RelevanceToQuery

    return RelevanceToQuery(model=MODEL)


def safety() -> Any:
    from mlflow.genai.scorers import Safety

    return Safety(model=MODEL)


def correctness() -> Any:
    from mlflow.genai.scorers import Correctness

    return Correctness(model=MODEL)


def length(most: int = 10) -> Any:
    from mlflow.genai.scorers import ResponseLength

    return ResponseLength(max_length=most)


def test_a_trace_that_ended_is_judged_by_each_judge_once(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    for scorer in (relevance(), safety()):
        bench.register(experiment, scorer)
    trace = bench.trace(experiment)

    judging.settle()
    judging.settle()

    found = bench.assessments(trace)
    assert [(one.name, str(one.value)) for one in found] == [("relevance_to_query", "yes"), ("safety", "yes")]
    assert all(one.rationale == "because" and one.span_id for one in found)
    assert found[0].source.source_type == "LLM_JUDGE"
    assert len(gateway.requests) == 2
    assert set(bench.states(experiment).values()) == {"done"}
    assert bench.tag(trace) is None


def test_a_verdict_says_whose_it_is_and_what_it_cost(bench: Bench, judging: Judging, experiment: str) -> None:
    bench.register(experiment, relevance())
    trace = bench.trace(experiment)

    judging.settle()

    (row,) = bench.rows(experiment).values()
    (found,) = bench.assessments(trace)
    # gpt-4o-mini: 0.15 and 0.60 USD a million tokens.
    assert row["cost_usd"] == Decimal("0.00021")
    assert Decimal(found.metadata["paddock.judge.cost_usd"]) == row["cost_usd"]
    assert found.metadata["paddock.judge.version"] == "1" == found.metadata["mlflow.assessment.scorerVersion"]
    assert found.metadata["paddock.judge.fingerprint"] == row["fingerprint"]
    assert len(row["fingerprint"]) == 64
    assert found.metadata["paddock.judge.endpoint"] == "judge" == row["endpoint"]
    assert found.metadata["paddock.passed"] == "true"


def test_a_trace_that_has_not_ended_is_not_judged(bench: Bench, judging: Judging, experiment: str) -> None:
    bench.register(experiment, relevance())
    running = bench.trace(experiment, root=False)
    old = bench.trace(experiment, ended_seconds_ago=3700)

    judging.settle()

    assert bench.rows(experiment) == {}
    assert bench.assessments(running) == bench.assessments(old) == []


def test_a_long_run_is_judged_when_it_ends(bench: Bench, judging: Judging, experiment: str) -> None:
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
    from sqlalchemy import update

    bench.register(experiment, relevance())
    trace = bench.trace(experiment)
    hours = 5 * 3600 * 1000
    with bench.engine.begin() as connection:
        connection.execute(
            update(SqlTraceInfo)
            .where(SqlTraceInfo.request_id == trace)
            .values(
                timestamp_ms=SqlTraceInfo.timestamp_ms - hours,
                execution_time_ms=SqlTraceInfo.execution_time_ms + hours,
            )
        )

    judging.settle()

    assert len(bench.assessments(trace)) == 1


def test_what_the_gateway_and_evaluations_leave_is_not_judged(
    bench: Bench, judging: Judging, experiment: str
) -> None:
    """A judge's own call leaves a trace: judging that would never end."""
    from mlflow.store.tracking.dbmodels.models import SqlTraceMetadata
    from sqlalchemy import insert

    bench.register(experiment, relevance())
    call, evaluation, scorer = (bench.trace(experiment) for _ in range(3))
    with bench.engine.begin() as connection:
        for trace, key in ((call, "mlflow.gateway.endpointId"), (evaluation, "mlflow.sourceRun")):
            connection.execute(
                insert(SqlTraceMetadata.__table__).values(request_id=trace, key=key, value="x")
            )
    bench.store.set_trace_tag(scorer, "mlflow.trace.sourceScorer", "relevance_to_query")

    judging.settle()

    assert bench.rows(experiment) == {}


def test_an_agent_does_not_take_its_trace_away_from_the_judges(
    bench: Bench, judging: Judging, experiment: str
) -> None:
    """It may set any tag; whose trace it is stands elsewhere."""
    from sqlalchemy import insert

    from paddock_mlflow.database import now, trace_owners

    bench.register(experiment, relevance())
    trace = bench.trace(experiment, tags={"mlflow.trace.sourceScorer": "me", "paddock.judges": "all is well"})
    with bench.engine.begin() as connection:
        row = {"trace_id": trace, "key_id": "pk_1", "experiment_id": experiment, "claimed_at": now()}
        connection.execute(insert(trace_owners).values(**row))

    judging.settle()

    assert len(bench.assessments(trace)) == 1
    assert bench.tag(trace) is None


def test_who_is_sampled_out_or_filtered_is_told_on_the_trace(
    bench: Bench, judging: Judging, experiment: str
) -> None:
    bench.register(experiment, relevance(), 1e-9)
    bench.register(experiment, safety(), 1.0, "tags.team = 'blue'")
    bench.register(experiment, length(), 0.0)
    trace, blue = bench.trace(experiment), bench.trace(experiment, tags={"team": "blue"})

    judging.settle()

    assert bench.states(experiment) == {
        ("relevance_to_query", trace): "sampled_out",
        ("relevance_to_query", blue): "sampled_out",
        ("safety", trace): "filtered",
        ("safety", blue): "done",
    }
    assert bench.tag(trace) == (
        "relevance_to_query: sampled out: it looks at 1e-09 of all;"
        " safety: excluded by its filter: tags.team = 'blue'"
    )
    assert bench.tag(blue) == "relevance_to_query: sampled out: it looks at 1e-09 of all"


def test_sampling_is_upstreams(bench: Bench, experiment: str) -> None:
    from mlflow.genai.scorers.online.sampler import OnlineScorerSampler

    from paddock_mlflow.judges.admission import sample
    from paddock_mlflow.judges.registry import Judges

    for scorer, rate in ((relevance(), 0.5), (safety(), 0.3)):
        bench.register(experiment, scorer, rate)
    mine = [judge for judge in Judges(bench.url).active() if judge.experiment_id == experiment]
    theirs = OnlineScorerSampler(
        [
            one
            for one in bench.store.get_active_online_scorers()
            if one.online_config.experiment_id == experiment
        ]
    )
    scorers = theirs.group_scorers_by_filter(session_level=False)[None]

    for number in range(300):
        expected = {one.name for one in theirs.sample(f"tr-{number}", scorers)}
        assert sample(f"tr-{number}", mine) == expected


def test_a_judge_of_expectations_waits_for_one(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    bench.register(experiment, correctness())
    trace = bench.trace(experiment)

    judging.settle()

    assert bench.tag(trace) == "correctness: no expectation (expected_facts or expected_response)"
    assert gateway.requests == []

    bench.expect(trace, ["it says so"])
    judging.settle()

    assert [one.name for one in bench.assessments(trace)] == ["correctness"]
    assert bench.tag(trace) is None


def test_a_trace_is_read_once_for_all_its_judges(
    bench: Bench, judging: Judging, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scorer in (relevance(), safety(), length()):
        bench.register(experiment, scorer, 0 if scorer.name == "response_length" else 1)
    traces = [bench.trace(experiment) for _ in range(5)]
    read: list[str] = []
    stock = bench.store.batch_get_traces

    def counted(trace_ids: list[str], **given: Any) -> Any:
        read.extend(trace_ids)
        return stock(trace_ids, **given)

    monkeypatch.setattr(bench.store, "batch_get_traces", counted)

    judging.settle()

    assert sorted(read) == sorted(traces)
    assert all(len(bench.assessments(trace)) == 2 for trace in traces)


def test_as_many_judges_look_at_once_as_their_endpoint_takes(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    bench.register(experiment, relevance())
    for _ in range(12):
        bench.trace(experiment)

    def slowly(body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return verdict()

    gateway.answer = slowly
    judging.settle()

    assert len(gateway.requests) == 12
    assert gateway.most_at_once == judging.limits.parallelism
    assert gateway.connections <= judging.limits.parallelism


# --- What goes wrong


def test_a_spent_budget_is_told_and_not_asked_again_for_minutes(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    gateway.answer = lambda _: refused(429, "insufficient_quota", "5 USD of judge are spent")
    bench.register(experiment, relevance())
    traces = [bench.trace(experiment) for _ in range(30)]

    judging.settle()
    later = bench.trace(experiment)
    judging.settle()

    # Those that were under way when it was first refused, and no other.
    assert 1 <= len(gateway.requests) <= judging.limits.parallelism
    assert set(bench.states(experiment).values()) == {"budget"}
    for trace in [*traces, later]:
        assert bench.tag(trace) == "relevance_to_query: judge budget spent: 5 USD of judge are spent"
        assert bench.assessments(trace) == []
    due = min(row["due_at"] for row in bench.rows(experiment).values())
    assert due > datetime.now(UTC) + timedelta(minutes=4)

    gateway.answer = lambda _: verdict()
    judging.work._endpoints["judge"].open()
    bench.change(experiment, due_at=datetime.now(UTC))
    judging.settle()

    assert set(bench.states(experiment).values()) == {"done"}
    assert bench.tag(later) is None


def test_a_rate_limit_is_waited_for(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    answers = iter([refused(429, "rate_limit_exceeded", retry_after="2")])
    gateway.answer = lambda _: next(answers, verdict())
    bench.register(experiment, relevance())
    trace = bench.trace(experiment)

    judging.settle()

    assert judging.slept == [2.0]
    assert len(bench.assessments(trace)) == 1


def test_a_long_rate_limit_sends_the_judgment_back_to_the_queue(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    answers = iter([refused(429, "rate_limit_exceeded", "too many", retry_after="40")])
    gateway.answer = lambda _: next(answers, verdict())
    bench.register(experiment, relevance())
    trace = bench.trace(experiment)

    judging.settle()

    (row,) = bench.rows(experiment).values()
    assert (row["state"], row["attempts"]) == ("queued", 0)
    assert row["reason"] == "waiting: too many"
    assert timedelta(seconds=35) < row["due_at"] - datetime.now(UTC) < timedelta(seconds=41)

    judging.work._endpoints["judge"].open()
    bench.change(experiment, due_at=datetime.now(UTC))
    judging.settle()
    assert len(bench.assessments(trace)) == 1


def test_a_model_that_fails_is_tried_a_bounded_number_of_times(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    gateway.answer = lambda _: refused(503, "provider_unavailable", "it is down")
    bench.register(experiment, relevance())
    trace = bench.trace(experiment)

    for attempt in range(3):
        judging.settle()
        (row,) = bench.rows(experiment).values()
        assert row["attempts"] == attempt + 1
        if attempt < 2:
            assert row["state"] == "queued"
            assert "tried" in row["reason"] and "it is down" in row["reason"]
            assert row["due_at"] > datetime.now(UTC)
            bench.change(experiment, due_at=datetime.now(UTC))
    judging.settle()

    assert len(gateway.requests) == 9
    assert judging.slept == [1.0, 3.0] * 3
    (found,) = bench.assessments(trace)
    assert (found.error.error_code, found.error.error_message) == ("MODEL_UNAVAILABLE", "503: it is down")
    assert bench.states(experiment) == {("relevance_to_query", trace): "failed"}


@pytest.mark.parametrize(
    ("reply", "tries", "code", "message"),
    [
        pytest.param(said("nonsense"), 2, "BAD_VERDICT", "Failed to parse response", id="no-json"),
        pytest.param(said('{"verdict": "yes"}'), 2, "BAD_VERDICT", "'result'", id="no-result"),
        pytest.param(verdict("perhaps"), 2, "BAD_VERDICT", "expected yes or no", id="not-in-the-scale"),
        pytest.param(Reply("<html>", headers={}), 2, "BAD_VERDICT", "no JSON object", id="no-protocol"),
        pytest.param(
            refused(403, "unpriced_model", "no price"), 1, "MODEL_REFUSED", "no price", id="refused"
        ),
    ],
)
def test_what_is_no_verdict_is_a_failure_with_its_reason(
    bench: Bench,
    judging: Judging,
    gateway: PlayedGateway,
    experiment: str,
    reply: Reply,
    tries: int,
    code: str,
    message: str,
) -> None:
    """And the other judge has its verdict all the same."""
    gateway.answer = lambda body: reply if "relevan" in json.dumps(body) else verdict()
    bench.register(experiment, relevance())
    bench.register(experiment, safety())
    trace = bench.trace(experiment)

    for _ in range(tries):
        judging.settle()
        bench.change(experiment, due_at=datetime.now(UTC))
    judging.settle()

    failed, fine = bench.assessments(trace)
    assert failed.error.error_code == code
    assert message in failed.error.error_message
    assert failed.metadata["paddock.judge.version"] == "1"
    assert (fine.name, str(fine.value)) == ("safety", "yes")


def test_a_judge_of_your_own_is_held_to_its_scale(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    from typing import Literal

    from mlflow.genai.judges import make_judge

    for name, scale in (("tone", Literal["warm", "cold"]), ("stars", int), ("kind", bool)):
        bench.register(
            experiment,
            make_judge(
                name=name, instructions=f"{name}: {{{{ outputs }}}}?", model=MODEL, feedback_value_type=scale
            ),
        )
    answers = {"tone": "lukewarm", "stars": "4", "kind": True}

    def answer(body: dict[str, Any]) -> Reply:
        asked = json.dumps(body["messages"])
        return verdict(next(given for name, given in answers.items() if f"{name}: " in asked))

    gateway.answer = answer
    trace = bench.trace(experiment)
    judging.settle()
    bench.change(experiment, due_at=datetime.now(UTC))
    judging.settle()

    kind, stars, tone = bench.assessments(trace)
    assert (kind.value, kind.metadata["paddock.passed"]) == (True, "true")
    assert stars.value == 4
    assert "paddock.passed" not in stars.metadata
    assert tone.error.error_message == "expected one of warm, cold of tone, found 'lukewarm'"


def test_a_scorer_that_throws_does_not_stop_the_others(
    bench: Bench, judging: Judging, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.genai.scorers import RelevanceToQuery

    def throws(self: Any, **_: Any) -> None:
        raise ZeroDivisionError("by nothing\0")

    bench.register(experiment, relevance())
    bench.register(experiment, safety())
    trace = bench.trace(experiment)
    monkeypatch.setattr(RelevanceToQuery, "__call__", throws)
    judging.settle()

    failed, fine = bench.assessments(trace)
    assert failed.error.error_code == "SCORER_ERROR"
    assert failed.error.error_message == "ZeroDivisionError: by nothing"
    assert str(fine.value) == "yes"


def test_a_judge_that_names_no_endpoint_says_so_on_each_trace(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    from mlflow.store.tracking.dbmodels.models import SqlScorerVersion
    from sqlalchemy import select, update

    bench.register(experiment, relevance())
    bench.register(experiment, safety())
    trace = bench.trace(experiment)
    elsewhere = relevance().model_dump()
    elsewhere["builtin_scorer_pydantic_data"]["model"] = "openai:/gpt-4o"
    with bench.engine.begin() as connection:
        mine = bench.store.get_scorer(experiment, "relevance_to_query").scorer_id
        assert connection.execute(select(SqlScorerVersion).where(SqlScorerVersion.scorer_id == mine)).first()
        connection.execute(
            update(SqlScorerVersion)
            .where(SqlScorerVersion.scorer_id == mine)
            .values(serialized_scorer=json.dumps(elsewhere))
        )
    judging.settle()

    failed, fine = bench.assessments(trace)
    assert failed.error.error_code == "JUDGE_UNUSABLE"
    assert "the model openai:/gpt-4o, which has no budget" in failed.error.error_message
    assert str(fine.value) == "yes"
    assert len(gateway.requests) == 1


def test_a_trace_that_is_too_large_is_not_read(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.register(experiment, relevance())
    large, small = bench.trace(experiment, text="x" * 1_000_000), bench.trace(experiment)
    read: list[str] = []
    stock = bench.store.batch_get_traces
    monkeypatch.setattr(
        bench.store, "batch_get_traces", lambda ids, **given: read.extend(ids) or stock(ids, **given)
    )

    judging.settle()

    assert read == [small]
    assert len(bench.assessments(small)) == 1
    assert bench.assessments(large) == []
    assert bench.tag(large) == (
        "relevance_to_query: too large: 1.0 MB of spans, and a judge reads up to 1.0 MB"
    )


def test_a_trace_without_a_root_is_told(bench: Bench, judging: Judging, experiment: str) -> None:
    """One of another client: OpenTelemetry's spans end a trace by its root."""
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
    from sqlalchemy import update

    bench.register(experiment, relevance())
    rootless, whole = bench.trace(experiment, root=False), bench.trace(experiment)
    with bench.engine.begin() as connection:
        connection.execute(
            update(SqlTraceInfo)
            .where(SqlTraceInfo.request_id == rootless)
            .values(status="OK", execution_time_ms=1000)
        )

    judging.settle()

    (failed,) = bench.assessments(rootless)
    assert failed.error.error_code == "TRACE_UNREADABLE"
    assert failed.error.error_message == "expected a trace with a root span, found 1 span(s) and none that is"
    assert len(bench.assessments(whole)) == 1


def test_a_rationale_that_a_database_can_not_keep_is_cleaned(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    gateway.answer = lambda _: said('{"result": "yes", "rationale": "a\\u0000b\\ud800' + "x" * 20_000 + '"}')
    bench.register(experiment, relevance())
    trace = bench.trace(experiment)

    judging.settle()

    (found,) = bench.assessments(trace)
    assert found.rationale.startswith("ab?x")
    assert len(found.rationale) == 16_000


def test_a_judgment_that_ends_its_process_each_time_is_given_up(
    bench: Bench, judging: Judging, experiment: str
) -> None:
    bench.register(experiment, relevance())
    trace = bench.trace(experiment)
    judging.admission.tick()
    bench.change(experiment, attempts=5)

    judging.judge()

    (found,) = bench.assessments(trace)
    assert found.error.error_code == "INTERRUPTED"


def test_a_trace_that_was_deleted_meanwhile_leaves_nothing(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    bench.register(experiment, relevance())
    trace, other = bench.trace(experiment), bench.trace(experiment)

    def delete(body: dict[str, Any]) -> Reply:
        bench.store.delete_traces(experiment, trace_ids=[trace])
        return verdict()

    gateway.answer = delete
    judging.settle()

    assert bench.states(experiment) == {("relevance_to_query", other): "done"}


# --- Sessions


def frustration() -> Any:
    from mlflow.genai.scorers import UserFrustration

    return UserFrustration(model=MODEL)


def test_a_session_is_judged_when_it_is_idle_and_again_when_it_went_on(
    bench: Bench, judging: Judging, gateway: PlayedGateway, experiment: str
) -> None:
    bench.register(experiment, frustration())
    gateway.answer = lambda _: verdict("none")
    first = bench.trace(experiment, session="s-1", ended_seconds_ago=20)
    second = bench.trace(experiment, session="s-1", ended_seconds_ago=10)

    judging.settle()
    judging.settle()

    (found,) = bench.assessments(first)
    assert (found.name, str(found.value)) == ("user_frustration", "none")
    assert found.metadata["mlflow.trace.session"] == "s-1"
    assert bench.assessments(second) == []
    assert len(gateway.requests) == 1

    gateway.answer = lambda _: verdict("unresolved")
    bench.trace(experiment, session="s-1", ended_seconds_ago=2)
    judging.settle()

    (again,) = bench.assessments(first)
    assert str(again.value) == "unresolved"
    assert again.overrides == found.assessment_id
    assert len(bench.assessments(first, valid=False)) == 2
    assert bench.states(experiment) == {("user_frustration", "s-1"): "done"}


def test_a_session_that_goes_on_is_left_alone(bench: Bench, gateway: PlayedGateway, experiment: str) -> None:
    judging = Judging(bench, idle=60)
    bench.register(experiment, frustration())
    bench.trace(experiment, session="fresh", ended_seconds_ago=5)
    bench.trace(experiment, session="running", ended_seconds_ago=120)
    bench.trace(experiment, session="running", root=False, ended_seconds_ago=100)
    bench.trace(experiment, session="idle", ended_seconds_ago=120)

    judging.settle()
    judging.close()

    assert set(bench.states(experiment)) == {("user_frustration", "idle")}


# --- Whose turn it is


def test_two_workers_give_one_verdict_each(bench: Bench, gateway: PlayedGateway, experiment: str) -> None:
    bench.register(experiment, relevance())
    bench.register(experiment, safety())
    traces = [bench.trace(experiment) for _ in range(20)]
    workers = [Judging(bench, parallelism=3, lease_seconds=60) for _ in range(2)]
    threads = [threading.Thread(target=one.settle) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in workers:
        one.settle()
        one.close()

    assert [len(bench.assessments(trace)) for trace in traces] == [2] * 20
    assert len(gateway.requests) == 40


def test_who_comes_back_after_its_lease_writes_nothing(
    bench: Bench, gateway: PlayedGateway, experiment: str
) -> None:
    """A process that was stopped for a while, and another that took over."""
    bench.register(experiment, relevance())
    trace = bench.trace(experiment)
    release = threading.Event()
    gateway.answer = lambda _: Reply(**vars(verdict("no", "late")) | {"hold": release})
    slow, quick = Judging(bench), Judging(bench)
    slow.admission.tick()
    slow.work.tick()
    bench.change(experiment, lease_until=datetime.now(UTC) - timedelta(seconds=1))
    gateway.answer = lambda _: verdict("yes", "in time")
    quick.judge()
    release.set()
    slow.judge()
    for one in (slow, quick):
        one.close()

    (found,) = bench.assessments(trace, valid=False)
    assert found.rationale == "in time"
    (row,) = bench.rows(experiment).values()
    assert (row["state"], row["attempts"], row["verdicts"]) == ("done", 2, 1)


def test_a_lease_is_kept_for_as_long_as_it_takes(
    bench: Bench, gateway: PlayedGateway, experiment: str
) -> None:
    bench.register(experiment, relevance())
    bench.trace(experiment)
    release = threading.Event()
    gateway.answer = lambda _: Reply(**vars(verdict()) | {"hold": release})
    judging = Judging(bench)
    judging.admission.tick()
    judging.work.tick()
    bench.change(experiment, lease_until=datetime.now(UTC) + timedelta(seconds=1))

    assert judging.work.renew() == 1

    (row,) = bench.rows(experiment).values()
    assert row["lease_until"] > datetime.now(UTC) + timedelta(seconds=3)
    release.set()
    judging.judge()
    judging.close()


def test_who_is_told_to_end_leaves_the_rest_to_others(
    bench: Bench, gateway: PlayedGateway, experiment: str
) -> None:
    bench.register(experiment, relevance())
    traces = [bench.trace(experiment) for _ in range(6)]
    release = threading.Event()
    gateway.answer = lambda _: Reply(**vars(verdict()) | {"hold": release})
    ending = Judging(bench, parallelism=2)
    ending.admission.tick()
    ending.work.tick()
    threading.Timer(0.2, release.set).start()
    ending.close()

    states = list(bench.states(experiment).values())
    assert states.count("done") == 2
    assert states.count("queued") == 4
    assert all(row["attempts"] == 0 for row in bench.rows(experiment).values() if row["state"] == "queued")
    other = Judging(bench)
    other.settle()
    other.close()
    assert [len(bench.assessments(trace)) for trace in traces] == [1] * 6
