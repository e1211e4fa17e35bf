"""Works the queue off: reads a trace once for all of its judges, lets them look side by side, writes what they say.

Upstream starts a process for each batch of traces (4 s of imports), reads each trace anew for each judge and writes each
assessment by itself.
"""

import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from mlflow.entities.trace import Trace
from mlflow.genai.scorers import Scorer
from mlflow.genai.utils.trace_utils import (
    resolve_expectations_from_trace,
    resolve_inputs_from_trace,
    resolve_outputs_from_trace,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.timeout import MlflowTimeoutError
from pydantic import ValidationError
from sqlalchemy import and_, select, update

from paddock_mlflow.database import judgments, now
from paddock_mlflow.judges import calls, traces
from paddock_mlflow.judges.admission import LOOK_BACK_SECONDS
from paddock_mlflow.judges.calls import Endpoint, Endpoints, Spending
from paddock_mlflow.judges.errors import (
    BadVerdict,
    BudgetSpent,
    Interrupted,
    ModelUnavailable,
    NoVerdict,
    RateLimited,
    ScorerFailed,
    TraceUnreadable,
    UnusableJudge,
)
from paddock_mlflow.judges.queue import Judgment, Queue
from paddock_mlflow.judges.registry import Judge, Judges
from paddock_mlflow.judges.states import Level, Origin, State
from paddock_mlflow.judges.verdicts import (
    Outcome,
    Writer,
    clean,
    failure,
    feedbacks_of,
    on_root,
    tag,
    verdict,
)

_logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Of a judgment whose model does not answer."""
ATTEMPTS_AT_A_VERDICT = 2
"""Of one whose model answers with what is no verdict."""
TAKES = 5
"""A judgment that was taken more often has killed its process each time."""
PAUSES_SECONDS = (10.0, 30.0)
BUDGET_PAUSE_SECONDS = 300.0
"""So long no judge asks an endpoint whose budget was found spent, unless somebody asks for a judgment."""

_RULES = 4
"""Judges side by side that ask no model."""
_HELD = 4
"""Times as many judgments as an endpoint takes are held, so that it never waits for the next to be read."""
_BYTES_HELD = 4
"""Times the largest trace."""
_WRITTEN_TOGETHER = 64
_JUDGES_SECONDS = 2.0
"""How long judges are remembered."""
_CLOSE_SECONDS = 8.0


@dataclass(frozen=True)
class Limits:
    """What working the queue off may take.

    `parallelism` is judges side by side an endpoint; `trace_bytes` the size of the spans, as they are stored, of the
    largest trace or session that is read; `lease_seconds` how long a judgment stays with a process that is gone.
    """

    parallelism: int
    trace_bytes: int
    lease_seconds: float


@dataclass
class _Task:
    judgment: Judgment
    judge: Judge
    scorer: Scorer
    read: list[Trace] = field(repr=False)
    bytes: int = 0


class Work:
    """Judges what is due, until `close`.

    Args:
        store: of MLflow, which reads the traces.
        database_url: of MLflow's tracking database.
        limits: see there.
        stop: set when the process is to end.
        code_folder: where the files of code scorers are; None where there are none to run.
    """

    def __init__(
        self,
        store: SqlAlchemyStore,
        database_url: str,
        limits: Limits,
        stop: threading.Event,
        code_folder: Path | None = None,
    ) -> None:
        self._store = store
        self._queue = Queue(database_url, limits.lease_seconds)
        self._writer = Writer(self._queue)
        self._judges = _Remembered(Judges(database_url, code_folder))
        self._limits = limits
        self._stop = stop
        self._endpoints = Endpoints()
        self._pools: dict[str | None, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()
        self._held: dict[str, Judgment] = {}
        self._bytes = 0
        self._results: queue.SimpleQueue[_Result | None] = queue.SimpleQueue()
        self._free = threading.Event()
        self._thread = threading.Thread(target=self._write_results, name="judge-writer", daemon=True)
        self._thread.start()

    def tick(self) -> int:
        """Take what is due and there is room for, until there is neither.

        Returns:
            How many judgments were taken.
        """
        self._park()
        count = 0
        while not self._stop.is_set():
            self._free.clear()
            taken = self._take()
            if not taken:
                return count
            count += len(taken)
            self._start(taken)
            # Woken by the next that is done.
            while self._full() and not self._stop.is_set():
                self._free.wait(0.2)
                self._free.clear()
        return count

    def renew(self) -> int:
        """Keep what is held; to be called more often than a lease lasts. Returns how many there are."""
        with self._lock:
            held = list(self._held.values())
        if held:
            self._queue.renew(held)
        return len(held)

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        with self._lock:
            return not self._held

    def close(self) -> None:
        """Leave what has not begun to others, give the rest a few seconds, and end."""
        self._stop.set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + _CLOSE_SECONDS
        while (
            any(thread.is_alive() for thread in _threads(self._pools.values()))
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        self._results.put(None)
        self._thread.join(_CLOSE_SECONDS)
        with self._lock:
            held = list(self._held.values())
        self._queue.put_back(held, now(), State.QUEUED, "", counts=False)

    # --- Taking

    def _take(self) -> list[Judgment]:
        with self._lock:
            by_endpoint = Counter(one.endpoint for one in self._held.values())
            room = self._bytes < _BYTES_HELD * self._limits.trace_bytes
        if not room:
            return []
        most = _HELD * self._limits.parallelism
        full = [name for name, count in by_endpoint.items() if name and count >= most]
        limit = max(1, most - (max(by_endpoint.values()) if by_endpoint else 0))
        since = now() - timedelta(seconds=LOOK_BACK_SECONDS)
        taken = self._queue.take(limit, {*full, *self._endpoints.closed()}, since)
        with self._lock:
            self._held |= {one.id: one for one in taken}
        return taken

    def _full(self) -> bool:
        with self._lock:
            if self._bytes >= _BYTES_HELD * self._limits.trace_bytes:
                return True
            return len(self._held) >= _HELD * self._limits.parallelism

    def _park(self) -> None:
        """Say of what waits for an endpoint whose budget is spent that it does, on the traces too."""
        for endpoint in self._endpoints.all():
            why = endpoint.closed
            if not isinstance(why, BudgetSpent):
                continue
            c = judgments.c
            waiting = and_(c.state == State.QUEUED, c.endpoint == endpoint.name)
            with self._queue.engine.connect() as connection:
                asked = select(c.id).where(waiting, c.origin == Origin.ASKED, c.due_at > endpoint.closed_at)
                if connection.execute(asked.limit(1)).first():
                    # Somebody wants to know whether there is money again.
                    endpoint.open()
                    continue
            values = {
                "state": State.BUDGET,
                "reason": _spent(why),
                "due_at": now() + timedelta(seconds=endpoint.seconds_left),
            }
            with self._queue.engine.begin() as connection:
                parked = update(judgments).where(waiting).values(**values).returning(c.trace_id)
                if ids := set(connection.execute(parked).scalars()):
                    tag(connection, ids)

    # --- Reading

    def _start(self, taken: Sequence[Judgment]) -> None:
        begun = set()
        try:
            for task in self._prepare(taken):
                with self._lock:
                    self._bytes += task.bytes
                self._pool(task.judge.endpoint).submit(self._run, task)
                begun.add(task.judgment.id)
        except BaseException:
            # Not renewed, they are taken again when their lease ends.
            with self._lock:
                for one in taken:
                    if one.id not in begun:
                        self._held.pop(one.id, None)
            raise

    def _prepare(self, taken: Sequence[Judgment]) -> Iterable[_Task]:
        """Those that can be judged, with what they look at; what becomes of the others is on its way to the writer."""
        able: list[tuple[Judgment, Judge, Scorer]] = []
        for one in taken:
            judge = self._judges.find(one.experiment_id, one.judge)
            if judge is None:
                self._finish(Outcome(one, State.FILTERED, "the judge was deleted"))
            elif one.attempts > TAKES:
                self._finish(
                    failure(one, judge, Interrupted(f"its process ended {TAKES} times while it looked"))
                )
            else:
                try:
                    able.append((one, judge, self._judges.scorer(judge)))
                except UnusableJudge as unusable:
                    self._finish(failure(one, judge, unusable))
        subjects = self._subjects([one for one, _, _ in able])
        ids = {trace_id for members in subjects.values() for trace_id in members}
        with self._queue.engine.connect() as connection:
            sizes = traces.sizes(connection, ids)
            expected = traces.expectations(connection, ids)
        fit: list[tuple[Judgment, Judge, Scorer]] = []
        for one, judge, scorer in able:
            members = subjects[one.id]
            size = sum(sizes.get(trace_id, 0) for trace_id in members)
            names = expected.get(one.trace_id, {}).keys()
            if size > self._limits.trace_bytes:
                reason = f"too large: {_megabytes(size)} of spans, and a judge reads up to"
                reason = f"{reason} {_megabytes(self._limits.trace_bytes)}"
                self._finish(Outcome(one, State.TOO_LARGE, reason, judge=judge))
            elif judge.needs_expectations and not (
                names & set(judge.expectation_names) if judge.expectation_names else names
            ):
                wanted = " or ".join(judge.expectation_names)
                reason = f"no expectation{f' ({wanted})' if wanted else ''}"
                self._finish(Outcome(one, State.NO_EXPECTATION, reason, judge=judge))
            else:
                fit.append((one, judge, scorer))
        read = self._read({trace_id for one, _, _ in fit for trace_id in subjects[one.id]})
        for one, judge, scorer in fit:
            found = [read[trace_id] for trace_id in subjects[one.id]]
            whole = [trace for trace in found if isinstance(trace, Trace)]
            problems = [problem for problem in found if isinstance(problem, str)]
            if problems or not whole:
                why = problems[0] if problems else "expected an ended trace, found none"
                self._finish(failure(one, judge, TraceUnreadable(why)))
                continue
            yield _Task(one, judge, scorer, whole, sum(sizes.get(id_, 0) for id_ in subjects[one.id]))

    def _subjects(self, held: Sequence[Judgment]) -> dict[str, list[str]]:
        """Judgment → the traces that it looks at."""
        found = {}
        with self._queue.engine.connect() as connection:
            for one in held:
                if one.level is Level.TRACE:
                    found[one.id] = [one.subject]
                else:
                    found[one.id] = traces.session_traces(connection, one.experiment_id, one.subject)
        return found

    def _read(self, trace_ids: Iterable[str]) -> dict[str, Trace | str]:
        """The traces, each once; a text says why one can't be read."""
        ids = sorted(trace_ids)
        try:
            found = {one.info.trace_id: one for one in self._store.batch_get_traces(ids)}
        except Exception as error:
            if len(ids) == 1:
                _logger.exception("a trace can't be read")
                return {
                    ids[0]: f"expected a trace that MLflow can read, found {type(error).__name__}: {error}"
                }
            # One of them is broken: the others are not to suffer.
            read: dict[str, Trace | str] = {}
            for trace_id in ids:
                read |= self._read([trace_id])
            return read
        return {trace_id: _with_root(found.get(trace_id)) for trace_id in ids}

    # --- Judging

    def _pool(self, endpoint: str | None) -> ThreadPoolExecutor:
        if endpoint not in self._pools:
            size = self._limits.parallelism if endpoint else _RULES
            self._pools[endpoint] = ThreadPoolExecutor(size, thread_name_prefix=f"judge-{endpoint or 'rule'}")
        return self._pools[endpoint]

    def _run(self, task: _Task) -> None:
        endpoint = self._endpoints[task.judge.endpoint] if task.judge.endpoint else None
        try:
            if self._stop.is_set():
                result: _Result = _Back(task.judgment, 0.0, "", counts=False)
            elif endpoint is not None and (why := endpoint.closed):
                result = self._without(task, why, None, endpoint)
            else:
                result = self._judge(task, endpoint)
        except Exception as error:
            # A defect of ours must not leave the judgment running for ever.
            _logger.exception("judging failed")
            told = ScorerFailed(f"{type(error).__name__}: {error}")
            result = failure(task.judgment, task.judge, told)
        with self._lock:
            self._bytes -= task.bytes
        task.read.clear()
        self._finish(result)

    def _judge(self, task: _Task, endpoint: Endpoint | None) -> "_Result":
        spending = Spending(endpoint)
        why: NoVerdict
        try:
            value = calls.counted(spending, lambda: _ask(task))
            found = feedbacks_of(task.judge, task.scorer, value)
        except UnusableJudge as error:
            # It could be called, so this is about what its model said.
            why = BadVerdict(str(error)) if endpoint is not None else error
        except NoVerdict as error:
            why = spending.failure or error
        except Exception as error:  # noqa: BLE001 - whatever a scorer throws is the reason that there is no verdict
            why = spending.failure or _why(task.judge, error)
        else:
            if not (spending.failure and any(one.error for one in found)):
                if task.judgment.level is Level.TRACE:
                    on_root(task.read[0], found)
                return verdict(task.judgment, task.judge, found, spending.cost_usd)
            why = spending.failure
        return self._without(task, why, spending, endpoint)

    def _without(
        self, task: _Task, why: NoVerdict, spending: Spending | None, endpoint: Endpoint | None
    ) -> "_Result":
        """What becomes of a judgment that has no verdict yet."""
        one, judge = task.judgment, task.judge
        cost = spending.cost_usd if spending else None
        if isinstance(why, BudgetSpent):
            left = endpoint.seconds_left if endpoint else BUDGET_PAUSE_SECONDS
            return Outcome(one, State.BUDGET, _spent(why), due=left, judge=judge)
        if self._stop.is_set():
            return _Back(one, 0.0, "", counts=False)
        if isinstance(why, RateLimited):
            if now() - one.created_at < timedelta(seconds=LOOK_BACK_SECONDS):
                left = max(why.retry_after, endpoint.seconds_left if endpoint else 0.0)
                return _Back(one, left, f"waiting: {why}", counts=False)
        elif why.again:
            most = ATTEMPTS_AT_A_VERDICT if isinstance(why, BadVerdict) else ATTEMPTS
            if one.attempts < most:
                pause = PAUSES_SECONDS[min(one.attempts, len(PAUSES_SECONDS)) - 1]
                return _Back(one, pause, f"tried {one.attempts} of {most} times: {why}", counts=True)
        return failure(one, judge, why, cost)

    # --- Writing

    def _finish(self, result: "_Result") -> None:
        self._results.put(result)

    def _write_results(self) -> None:
        while True:
            batch = [self._results.get()]
            while len(batch) < _WRITTEN_TOGETHER and batch[-1] is not None and not self._results.empty():
                batch.append(self._results.get())
            results = [one for one in batch if one is not None]
            if results:
                self._write(results)
            if batch[-1] is None:
                return

    def _write(self, results: Sequence["_Result"]) -> None:
        try:
            if outcomes := [one for one in results if isinstance(one, Outcome)]:
                self._writer.write(outcomes)
            for one in results:
                if isinstance(one, _Back):
                    due = now() + timedelta(seconds=one.seconds)
                    self._queue.put_back(
                        [one.judgment], due, State.QUEUED, clean(one.reason, 2000), counts=one.counts
                    )
        except Exception:
            # A database that is away: the leases end, and whoever is there then takes them up again.
            _logger.exception("what %d judge(s) said could not be written", len(results))
        with self._lock:
            for one in results:
                self._held.pop(one.judgment.id, None)
        self._free.set()


@dataclass(frozen=True)
class _Back:
    """A judgment that goes back to the queue for some seconds."""

    judgment: Judgment
    seconds: float
    reason: str
    counts: bool


type _Result = Outcome | _Back


class _Remembered:
    """Judges and their scorers, looked up now and then: a scorer takes milliseconds to make."""

    def __init__(self, judges: Judges) -> None:
        self._registry = judges
        self._by_experiment: dict[str, tuple[float, dict[str, Judge]]] = {}
        self._scorers: dict[tuple[str, str, int, str], Scorer] = {}

    def find(self, experiment_id: str, name: str) -> Judge | None:
        until, judges = self._by_experiment.get(experiment_id, (0.0, {}))
        if time.monotonic() >= until:
            judges = {judge.name: judge for judge in self._registry.of_experiment(experiment_id)}
            self._by_experiment[experiment_id] = (time.monotonic() + _JUDGES_SECONDS, judges)
        return judges.get(name)

    def scorer(self, judge: Judge) -> Scorer:
        key = (judge.experiment_id, judge.name, judge.version, judge.fingerprint)
        if key not in self._scorers:
            scorer = judge.scorer()
            self._registry.remember(judge)
            self._scorers[key] = scorer
        return self._scorers[key]


def _ask(task: _Task) -> object:
    scorer: Any = task.scorer
    if task.judgment.level is Level.SESSION:
        return scorer.run(session=task.read)
    trace = task.read[0]
    if task.judge.serialized is not None:
        return scorer.run(trace=trace)
    # A function from a file takes what it needs by name, where MLflow's scorers find it in the trace themselves.
    return scorer.run(
        trace=trace,
        inputs=resolve_inputs_from_trace(None, trace),
        outputs=resolve_outputs_from_trace(None, trace),
        expectations=resolve_expectations_from_trace(None, trace),
    )


def _why(judge: Judge, error: Exception) -> NoVerdict:
    text = clean(f"{type(error).__name__}: {error}", 2000)
    if isinstance(error, MlflowTimeoutError):
        return ModelUnavailable(text) if judge.endpoint else ScorerFailed(text)
    malformed = isinstance(error, json.JSONDecodeError | KeyError | ValidationError)
    if judge.endpoint and (malformed or "Failed to parse response from judge model" in str(error)):
        return BadVerdict(f"expected a JSON object with result and rationale, found {text}")
    return ScorerFailed(text)


def _with_root(trace: Trace | None) -> Trace | str:
    if trace is None:
        return "expected a trace with all of its spans, found none of them, or not all"
    if trace.data._get_root_span() is None:
        return f"expected a trace with a root span, found {len(trace.data.spans)} span(s) and none that is"
    return trace


def _spent(why: BudgetSpent) -> str:
    return clean(f"judge budget spent: {why}", 1000)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _threads(pools: Iterable[ThreadPoolExecutor]) -> list[threading.Thread]:
    return [thread for pool in pools for thread in pool._threads]
