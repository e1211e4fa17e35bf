"""What people want judged now: traces, sessions, or all that ended since a moment.

An ask puts rows into the queue, or back into it. It makes no second verdict of the same version of a judge, unless it
says so, or the expectation that the judge compares with came or changed since.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from paddock_mlflow.database import engine, judgments, now
from paddock_mlflow.judges import traces
from paddock_mlflow.judges.errors import NotJudgeable
from paddock_mlflow.judges.queue import Subject, add, new_row, row_id
from paddock_mlflow.judges.registry import Judge, Judges
from paddock_mlflow.judges.states import Level, Origin, State
from paddock_mlflow.judges.traces import infos

MOST = 5000
"""Traces of one ask; of those since a moment the newest."""
_CHUNK = 500


@dataclass(frozen=True)
class Wanted:
    """What is to be judged: everything that any of these names. `again` asks for a second verdict where there is one.

    `judges` are names; none named is every judge that can look.
    """

    experiment_id: str
    traces: Sequence[str] = ()
    sessions: Sequence[str] = ()
    since: datetime | None = None
    judges: Sequence[str] = ()
    again: bool = False


@dataclass(frozen=True)
class Asked:
    """What came of an ask: the rows that tell of it, and how many traces since the moment were too many."""

    ids: list[str] = field(default_factory=list)
    left_out: int = 0


def ask(database_url: str, wanted: Wanted) -> Asked:
    """Queue it.

    Raises:
        UnknownJudge: there is none of a name.
        NotJudgeable: a trace or session that does not exist, has not ended, or is none that judges look at.
    """
    registry = Judges(database_url)
    known = registry.of_experiment(wanted.experiment_id)
    named = registry.named(wanted.experiment_id, wanted.judges) if wanted.judges else []
    judges = named or known
    by_level = {level: [one for one in judges if one.level == str(level)] for level in Level}
    with engine(database_url).connect() as connection:
        single, left_out = _traces(connection, wanted)
        sessions = _sessions(connection, wanted)
        if wanted.sessions and any(one.level == str(Level.TRACE) for one in named):
            single = [*single, *_traces_of(connection, wanted.experiment_id, wanted.sessions)]
        if named and by_level[Level.SESSION] and (single or wanted.since is not None):
            sessions = [*sessions, *_sessions_of(connection, wanted.experiment_id, single)]
        expected: dict[str, dict[str, int]] = {}
        for start in range(0, len(single), _CHUNK):
            chunk = [one.id for one in single[start : start + _CHUNK]]
            expected |= traces.expectations(connection, chunk)
    pairs = [
        (judge, subject)
        for subject in dict.fromkeys(single)
        for judge in by_level[Level.TRACE]
        # Who is not named is asked only about what it can judge.
        if named or not judge.needs_expectations or _expects(judge, expected.get(subject.id, {}))
    ]
    pairs += [(judge, subject) for subject in dict.fromkeys(sessions) for judge in by_level[Level.SESSION]]
    with engine(database_url).begin() as connection:
        return Asked(_queue(connection, pairs, expected, wanted.again), left_out)


def _expects(judge: Judge, names: Collection[str]) -> bool:
    return bool(set(judge.expectation_names) & set(names)) if judge.expectation_names else bool(names)


def traces_named(connection: Connection, experiment_id: str, trace_ids: Sequence[str]) -> list[Subject]:
    """Raises NotJudgeable."""
    found: list[Subject] = []
    for start in range(0, len(trace_ids), _CHUNK):
        chunk = list(trace_ids[start : start + _CHUNK])
        query = _look(experiment_id, infos.c.request_id.in_(chunk))
        rows = {row.request_id: row for row in connection.execute(query)}
        found += [_subject(trace_id, rows.get(trace_id)) for trace_id in chunk]
    return found


def _traces(connection: Connection, wanted: Wanted) -> tuple[list[Subject], int]:
    found = traces_named(connection, wanted.experiment_id, wanted.traces)
    left_out = 0
    if wanted.since is not None:
        ended = and_(
            infos.c.status.in_(traces.ENDED),
            traces.ended_ms() >= traces.milliseconds(wanted.since),
            traces.judgeable(),
        )
        query = _look(wanted.experiment_id, ended).order_by(infos.c.timestamp_ms.desc()).limit(MOST)
        since = [_subject(row.request_id, row) for row in connection.execute(query)]
        if len(since) == MOST:
            everything = select(func.count()).where(infos.c.experiment_id == int(wanted.experiment_id), ended)
            left_out = connection.execute(everything).scalar_one() - MOST
        found += since
    return found, left_out


def _look(experiment_id: str, condition: ColumnElement[bool]) -> Any:
    return select(
        infos.c.request_id,
        infos.c.status,
        traces.ended_ms().label("ended"),
        traces.judgeable().label("judgeable"),
    ).where(infos.c.experiment_id == int(experiment_id), condition)


def _subject(trace_id: str, row: Any) -> Subject:
    if row is None:
        raise NotJudgeable(
            f"expected a trace {trace_id} in that experiment, found none; list what there is: ./paddock traces"
        )
    if row.status not in traces.ENDED:
        raise NotJudgeable(f"expected a trace that has ended, found {trace_id} in progress; wait for its end")
    if not row.judgeable:
        raise NotJudgeable(
            f"expected an agent's trace, found {trace_id}, which the gateway, a judge or an evaluation left; name another"
        )
    return Subject(trace_id, trace_id, traces.moment(row.ended))


def _sessions(connection: Connection, wanted: Wanted) -> list[Subject]:
    found = {
        session.subject.id: session.subject
        for session in traces.sessions(connection, wanted.experiment_id, list(wanted.sessions))
    }
    if missing := [one for one in wanted.sessions if one not in found]:
        raise NotJudgeable(
            f"expected a session {missing[0]} with an ended trace, found none; list what there is: ./paddock traces"
        )
    subjects = list(found.values())
    if wanted.since is not None:
        lately = select(infos.c.session_id).where(
            infos.c.experiment_id == int(wanted.experiment_id),
            infos.c.session_id.is_not(None),
            traces.ended_ms() >= traces.milliseconds(wanted.since),
        )
        sessions = traces.sessions(connection, wanted.experiment_id, lately)
        # One that goes on right now is judged when it is idle, or when it is named.
        subjects += [session.subject for session in sessions if session.running_ms is None][:MOST]
    return subjects


def _traces_of(connection: Connection, experiment_id: str, session_ids: Sequence[str]) -> list[Subject]:
    ids = [
        trace_id for one in session_ids for trace_id in traces.session_traces(connection, experiment_id, one)
    ]
    query = select(infos.c.request_id, traces.ended_ms().label("ended")).where(infos.c.request_id.in_(ids))
    return [
        Subject(row.request_id, row.request_id, traces.moment(row.ended)) for row in connection.execute(query)
    ]


def _sessions_of(connection: Connection, experiment_id: str, subjects: Sequence[Subject]) -> list[Subject]:
    query = select(infos.c.session_id).where(
        infos.c.request_id.in_([one.id for one in subjects[:_CHUNK]]), infos.c.session_id.is_not(None)
    )
    return [session.subject for session in traces.sessions(connection, experiment_id, query)]


def _queue(
    connection: Connection,
    pairs: Sequence[tuple[Judge, Subject]],
    expected: dict[str, dict[str, int]],
    again: bool,
) -> list[str]:
    """Put what is wanted into the queue; returns the ids of all rows, in the order of the pairs."""
    c = judgments.c
    ids = [row_id(judge.experiment_id, judge.name, subject.id) for judge, subject in pairs]
    added = add(connection, [new_row(judge, subject, Origin.ASKED) for judge, subject in pairs])
    rows: dict[str, Any] = {}
    for start in range(0, len(ids), _CHUNK):
        query = select(c.id, c.state, c.version, c.fingerprint, c.ended_at)
        chunk = ids[start : start + _CHUNK]
        rows |= {row.id: row for row in connection.execute(query.where(c.id.in_(chunk)))}
    due: dict[str, Any] = {"origin": Origin.ASKED, "due_at": now()}
    afresh = {"state": State.QUEUED, "reason": "", "attempts": 0, **due}
    by_judge: dict[str, tuple[Judge, list[str]]] = {}
    sooner: list[str] = []
    for identifier, (judge, subject) in zip(ids, pairs, strict=True):
        row = rows[identifier]
        if identifier in added or row.state == State.RUNNING:
            continue
        if row.state == State.QUEUED:
            sooner.append(identifier)
        elif again or not _stands(row, judge, expected.get(subject.id, {})):
            by_judge.setdefault(judge.name, (judge, []))[1].append(identifier)
    _update(connection, sooner, due, [State.QUEUED])
    ended = [State.DONE, State.FAILED, State.SAMPLED_OUT, State.FILTERED, State.NO_EXPECTATION]
    ended += [State.BUDGET, State.TOO_LARGE]
    for judge, identifiers in by_judge.values():
        own = {"version": judge.version, "fingerprint": judge.fingerprint, "endpoint": judge.endpoint}
        _update(connection, identifiers, afresh | own, ended)
    return ids


def _stands(row: Any, judge: Judge, expected: dict[str, int]) -> bool:
    """Whether there is a verdict of this judge as it is, on what is expected now."""
    if row.state != State.DONE or row.version != judge.version:
        return False
    if row.fingerprint not in ("", judge.fingerprint):
        return False
    if judge.needs_expectations and row.ended_at is not None:
        names = judge.expectation_names or tuple(expected)
        changed = max((expected[name] for name in names if name in expected), default=0)
        return changed <= traces.milliseconds(row.ended_at)
    return True


def _update(connection: Connection, ids: Sequence[str], values: dict[str, Any], states: list[State]) -> None:
    c = judgments.c
    for start in range(0, len(ids), _CHUNK):
        connection.execute(
            update(judgments)
            .where(c.id.in_(ids[start : start + _CHUNK]), c.state.in_(states))
            .values(**values)
        )
