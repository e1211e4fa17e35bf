"""Runs a suite: attempts side by side, within a budget, to their verdicts; goes on with a suite run that was cut off."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table
from rich.text import Text

from paddock_cli import console, judging
from paddock_cli.errors import CliError, NotFound, UnknownEndpoint, UsageFailed
from paddock_cli.exit_codes import ExitCode
from paddock_cli.keys import usd_of
from paddock_cli.mlflow_api import EXPECTATION, Mlflow, Trace
from paddock_cli.processes import owner_name
from paddock_cli.settings import Paths
from paddock_cli.stack import Stack
from paddock_cli.suites import attempts, checks, journal, store
from paddock_cli.suites.attempts import Bench, Stopped
from paddock_cli.suites.changes import git_variables
from paddock_cli.suites.definitions import Suite
from paddock_cli.suites.journal import Begun, Journal, Key, Known, Plan
from paddock_cli.suites.progress import Progress
from paddock_cli.suites.records import Records
from paddock_cli.suites.results import Attempt, JudgeResult, SuiteRun

MAX_PARALLEL = 64
MAX_ATTEMPTS = 10_000
JUDGE_THREADS = 8
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; `budget` in USD as the user wrote it."""

    endpoints: tuple[str, ...] = ("coder",)
    repeat: int = 1
    parallel: int = 2
    budget: str | None = None
    label: str | None = None
    tasks: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manner:
    """How it is run, which a resume may choose anew."""

    judge_seconds: float = 120
    keep: bool = False
    retry_errors: bool = False
    parallel: int | None = None


def planned(suite: Suite, wanted: Wanted, stack_kind: str) -> Plan:
    """What will be run.

    Raises:
        UsageFailed: it makes no sense.
    """
    chosen = suite.chosen(wanted.tasks, wanted.tags)
    endpoints = tuple(dict.fromkeys(name.strip() for name in wanted.endpoints if name.strip()))
    if not endpoints:
        raise UsageFailed("--endpoint with a name", "none", "name one: --endpoint coder")
    if wanted.label is not None and (not store.LABEL.fullmatch(wanted.label) or wanted.label == store.LATEST):
        raise UsageFailed(
            f"--label of letters, digits and . _ / + -, 100 at most, and not {store.LATEST}",
            repr(wanted.label),
            "write it like --label main",
        )
    if not 1 <= wanted.parallel <= MAX_PARALLEL:
        raise UsageFailed(f"--parallel from 1 to {MAX_PARALLEL}", str(wanted.parallel), "mend it")
    budget = None if wanted.budget is None else usd_of(wanted.budget, "--budget")
    plan = Plan(
        id=store.new_id(suite.file.name),
        suite=suite.file.name,
        file=str(suite.path),
        sha256=suite.sha256(),
        tasks=tuple(task.id for task in chosen),
        endpoints=endpoints,
        repeat=wanted.repeat,
        parallel=wanted.parallel,
        budget_usd=None if budget is None else f"{budget:f}",
        label=wanted.label,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        stack=stack_kind,
        user=owner_name(),
    )
    if (number := len(plan.attempts())) > MAX_ATTEMPTS:
        raise UsageFailed(
            f"at most {MAX_ATTEMPTS} attempts", str(number), "choose fewer tasks or repetitions"
        )
    if (
        budget is not None
        and (least := min(_Purse(suite, plan).wants(key) for key in plan.attempts())) > budget
    ):
        raise UsageFailed(
            f"--budget of at least {least} USD, what one attempt may cost by the suite's limits",
            f"{budget} USD",
            "give more, or lower limits.budget_usd in the suite",
        )
    return plan


def begin(where: Paths, stack: Stack, suite: Suite, plan: Plan, manner: Manner) -> SuiteRun:
    """Run a suite to its end.

    Raises:
        UnknownEndpoint, NotRunning, ServerFailed: before anything is begun, or in the middle; then a resume goes on.
    """
    server = Mlflow(stack.connection())
    _require_endpoints(server, plan)
    folder = store.folder(where, plan.id)
    folder.mkdir(parents=True, mode=0o700)
    with journal.opened(folder) as opened:
        opened.planned(plan)
        return _SuiteRun(where, stack, server, suite, Known(plan), opened, manner).run()


