"""What a suite run keeps in its journal, how it holds its budget, and what it does with attempts that go wrong."""

import json
import threading
from decimal import Decimal

import pytest

from paddock_cli.errors import NotFound, ServerFailed, UsageFailed
from paddock_cli.suites import definitions, journal, runner, store
from paddock_cli.suites.attempts import Stopped
from paddock_cli.suites.journal import Known, Plan
from paddock_cli.suites.progress import Progress
from paddock_cli.suites.results import Attempt, JudgeResult
from paddock_cli.suites.runner import Manner, Wanted

SUITE = """\
version: 1
name: small
defaults: {limits: {budget_usd: 0.50}}
tasks:
  - {id: one, prompt: Do it., workspace: {folder: project}}
  - {id: two, prompt: Do it., workspace: {folder: project}, limits: {budget_usd: 2}}
  - {id: three, prompt: Do it., workspace: {folder: project}}
"""
FREE = SUITE.replace("defaults: {limits: {budget_usd: 0.50}}\n", "").replace(", limits: {budget_usd: 2}", "")


@pytest.fixture
def suite(tmp_path):
    """A suite of three tasks."""
    (tmp_path / "suites" / "project").mkdir(parents=True)
    path = tmp_path / "suites" / "small.yaml"
    path.write_text(SUITE)
    return definitions.load(path)


def plan_of(suite, **wanted):
    return runner.planned(suite, Wanted(**wanted), "embedded")


def attempt_of(key, **told):
    task, endpoint, repeat = key
    told = {"state": "done", "passed": True, "run_id": f"run-{task}-{repeat}"} | told
    return Attempt(task=task, endpoint=endpoint, repeat=repeat, **told)


class TestPlan:
    def test_every_task_is_tried_before_any_is_repeated(self, suite):
        plan = plan_of(suite, endpoints=("a", "b"), repeat=2, tasks=["one", "three"])
        assert plan.attempts()[:5] == [
            ("one", "a", 1),
            ("one", "b", 1),
            ("three", "a", 1),
            ("three", "b", 1),
            ("one", "a", 2),
        ]
        assert len(plan.attempts()) == 8

    @pytest.mark.parametrize(
        ("wanted", "told"),
        [
            ({"endpoints": ("", " ")}, "--endpoint with a name"),
            ({"label": "latest"}, "--label"),
            ({"label": "a b"}, "--label"),
            ({"budget": "-1"}, "--budget"),
            ({"budget": "0.10"}, "--budget of at least 0.5 USD"),
            ({"tasks": ["four"]}, "--task"),
            ({"parallel": 65}, "--parallel"),
            ({"repeat": 5000}, "10000 attempts"),
        ],
    )
    def test_what_makes_no_sense_is_refused_before_anything_is_begun(self, suite, wanted, told):
        with pytest.raises(UsageFailed, match=told):
            plan_of(suite, **wanted)


