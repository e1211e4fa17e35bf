"""Which judges look at what has ended: a row in the queue for each of them, or one that says why not.

Upstream counts from a trace's *start* (`OnlineTraceCheckpointManager`): a run longer than its buffer is judged half-done
or never, and a run that was abandoned gets a verdict on nothing. Here a trace is taken when its state is no longer
IN_PROGRESS.
"""

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Connection, func, select, update

from paddock_mlflow.database import engine, judgments, now
from paddock_mlflow.judges import traces
from paddock_mlflow.judges.queue import Subject, add, new_row, row_id
from paddock_mlflow.judges.registry import Judge, Judges
from paddock_mlflow.judges.states import Level, Origin, State
from paddock_mlflow.judges.traces import infos
from paddock_mlflow.judges.verdicts import tag

_logger = logging.getLogger(__name__)

LOOK_BACK_SECONDS = 3600
"""A trace that ended longer ago is not judged by itself, as upstream: starting a scorer does not judge history."""

SETTLE_SECONDS = 1.0
"""Rest after a trace's end, in which a batch that was overtaken by the one with the root span can still arrive."""

LONGEST_RUN_SECONDS = 7 * 24 * 3600
"""A trace that took longer is judged when asked. It is looked for once in `DEEP_SECONDS`, usual ones each time: no index
leads to what ended lately."""
USUAL_RUN_SECONDS = 3600
DEEP_SECONDS = 60.0

_MAX_TRACES = 500