def resume(
    where: Paths, stack: Stack, load: Callable[[Path], Suite], suite_run: str, manner: Manner
) -> SuiteRun:
    """Go on with a suite run that was cut off.

    Args:
        load: reads the suite's file.

    Raises:
        NotFound: there is none of that id here.
        UsageFailed: another runner is on it, the suite is another one by now, or so is the stack.
    """
    if not store.ID.fullmatch(suite_run):
        raise NotFound(
            "the id of a suite run, like coding-20261125-211500-3f9a",
            repr(suite_run),
            "list them: ./paddock suite status",
        )
    folder = store.folder(where, suite_run)
    plan = journal.read(folder).plan
    suite = load(Path(plan.file))
    if suite.sha256() != plan.sha256:
        raise UsageFailed(
            f"{plan.file} and what it names as they were when {suite_run} began",
            "that something has changed",
            "put it back, or begin anew: ./paddock suite run; attempts at two suites don't compare",
        )
    if stack.kind != plan.stack:
        raise UsageFailed(
            f"the {plan.stack} stack that {suite_run} began on", f"the {stack.kind} one", "bring it up"
        )
    server = Mlflow(stack.connection())
    _require_endpoints(server, plan)
    with journal.opened(folder) as opened:
        # Read again: nobody else writes it now.
        return _SuiteRun(where, stack, server, suite, journal.read(folder), opened, manner).run()


def _require_endpoints(server: Mlflow, plan: Plan) -> None:
    known = server.endpoints()
    if missing := [name for name in plan.endpoints if name not in known]:
        raise UnknownEndpoint(
            f"endpoints of the gateway: {', '.join(sorted(known)) or 'none is there'}",
            ", ".join(map(repr, missing)),
            f"name some of them, or make one in the UI: {server.url}/#/gateway",
        )


class _Purse:
    """The budget of a suite run: what is spent, and what the attempts that are on may still spend, in USD."""

    def __init__(self, suite: Suite, plan: Plan, spent: Decimal = Decimal(0)) -> None:
        self._limits = {task.id: suite.limits(task).budget_usd for task in suite.file.tasks}
        self._total = None if plan.budget_usd is None else Decimal(plan.budget_usd)
        # Rounded down to what a key's budget may have of decimal places.
        share = None if self._total is None else self._total / len(plan.attempts())
        self._share = (
            None if share is None else share.quantize(Decimal("0.0000000001"), rounding="ROUND_DOWN")
        )
        self._spent = spent
        self._reserved: dict[Key, Decimal] = {}

    def budget(self, key: Key) -> Decimal | None:
        """What the model calls of an attempt may cost; where the suite doesn't say, an equal share of the whole."""
        return self._limits[key[0]] or self._share

    def wants(self, key: Key) -> Decimal:
        return self.budget(key) or Decimal(0)

    def take(self, key: Key) -> bool:
        """Set aside what an attempt may cost. Returns whether that much is left."""
        if self._total is not None:
            left = self._total - self._spent - sum(self._reserved.values(), Decimal(0))
            if self.wants(key) > left:
                return False
        self._reserved[key] = self.wants(key)
        return True

    def settle(self, key: Key, spent: Decimal) -> None:
        self._reserved.pop(key, None)
        self._spent += spent