class TestJournal:
    def test_it_tells_what_was_written(self, suite, tmp_path):
        plan = plan_of(suite)
        one, two, three = plan.attempts()
        with journal.opened(tmp_path) as opened:
            opened.planned(plan)
            opened.begun(one, "run-one")
            opened.started("run-one", "key-1")
            opened.ended("run-one", attempt_of(one, run_id="run-one"), Decimal("0.25"))
            opened.recorded("run-one", "mlflow-1")
            opened.judged("run-one", {"relevance": JudgeResult(value="yes", passed=True)})
            opened.begun(two, "run-two")
            opened.started("run-two", "key-2")
            opened.started("run-two", "key-3")
        known = journal.read(tmp_path)
        assert known.plan == plan
        newest = known.newest()
        assert newest[one].attempt.mlflow_run_id == "mlflow-1"
        assert newest[one].attempt.judges["relevance"].passed is True
        assert (newest[two].attempt, newest[two].key_ids) == (None, ["key-2", "key-3"])
        assert three not in newest
        assert known.spent() == Decimal("0.25")

    def test_a_line_that_was_written_half_is_left_out_and_cut(self, suite, tmp_path):
        plan = plan_of(suite)
        with journal.opened(tmp_path) as opened:
            opened.planned(plan)
        path = tmp_path / journal.NAME
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"type": "begun", "key": ["on')
        assert journal.read(tmp_path).begun == {}
        with journal.opened(tmp_path) as opened:
            opened.begun(plan.attempts()[0], "run-one")
        assert path.read_bytes().startswith(whole + b'{"type": "begun", "key": ["one"')
        assert list(journal.read(tmp_path).begun) == ["run-one"]

    def test_one_runner_at_a_time(self, suite, tmp_path):
        assert not journal.is_running(tmp_path)
        with journal.opened(tmp_path) as opened:
            opened.planned(plan_of(suite))
            assert journal.is_running(tmp_path)
            with pytest.raises(UsageFailed, match="another"), journal.opened(tmp_path):
                pass
        assert not journal.is_running(tmp_path)

    def test_without_a_plan_there_is_nothing_to_go_on_with(self, tmp_path):
        with pytest.raises(NotFound, match="begun here"):
            journal.read(tmp_path)

    def test_what_an_agent_wrote_does_not_break_a_line(self, suite, tmp_path):
        plan = plan_of(suite)
        key = plan.attempts()[0]
        with journal.opened(tmp_path) as opened:
            opened.planned(plan)
            opened.begun(key, "run-one")
            opened.ended("run-one", attempt_of(key, message="a\nb\u2028c\x1b[31m"), Decimal(0))
        assert len((tmp_path / journal.NAME).read_text().splitlines()) == 3
        assert journal.read(tmp_path).newest()[key].attempt.message == "a\nb\u2028c\x1b[31m"


class TestPurse:
    def test_no_attempt_starts_that_could_take_it_beyond(self, suite):
        plan = plan_of(suite, budget="2.90")
        one, two, three = plan.attempts()
        purse = runner._Purse(suite, plan)
        assert purse.budget(two) == Decimal(2)
        assert purse.take(one)
        assert purse.take(two)
        # 0.40 are left, and it could cost 0.50.
        assert not purse.take(three)
        purse.settle(one, Decimal("0.30"))
        assert purse.take(three)

    def test_what_was_spent_before_counts(self, suite):
        plan = plan_of(suite, budget="2.90")
        purse = runner._Purse(suite, plan, Decimal("2.50"))
        assert not purse.take(plan.attempts()[0])

    def test_without_limits_of_its_own_an_attempt_has_an_equal_share(self, suite):
        suite.path.write_text(FREE)
        free = definitions.load(suite.path)
        plan = plan_of(free, budget="1", repeat=1)
        purse = runner._Purse(free, plan)
        assert purse.budget(plan.attempts()[0]) == Decimal("0.3333333333")
        assert all(purse.take(key) for key in plan.attempts())

    def test_without_a_budget_each_has_what_the_suite_says(self, suite):
        plan = plan_of(suite)
        purse = runner._Purse(suite, plan)
        assert [purse.budget(key) for key in plan.attempts()] == [
            Decimal("0.50"),
            Decimal(2),
            Decimal("0.50"),
        ]


class Records:
    """MLflow's records, of which some fail."""

    url = "http://mlflow/run"

    def __init__(self, server, suite, plan):
        self.parent = type("Run", (), {"run_id": "parent"})
        self.closed = None
        self.recorded = []

    def dataset(self):
        """Nothing to keep."""

    def attempt(self, attempt, folder):
        if attempt.task == "three":
            raise ServerFailed("MLflow to answer", "no answer", "look")
        self.recorded.append(attempt.task)
        return f"mlflow-{attempt.task}"

    def judged(self, attempt):
        """Nothing to keep."""

    def results(self, results):
        self.closed = results

    close = results


class Stack:
    kind = "compose"

    def require_agent(self, *, browser):
        """All is there."""


@pytest.fixture
def run(monkeypatch, where, suite):
    """Runs the suite with what `perform` makes of each attempt; returns the results, the attempts made, and the plan."""
    monkeypatch.setattr(runner, "Records", Records)
    monkeypatch.setattr(Progress, "__init__", lambda self, *_: None)
    for name in ("__enter__", "show", "ended", "left"):
        monkeypatch.setattr(Progress, name, lambda self, *_: self)
    monkeypatch.setattr(Progress, "__exit__", lambda self, *_: None)
    server = type("Server", (), {"endpoints": lambda self: {"coder": "m"}})()
    performed = []

    def call(perform, *, budget=None, resume=None, retry=False, parallel=1):
        performed.clear()

        def noted(bench, key, most, begun):
            performed.append(key[0])
            bench.journal.begun(key, f"run-{key[0]}")
            attempt, spent = perform(bench, key)
            bench.journal.ended(f"run-{key[0]}", attempt, spent)
            return attempt, spent

        monkeypatch.setattr(runner.attempts, "perform", noted)
        plan = resume or plan_of(suite, budget=budget, parallel=parallel)
        folder = store.folder(where, plan.id)
        folder.mkdir(parents=True, exist_ok=True)
        with journal.opened(folder) as opened:
            if resume is None:
                opened.planned(plan)
            known = journal.read(folder) if resume else Known(plan)
            manner = Manner(judge_seconds=0, retry_errors=retry)
            made = runner._SuiteRun(where, Stack(), server, suite, known, opened, manner).run()
        return made, list(performed), plan

    return call


def passing(bench, key):
    return attempt_of(key, run_id=f"run-{key[0]}"), Decimal("0.10")


def test_a_failing_attempt_does_not_stop_the_others_and_is_kept(run, where):
    def perform(bench, key):
        if key[0] == "one":
            return attempt_of(key, state="error", passed=False, error="no clone", run_id="run-one"), Decimal(
                0
            )
        return passing(bench, key)

    made, performed, _ = run(perform)
    assert performed == ["one", "two", "three"]
    assert [one.state for one in made.attempts] == ["error", "done", "done"]
    assert made.complete
    assert store.find(where, None, made.id) == made
    # MLflow did not take the last one: it is there all the same, and a resume records it.
    assert [one.mlflow_run_id for one in made.attempts] == ["mlflow-one", "mlflow-two", None]


def test_what_the_budget_has_no_room_for_is_told(run):
    made, performed, _ = run(
        lambda bench, key: (attempt_of(key, run_id=f"run-{key[0]}"), Decimal("0.50")), budget="2.40"
    )
    assert performed == ["one", "three"]
    assert not made.complete
    assert made.missing_because == "1 attempt could have gone beyond the budget of 2.40 USD"


def test_attempts_wait_for_what_others_leave_of_the_budget(run):
    made, performed, _ = run(passing, budget="2.60", parallel=3)
    assert performed == ["one", "two", "three"]
    assert made.complete


def test_a_server_that_goes_away_ends_the_run_and_a_resume_goes_on(run, where):
    def perform(bench, key):
        if key[0] == "two":
            raise ServerFailed("MLflow to answer", "no answer", "look")
        return passing(bench, key)

    with pytest.raises(ServerFailed):
        run(perform)
    (folder,) = (where.state / "suites").iterdir()
    made, performed, _ = run(passing, resume=journal.read(folder).plan)
    assert performed == ["two", "three"]
    assert [one.passed for one in made.attempts] == [True, True, True]


def test_a_stopped_attempt_is_begun_again_by_a_resume(run):
    def perform(bench, key):
        bench.running.stopping = True
        raise Stopped

    made, performed, plan = run(perform)
    assert performed == ["one"]
    assert not made.complete
    assert made.missing_because == "cut off before 3 attempts had ended"
    made, performed, _ = run(passing, resume=plan)
    assert performed == ["one", "two", "three"]
    assert made.complete


def test_errors_are_tried_again_where_asked_for(run):
    def perform(bench, key):
        return attempt_of(key, state="error", passed=False, error="x", run_id=f"run-{key[0]}"), Decimal(0)

    _, _, plan = run(perform)
    _, performed, _ = run(passing, resume=plan)
    assert performed == []
    made, performed, _ = run(passing, resume=plan, retry=True)
    assert performed == ["one", "two", "three"]
    assert [one.state for one in made.attempts] == ["done"] * 3


def test_attempts_run_side_by_side_and_no_more_than_asked_for(run):
    together = threading.Barrier(2, timeout=20)
    seen, lock = [], threading.Lock()

    def perform(bench, key):
        with lock:
            seen.append(key)
        if len(seen) <= 2:
            together.wait()
        return passing(bench, key)

    made, _, _ = run(perform, parallel=2)
    assert made.complete


def test_a_suite_that_changed_is_not_gone_on_with(where, suite):
    plan = plan_of(suite)
    folder = store.folder(where, plan.id)
    folder.mkdir(parents=True)
    with journal.opened(folder) as opened:
        opened.planned(plan)
    suite.path.write_text(FREE)
    with pytest.raises(UsageFailed, match="something has changed"):
        runner.resume(where, Stack(), definitions.load, plan.id, Manner())
    with pytest.raises(NotFound):
        runner.resume(where, Stack(), definitions.load, "small-20260101-000000-abcd", Manner())
    with pytest.raises(NotFound, match="the id of a suite run"):
        runner.resume(where, Stack(), definitions.load, "../../etc", Manner())


def test_a_plan_of_the_journal_is_one_line_of_json(suite, tmp_path):
    with journal.opened(tmp_path) as opened:
        opened.planned(plan_of(suite, budget="5"))
    entry = json.loads((tmp_path / journal.NAME).read_text())
    assert Plan.model_validate(entry["plan"]).budget_usd == "5"