class Admission:
    """Fills the queue.

    Args:
        store: of MLflow, for its search language.
        database_url: of MLflow's tracking database.
        session_idle_seconds: a session is judged when its last trace ended so long ago and none is running.
    """

    def __init__(self, store: SqlAlchemyStore, database_url: str, session_idle_seconds: float) -> None:
        self._store = store
        self._engine = engine(database_url)
        self._judges = Judges(database_url)
        self._idle = timedelta(seconds=session_idle_seconds)
        self._deep_at = 0.0

    def tick(self) -> int:
        """Look for what has ended since the last call.

        Returns:
            How many rows are new.
        """
        deep = time.monotonic() >= self._deep_at
        if deep:
            self._deep_at = time.monotonic() + DEEP_SECONDS
        span = LONGEST_RUN_SECONDS if deep else USUAL_RUN_SECONDS
        groups: dict[tuple[str, str], list[Judge]] = defaultdict(list)
        for judge in self._judges.active():
            groups[judge.experiment_id, judge.level].append(judge)
        new = 0
        for (experiment_id, level), judges in groups.items():
            if level == Level.TRACE:
                new += self._traces(experiment_id, judges, timedelta(seconds=span))
            else:
                new += self._sessions(experiment_id, judges, timedelta(seconds=span))
            new += self._expected(judges)
        return new

    def _traces(self, experiment_id: str, judges: Sequence[Judge], span: timedelta) -> int:
        names = [judge.name for judge in judges]
        moment = now()
        ended = traces.ended_ms()
        decided = (
            select(func.count())
            .where(judgments.c.subject == infos.c.request_id, judgments.c.judge.in_(names))
            .scalar_subquery()
        )
        back = timedelta(seconds=LOOK_BACK_SECONDS)
        query = (
            select(infos.c.request_id, ended.label("ended"))
            .where(
                infos.c.experiment_id == int(experiment_id),
                infos.c.timestamp_ms >= traces.milliseconds(moment - back - span),
                infos.c.status.in_(traces.ENDED),
                ended >= traces.milliseconds(moment - back),
                ended <= traces.milliseconds(moment - timedelta(seconds=SETTLE_SECONDS)),
                decided < len(names),
                traces.judgeable(),
            )
            .order_by(infos.c.timestamp_ms)
            .limit(_MAX_TRACES)
        )
        with self._engine.connect() as connection:
            subjects = [
                Subject(row.request_id, row.request_id, traces.moment(row.ended))
                for row in connection.execute(query)
            ]
            known = _known(connection, subjects, judges)
        if not subjects:
            return 0
        rows = [row for row in self._rows(experiment_id, subjects, judges) if row["id"] not in known]
        return self._insert(rows)

    def _sessions(self, experiment_id: str, judges: Sequence[Judge], span: timedelta) -> int:
        """A session that goes on after its verdict is judged again when it is idle again; the new verdict takes the place
        of the old one."""
        moment = now()
        back = timedelta(seconds=LOOK_BACK_SECONDS) + self._idle
        lately = select(infos.c.session_id).where(
            infos.c.experiment_id == int(experiment_id),
            infos.c.timestamp_ms >= traces.milliseconds(moment - back - span),
            infos.c.session_id.is_not(None),
            traces.ended_ms() >= traces.milliseconds(moment - back),
        )
        with self._engine.connect() as connection:
            subjects = [
                session.subject
                for session in traces.sessions(connection, experiment_id, lately)
                if session.subject.ended_at <= moment - self._idle
                # One that never ends does not keep its session from being judged for ever.
                and (session.running_ms or 0) < traces.milliseconds(moment - back)
            ]
            known = _known(connection, subjects, judges)
        rows = [row for row in self._rows(experiment_id, subjects, judges) if row["id"] not in known]
        return self._insert(rows) + self._gone_on(subjects, judges)

    def _gone_on(self, subjects: Sequence[Subject], judges: Sequence[Judge]) -> int:
        c = judgments.c
        ended = {one.id: one.ended_at for one in subjects}
        names = [judge.name for judge in judges]
        query = select(c.id, c.subject, c.subject_ended_at).where(
            c.subject.in_(list(ended)),
            c.judge.in_(names),
            c.level == Level.SESSION,
            c.state.not_in([State.QUEUED, State.RUNNING, State.SAMPLED_OUT, State.FILTERED]),
        )
        count = 0
        with self._engine.begin() as connection:
            for row in connection.execute(query).all():
                if row.subject_ended_at >= ended[row.subject]:
                    continue
                again = (
                    update(judgments)
                    .where(c.id == row.id, c.state.not_in([State.QUEUED, State.RUNNING]))
                    .values(
                        state=State.QUEUED,
                        origin=Origin.ONLINE,
                        reason="",
                        attempts=0,
                        due_at=now(),
                        subject_ended_at=ended[row.subject],
                    )
                )
                count += connection.execute(again).rowcount
        return count

    def _expected(self, judges: Sequence[Judge]) -> int:
        """Queue again what lacked an expectation that has come since."""
        c = judgments.c
        since = now() - timedelta(seconds=LOOK_BACK_SECONDS)
        count = 0
        for judge in judges:
            if not judge.needs_expectations:
                continue
            came = (
                update(judgments)
                .where(
                    c.experiment_id == judge.experiment_id,
                    c.judge == judge.name,
                    c.state == State.NO_EXPECTATION,
                    c.subject_ended_at >= since,
                    traces.has_expectation(c.trace_id, judge.expectation_names),
                )
                .values(state=State.QUEUED, reason="", attempts=0, due_at=now())
            )
            with self._engine.begin() as connection:
                count += connection.execute(came).rowcount
        return count

    def _rows(
        self, experiment_id: str, subjects: Sequence[Subject], judges: Sequence[Judge]
    ) -> Iterator[dict[str, Any]]:
        groups: dict[str | None, list[Judge]] = defaultdict(list)
        for judge in judges:
            groups[judge.filter].append(judge)
        for filter_string, group in groups.items():
            matching = {one.trace_id for one in subjects}
            excluded = "excluded by its filter"
            if filter_string:
                excluded += f": {filter_string}"
                try:
                    matching = traces.matching(
                        self._store, experiment_id, [one.trace_id for one in subjects], filter_string
                    )
                except MlflowException as error:
                    matching, excluded = set(), f"its filter can't be used: {filter_string}: {error.message}"
            for subject in subjects:
                if subject.trace_id not in matching:
                    for judge in group:
                        yield new_row(judge, subject, Origin.ONLINE, State.FILTERED, excluded)
                    continue
                sampled = sample(subject.id, group)
                for judge in group:
                    if judge.name in sampled:
                        yield new_row(judge, subject, Origin.ONLINE)
                    else:
                        reason = f"sampled out: it looks at {judge.sample_rate:.4g} of all"
                        yield new_row(judge, subject, Origin.ONLINE, State.SAMPLED_OUT, reason)

    def _insert(self, rows: Sequence[dict[str, Any]]) -> int:
        if not rows:
            return 0
        with self._engine.begin() as connection:
            added = add(connection, rows)
            passed = {row["trace_id"] for row in rows if row["id"] in added and row["state"] != State.QUEUED}
            if passed:
                tag(connection, passed)
        return len(added)


def _known(connection: Connection, subjects: Sequence[Subject], judges: Sequence[Judge]) -> set[str]:
    ids = [row_id(judge.experiment_id, judge.name, subject.id) for judge in judges for subject in subjects]
    known: set[str] = set()
    for start in range(0, len(ids), _MAX_TRACES):
        query = select(judgments.c.id).where(judgments.c.id.in_(ids[start : start + _MAX_TRACES]))
        known.update(connection.execute(query).scalars())
    return known


def sample(subject: str, judges: Sequence[Judge]) -> set[str]:
    """The names of those of a group that look at a trace or session: the same ones each time it is asked.

    As upstream's `OnlineScorerSampler.sample`: sorted by rate, each with the rate that is left by the one before, so that
    what is looked at is looked at by many.
    """
    selected: set[str] = set()
    rate_before = 1.0
    for judge in sorted(judges, key=lambda one: one.sample_rate, reverse=True):
        digest = hashlib.sha256(f"{subject}:{judge.name}".encode()).hexdigest()
        if int(digest, 16) / 2**256 > (judge.sample_rate / rate_before if rate_before > 0 else 0):
            break
        selected.add(judge.name)
        rate_before = judge.sample_rate
    return selected