class _SuiteRun:
    def __init__(
        self,
        where: Paths,
        stack: Stack,
        server: Mlflow,
        suite: Suite,
        known: Known,
        opened: Journal,
        manner: Manner,
    ) -> None:
        self._where = where
        self._stack = stack
        self._server = server
        self._suite = suite
        self._plan = known.plan
        self._journal = opened
        self._manner = manner
        self._parallel = manner.parallel or known.plan.parallel
        newest = known.newest()
        again = {
            key
            for key, one in newest.items()
            if manner.retry_errors and one.attempt is not None and one.attempt.state == "error"
        }
        self._ended: dict[Key, Attempt] = {
            key: one.attempt for key, one in newest.items() if one.attempt is not None and key not in again
        }
        self._begun: dict[Key, Begun] = {key: one for key, one in newest.items() if one.attempt is None}
        self._purse = _Purse(suite, known.plan, known.spent())
        self._beyond: list[Key] = []
        self._failure: Exception | None = None
        self._git = _git_of(suite.folder)
        self._records = Records(server, suite, known.plan)
        self._records.dataset()

    def run(self) -> SuiteRun:
        self._stack.require_agent(browser=self._needs_browser())
        if self._stack.kind == "embedded":
            console.warn(checks.NO_FENCE)
        progress = Progress(len(self._plan.attempts()), len(self._ended))
        bench = Bench(
            self._where,
            self._stack,
            self._server,
            self._suite,
            self._plan,
            self._journal,
            self._server.endpoints(),
            progress.show,
            keep=self._manner.keep,
        )
        self._keep()
        self._record(bench)
        with progress, _stopped_by_signals(bench):
            self._make_all(bench, progress)
        interrupted = bench.running.stopping
        if not interrupted and self._failure is None:
            self._judge(bench)
        self._finish(interrupted)
        if self._failure is not None:
            console.warn(self._how_to_go_on())
            raise self._failure
        return self._results()

    # Attempts

    def _make_all(self, bench: Bench, progress: Progress) -> None:
        # What was begun comes first: its agents may still be at work.
        waiting = sorted(
            (key for key in self._plan.attempts() if key not in self._ended),
            key=lambda key: key not in self._begun,
        )
        running: dict[Future[tuple[Attempt, Decimal]], Key] = {}
        with ThreadPoolExecutor(max_workers=self._parallel, thread_name_prefix="attempt") as pool:
            while waiting or running:
                while waiting and len(running) < self._parallel and not self._is_over(bench):
                    key = self._next(waiting, bool(running))
                    if key is None:
                        break
                    budget = self._purse.budget(key)
                    begun = self._begun.get(key)
                    running[pool.submit(self._perform, bench, key, budget, begun)] = key
                if not running:
                    break
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    self._take(running.pop(future), future, progress)

    def _perform(
        self, bench: Bench, key: Key, budget: Decimal | None, begun: Begun | None
    ) -> tuple[Attempt, Decimal]:
        attempt, spent = attempts.perform(bench, key, budget, begun)
        return self._recorded(bench, key, attempt), spent

    def _recorded(self, bench: Bench, key: Key, attempt: Attempt) -> Attempt:
        """The attempt with its MLflow run; as it is where MLflow can't take it now."""
        assert attempt.run_id is not None
        try:
            mlflow_run_id = self._records.attempt(attempt, bench.folder(attempt.run_id))
        except CliError as error:
            console.warn(f"{_name(key)} is not recorded in MLflow: {error}; a resume records it")
            return attempt
        self._journal.recorded(attempt.run_id, mlflow_run_id)
        return attempt.model_copy(update={"mlflow_run_id": mlflow_run_id})

    def _is_over(self, bench: Bench) -> bool:
        return bench.running.stopping or self._failure is not None

    def _next(self, waiting: list[Key], others_run: bool) -> Key | None:
        """An attempt that the budget has room for; None where it must be waited for others, or there is none."""
        for key in list(waiting):
            if self._purse.take(key):
                waiting.remove(key)
                return key
        if not others_run:
            self._beyond = list(waiting)
            waiting.clear()
        return None

    def _take(self, key: Key, future: Future[tuple[Attempt, Decimal]], progress: Progress) -> None:
        try:
            attempt, spent = future.result()
        except Stopped:
            progress.left(key, "ended; a resume goes on with it")
            return
        except Exception as error:  # noqa: BLE001 - raised again, when the others have ended
            progress.left(key, f"{error}")
            self._failure = self._failure or error
            return
        self._purse.settle(key, spent)
        self._ended[key] = attempt
        progress.ended(key, attempt)
        self._keep()

    def _needs_browser(self) -> bool:
        chosen = [task for task in self._suite.file.tasks if task.id in self._plan.tasks]
        return any("browser" in (self._suite.tools(task) or ()) for task in chosen)

    # Verdicts and records

    def _record(self, bench: Bench) -> None:
        """Attempts of before that MLflow has no run of: a runner was killed between their end and that."""
        for key, one in self._ended.items():
            if one.mlflow_run_id is None:
                self._ended[key] = self._recorded(bench, key, one)

    def _judge(self, bench: Bench) -> None:
        left = {
            key: one
            for key, one in self._ended.items()
            if one.state == "done" and one.trace_url and not one.judges and one.outcome == "finished"
        }
        if not left or not self._manner.judge_seconds:
            return
        deadline = time.monotonic() + self._manner.judge_seconds
        with (
            console.step(f"waiting for the judges of {len(left)} attempt(s)") as step,
            ThreadPoolExecutor(max_workers=JUDGE_THREADS) as pool,
        ):
            judged = {key: pool.submit(self._verdicts, one, deadline) for key, one in left.items()}
            for number, (key, future) in enumerate(judged.items(), 1):
                step.show(f"{number} of {len(judged)}")
                try:
                    verdicts = future.result()
                except CliError as error:
                    console.warn(f"no verdicts on {_name(key)}: {error}")
                    continue
                one = self._ended[key]
                assert one.run_id is not None
                self._journal.judged(one.run_id, verdicts)
                self._ended[key] = one.model_copy(update={"judges": verdicts})
                self._records.judged(self._ended[key])

    def _verdicts(self, attempt: Attempt, deadline: float) -> dict[str, JudgeResult]:
        task = next(one for one in self._suite.file.tasks if one.id == attempt.task)
        assert attempt.trace_id is not None
        trace = self._server.trace(attempt.trace_id)
        # Logged once, also where a runner was killed after it had.
        new = [] if EXPECTATION in trace.expectations else list(task.expect)
        if task.expect and not new and judging.CORRECTNESS in self._server.judges(trace.experiment_id):
            # As often as wanted: it looks once.
            asked = judging.Wanted(trace.experiment_id, [trace.trace_id], judges=[judging.CORRECTNESS])
            judging.ask(self._server, asked)
        seconds = max(0.0, deadline - time.monotonic())
        trace = judging.judge_run(self._server, trace, new, self._plan.user, lambda _: None, seconds)
        return _judges_of(trace)

    # Results

    def _results(self) -> SuiteRun:
        plan = self._plan
        missing = len(plan.attempts()) - len(self._ended)
        return SuiteRun(
            id=plan.id,
            suite=plan.suite,
            suite_sha256=plan.sha256,
            label=plan.label,
            created=plan.created,
            stack=plan.stack,
            endpoints=plan.endpoints,
            repeat=plan.repeat,
            budget_usd=plan.budget_usd,
            complete=not missing,
            missing_because=self._missing_because(missing),
            git=self._git,
            mlflow_run_id=self._records.parent.run_id,
            mlflow_url=self._records.url,
            attempts=tuple(self._ended[key] for key in plan.attempts() if key in self._ended),
        )

    def _missing_because(self, missing: int) -> str:
        if not missing:
            return ""
        if self._beyond:
            beyond = _counted(len(self._beyond))
            return f"{beyond} could have gone beyond the budget of {self._plan.budget_usd} USD"
        return f"cut off before {_counted(missing)} had ended"

    def _keep(self) -> None:
        store.write(self._where, self._results())

    def _finish(self, interrupted: bool) -> None:
        results = self._results()
        store.write(self._where, results)
        try:
            if interrupted or self._failure is not None:
                self._records.results(results)
            else:
                self._records.close(results)
        except CliError as error:
            console.warn(f"MLflow does not have the results: {error}")
        if interrupted:
            console.warn(self._how_to_go_on())
        elif not results.complete and self._failure is None:
            console.warn(f"Not complete: {results.missing_because}.")

    def _how_to_go_on(self) -> str:
        return f"Cut off; nothing is lost. Go on with: ./paddock suite run --resume {self._plan.id}"


