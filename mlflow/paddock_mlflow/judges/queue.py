"""The queue of judgments, in the database: taken by whoever is free, for the time of a lease.

Any number of processes work it off. One that dies leaves its rows to the others when their lease ends; one that comes
back after that finds that they are no longer its own, and writes nothing.
"""

import hashlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from paddock_mlflow.database import engine, judgments, now
from paddock_mlflow.judges.registry import Judge
from paddock_mlflow.judges.states import Level, Origin, State

_BATCH = 500
"""Rows of one statement: SQLite takes 32766 parameters."""


@dataclass(frozen=True)
class Subject:
    """What is judged: a trace or a session, which ended at a moment.

    `trace_id` is the trace that the verdict stands on.
    """

    id: str
    trace_id: str
    ended_at: datetime


@dataclass(frozen=True)
class Judgment:
    """A row that this process took."""

    id: str
    lease: str
    experiment_id: str
    judge: str
    level: Level
    subject: str
    trace_id: str
    origin: Origin
    endpoint: str | None
    attempts: int
    """With this one."""
    verdicts: int
    feedbacks: int
    subject_ended_at: datetime
    created_at: datetime

    @property
    def earlier(self) -> list[str]:
        """The ids of the assessments of the verdict before this one."""
        return [assessment_id(self.id, self.verdicts, number) for number in range(self.feedbacks)]


def row_id(experiment_id: str, judge: str, subject: str) -> str:
    """The same for the same judge and subject, so that there can't be two rows."""
    return hashlib.sha256(f"{experiment_id}\0{judge}\0{subject}".encode()).hexdigest()[:32]


def assessment_id(judgment: str, verdict: int, number: int) -> str:
    """The id of an assessment: of the `number`th feedback of a judgment's `verdict`th verdict, which is counted from 1.

    MLflow's table can hold an id once, so that no second writer can store the same verdict.
    """
    return "a-" + hashlib.sha256(f"{judgment}\0{verdict}\0{number}".encode()).hexdigest()[:32]


def new_row(
    judge: Judge, subject: Subject, origin: Origin, state: State = State.QUEUED, reason: str = ""
) -> dict[str, Any]:
    """A row of a judge that has not looked yet."""
    moment = now()
    return {
        "id": row_id(judge.experiment_id, judge.name, subject.id),
        "experiment_id": judge.experiment_id,
        "judge": judge.name,
        "level": judge.level,
        "subject": subject.id,
        "trace_id": subject.trace_id,
        "state": state,
        "reason": reason,
        "origin": origin,
        "version": judge.version,
        "fingerprint": judge.fingerprint,
        "endpoint": judge.endpoint,
        "attempts": 0,
        "verdicts": 0,
        "feedbacks": 0,
        "subject_ended_at": subject.ended_at,
        "created_at": moment,
        "due_at": moment,
        "ended_at": None if state == State.QUEUED else moment,
    }


def add(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Add rows; one that is there stays as it is.

    Returns:
        The ids of those that were added.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    added: set[str] = set()
    # In one order, so that two processes can't wait for each other.
    rows = sorted(rows, key=lambda row: row["id"])
    for start in range(0, len(rows), _BATCH):
        statement = dialect.insert(judgments).values([dict(row) for row in rows[start : start + _BATCH]])
        statement = statement.on_conflict_do_nothing().returning(judgments.c.id)
        added.update(connection.execute(statement).scalars())
    return added


class Queue:
    """What waits, as seen by one process.

    Args:
        database_url: of MLflow's tracking database.
        lease_seconds: how long rows belong to this process without `renew`.
    """

    def __init__(self, database_url: str, lease_seconds: float) -> None:
        self.engine = engine(database_url)
        self._lease = timedelta(seconds=lease_seconds)

    def take(self, limit: int, closed: Collection[str], try_again_since: datetime) -> list[Judgment]:
        """Take what is due, the longest waiting first, what was asked for before the rest.

        Judges of the same trace come together, so that it is read once: there may be some more rows than `limit`.

        Args:
            closed: endpoints that are not to be asked now.
            try_again_since: of those that met a spent budget, the ones whose subject ended since then.
        """
        c = judgments.c
        moment = now()
        due = and_(
            or_(
                and_(c.state == State.QUEUED, c.due_at <= moment),
                and_(c.state == State.BUDGET, c.due_at <= moment, c.subject_ended_at >= try_again_since),
                and_(c.state == State.RUNNING, c.lease_until < moment),
            ),
            or_(c.endpoint.is_(None), c.endpoint.not_in(closed)),
        )
        subjects = (
            select(c.subject).where(due).order_by(c.origin, c.created_at, c.subject).limit(limit).subquery()
        )
        wanted = (
            select(c.id)
            .where(due, c.subject.in_(select(subjects.c.subject)))
            .order_by(c.id)
            .with_for_update(skip_locked=True)
        )
        lease = uuid.uuid4().hex
        with self.engine.begin() as connection:
            ids = list(connection.execute(wanted).scalars())
            if not ids:
                return []
            # Looked at once more: in SQLite another process may have been faster.
            taken = (
                update(judgments)
                .where(c.id.in_(ids), due)
                .values(
                    state=State.RUNNING,
                    lease=lease,
                    lease_until=moment + self._lease,
                    attempts=c.attempts + 1,
                    started_at=moment,
                )
                .returning(*[c[name] for name in Judgment.__dataclass_fields__])
            )
            return sorted(
                (
                    Judgment(**{**row, "level": Level(row["level"]), "origin": Origin(row["origin"])})
                    for row in connection.execute(taken).mappings()
                ),
                key=lambda one: (one.created_at, one.subject),
            )

    def renew(self, held: Collection[Judgment]) -> None:
        """Keep rows for another lease."""
        c = judgments.c
        # In the order of ids, and past those that are being written right now: no deadlock with `finish`.
        mine = select(c.id).where(owned(held)).order_by(c.id).with_for_update(skip_locked=True)
        with self.engine.begin() as connection:
            if ids := list(connection.execute(mine).scalars()):
                connection.execute(
                    update(judgments)
                    .where(c.id.in_(ids), owned(held))
                    .values(lease_until=now() + self._lease)
                )

    def put_back(
        self, held: Collection[Judgment], due_at: datetime, state: State, reason: str, *, counts: bool
    ) -> None:
        """Leave rows to whoever takes them next, not before `due_at`; `counts` says whether this was an attempt."""
        if not held:
            return
        values = {
            "state": state,
            "reason": reason,
            "lease": None,
            "lease_until": None,
            "due_at": due_at,
            "attempts": judgments.c.attempts - (0 if counts else 1),
        }
        with self.engine.begin() as connection:
            connection.execute(update(judgments).where(owned(held)).values(**values))


def owned(held: Collection[Judgment]) -> ColumnElement[bool]:
    """That rows are still held by who took them."""
    c = judgments.c
    return and_(c.state == State.RUNNING, tuple_(c.id, c.lease).in_([(one.id, one.lease) for one in held]))