def _judges_of(trace: Trace) -> dict[str, JudgeResult]:
    return {
        name: JudgeResult(
            value=verdict.value or None,
            passed=None if verdict.error else verdict.passed,
            rationale=verdict.rationale[:4000],
            error=verdict.error,
        )
        for name, verdict in sorted(trace.latest().items())
    }


def _counted(number: int) -> str:
    return f"{number} attempt" if number == 1 else f"{number} attempts"


def _name(key: Key) -> str:
    return f"{key[0]} on {key[1]}, repetition {key[2]}"


@contextmanager
def _stopped_by_signals(bench: Bench) -> Iterator[None]:
    """The first signal ends every agent; a second one ends this program too, and leaves them to a resume."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        if bench.running.stopping:
            # At once: an exception would wait for the threads, and they wait for the agents.
            console.err.show_cursor()
            os._exit(ExitCode.INTERRUPTED)
        # From a thread: it takes a lock that the interrupted code may hold.
        threading.Thread(target=bench.running.stop, args=[signal.SIGINT], daemon=True).start()
        console.say("ending the agents; once more to leave them alone ...")

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _git_of(folder: Path) -> dict[str, Any] | None:
    """Commit, branch and state of the repository around a folder, where there is one."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-c", "core.fsmonitor=false", *words],
                cwd=folder,
                env=git_variables() | {"GIT_OPTIONAL_LOCKS": "0"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {
        "commit": commit,
        "branch": ask("branch", "--show-current") or None,
        "dirty": bool(ask("status", "--porcelain", "--", ".")),
    }


def summary(run: SuiteRun) -> str:
    """A suite run in one line."""
    done = [one for one in run.attempts if one.state == "done"]
    passed, errors = sum(one.passed for one in done), len(run.attempts) - len(done)
    parts = [f"{passed} of {len(done)} attempts passed"]
    parts += [f"{errors} in error"] if errors else []
    parts += [] if run.complete else [run.missing_because]
    return ", ".join(parts)


def state_of(where: Paths, run: SuiteRun) -> str:
    """`running`, `complete`, or `incomplete`."""
    if journal.is_running(store.folder(where, run.id)):
        return "running"
    return "complete" if run.complete else "incomplete"


def show(run: SuiteRun) -> None:
    """The attempts as a table, and where to look further."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("task", "endpoint", "try", "result", "checks", "judges", "cost", "time"):
        table.add_column(column, overflow="fold", justify="right" if column in ("cost", "time") else "left")
    for one in run.attempts:
        result = ("passed", "green") if one.passed else ("failed", "red")
        if one.state == "error":
            result = ("error", "yellow")
        failed = ", ".join(check.name for check in one.checks if not check.passed)
        judged = [judge.passed for judge in one.judges.values() if judge.passed is not None]
        table.add_row(
            one.task,
            one.endpoint,
            str(one.repeat),
            Text(result[0], style=result[1]),
            Text(f"not: {failed}" if failed else f"{len(one.checks)} pass" if one.checks else one.outcome),
            f"{sum(judged)}/{len(judged)}" if judged else "–",
            "–" if one.cost_usd is None else f"${one.cost_usd:.4f}",
            f"{one.seconds:.0f} s",
        )
    console.out.print(table)
    console.out.print()
    console.out.print(Text(f"{run.id}: {summary(run)}", style="bold"), soft_wrap=True)
    for one in run.attempts:
        if one.error:
            console.out.print(Text(f"error in {_name(one.key)}: {one.error}"), soft_wrap=True)
    console.out.print(f"MLflow     {run.mlflow_url}", soft_wrap=True)
    console.out.print(f"report     ./paddock suite report {run.id}", soft_wrap=True)
