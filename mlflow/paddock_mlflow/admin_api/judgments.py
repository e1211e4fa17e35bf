"""Judgments: ask for them, see what became of them, and how judging does."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import Connection, func, select

from paddock_mlflow.database import DECIMAL_PLACES, engine, judgments, now
from paddock_mlflow.settings import load

router = APIRouter(prefix="/judgments")

FAILURES = 20
DAYS = 7
_ROWS = 50_000
_CHUNK = 500

ExperimentId = Annotated[str, StringConstraints(pattern=r"^\d{1,19}$")]
TraceId = Annotated[str, StringConstraints(min_length=1, max_length=50)]
SessionId = Annotated[str, StringConstraints(min_length=1, max_length=250)]
JudgeName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Asked(BaseModel):
    """What is to be judged: everything that any of these names. No `judges` is every judge that can look."""

    model_config = ConfigDict(extra="forbid")

    experiment_id: ExperimentId
    traces: list[TraceId] = Field(default=[], max_length=5000)
    sessions: list[SessionId] = Field(default=[], max_length=500)
    since: AwareDatetime | None = None
    judges: list[JudgeName] = Field(default=[], max_length=200)
    again: bool = False

    @model_validator(mode="after")
    def _names_something(self) -> "Asked":
        if not self.traces and not self.sessions and self.since is None:
            raise ValueError("expected traces, sessions or since, found none of them")
        return self


class Ids(BaseModel):
    """Of judgments."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]] = Field(max_length=_ROWS)


@router.post("")
def ask(asked: Asked) -> dict[str, Any]:
    """Queue judgments, before those of new traces; returns their ids, and how many traces since the moment are left out.

    One that has a verdict of the judge's present version keeps it, unless `again`, or unless what it is compared with
    changed since; a new verdict overrides the old one. 404 where a trace, session or judge does not exist or can't be
    judged.
    """
    # MLflow reads its environment at import.
    from paddock_mlflow.judges import asks
    from paddock_mlflow.judges.errors import NotJudgeable, UnknownJudge

    wanted = asks.Wanted(**asked.model_dump())
    try:
        came = asks.ask(load().tracking_database, wanted)
    except (NotJudgeable, UnknownJudge) as error:
        raise HTTPException(404, str(error)) from None
    return {"ids": came.ids, "left_out": came.left_out}


@router.post("/states")
def states(wanted: Ids) -> dict[str, Any]:
    """What became of judgments, with what was said, in the order of the ids; one that is gone is left out."""
    with engine(load().tracking_database).connect() as connection:
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(wanted.ids), _CHUNK):
            chunk = wanted.ids[start : start + _CHUNK]
            found |= {row["id"]: row for row in _told(connection, judgments.c.id.in_(chunk))}
    return {"judgments": [found[one] for one in wanted.ids if one in found]}


@router.get("")
def of_trace(experiment_id: ExperimentId, trace_id: TraceId) -> dict[str, Any]:
    """The judgments of one trace, and the names of the judges that are about to look at it by themselves: those that have
    started, where the trace ended lately and has no row of theirs yet."""
    # MLflow reads its environment at import.
    from paddock_mlflow.judges import asks
    from paddock_mlflow.judges.admission import LOOK_BACK_SECONDS
    from paddock_mlflow.judges.errors import NotJudgeable
    from paddock_mlflow.judges.registry import Judges
    from paddock_mlflow.judges.states import Level

    url = load().tracking_database
    with engine(url).connect() as connection:
        rows = _told(connection, judgments.c.trace_id == trace_id, judgments.c.experiment_id == experiment_id)
        try:
            (subject,) = asks.traces_named(connection, experiment_id, [trace_id])
        except NotJudgeable:
            return {"judgments": rows, "coming": []}
    known = {row["judge"] for row in rows}
    lately = subject.ended_at >= now() - timedelta(seconds=LOOK_BACK_SECONDS)
    coming = [
        judge.name
        for judge in Judges(url).active()
        if judge.experiment_id == experiment_id
        and judge.level == str(Level.TRACE)
        and judge.name not in known
    ]
    return {"judgments": rows, "coming": sorted(coming) if lately else []}


def _told(connection: Connection, *conditions: Any) -> list[dict[str, Any]]:
    """Judgments with the value, rationale and pass of their first feedback, where there is one."""
    # MLflow reads its environment at import.
    from mlflow.store.tracking.dbmodels.models import SqlAssessments

    from paddock_mlflow.judges.queue import assessment_id

    c = judgments.c
    names = (
        "id",
        "experiment_id",
        "judge",
        "level",
        "subject",
        "trace_id",
        "state",
        "reason",
        "origin",
        "version",
    )
    columns = [c[name] for name in (*names, "fingerprint", "attempts", "cost_usd", "verdicts", "feedbacks")]
    rows = [
        dict(row)
        for row in connection.execute(
            select(*columns).where(*conditions).order_by(c.judge, c.subject)
        ).mappings()
    ]
    said_by = {assessment_id(row["id"], row["verdicts"], 0): row for row in rows if row["feedbacks"]}
    table: Any = SqlAssessments.__table__
    query = select(
        table.c.assessment_id, table.c.value, table.c.rationale, table.c.assessment_metadata
    ).where(table.c.assessment_id.in_(said_by))
    for row in rows:
        row |= {"value": None, "rationale": "", "passed": None, "cost_usd": _usd(row["cost_usd"])}
        del row["verdicts"], row["feedbacks"]
    for said in connection.execute(query):
        passed = json.loads(said.assessment_metadata or "{}").get("paddock.passed")
        said_by[said.assessment_id] |= {
            "value": json.loads(said.value),
            "rationale": said.rationale or "",
            "passed": None if passed is None else passed == "true",
        }
    return rows


@router.get("/status")
def status(experiment_id: ExperimentId | None = None) -> dict[str, Any]:
    """How judging does: the queue and how far it is behind, what became of the last seven days' by judge, the last
    failures, and what is left of the budgets of the endpoints that judges ask. Times are in seconds, USD are decimal
    strings."""
    from paddock_mlflow.judges.registry import Judges

    url = load().tracking_database
    registry = Judges(url)
    every = registry.active() if experiment_id is None else registry.of_experiment(experiment_id)
    with engine(url).connect() as connection:
        waiting = _waiting(connection, experiment_id)
        counts = _counts(connection, experiment_id)
        failures = _failures(connection, experiment_id)
        names = {judge.endpoint for judge in every if judge.endpoint} | _endpoints(connection)
    known = {(judge.experiment_id, judge.name): judge for judge in every}
    return {
        "queue": waiting,
        "judges": [
            {
                "name": name,
                "experiment_id": experiment,
                "level": judge.level if judge else None,
                "endpoint": judge.endpoint if judge else None,
                "sample_rate": judge.sample_rate if judge else None,
                "states": counts.get((experiment, name), {}),
            }
            for experiment, name in sorted(known.keys() | counts.keys())
            for judge in [known.get((experiment, name))]
        ],
        "failures": failures,
        "endpoints": _budgets(url, names),
    }


def _of(experiment_id: str | None) -> list[Any]:
    return [judgments.c.experiment_id == experiment_id] if experiment_id is not None else []


def _waiting(connection: Connection, experiment_id: str | None) -> dict[str, Any]:
    from paddock_mlflow.judges.states import Origin, State

    c = judgments.c
    query = (
        select(c.state, func.count().label("number"), func.min(c.created_at).label("oldest"))
        .where(c.state.in_([State.QUEUED, State.RUNNING]), *_of(experiment_id))
        .group_by(c.state)
    )
    rows = {row.state: row for row in connection.execute(query)}
    queued, running = rows.get(State.QUEUED), rows.get(State.RUNNING)
    moment = now()
    # From the end of what was judged by itself to the end of its judgment.
    lately = (
        select(c.subject_ended_at, c.ended_at)
        .where(c.state == State.DONE, c.origin == Origin.ONLINE, c.attempts > 0, *_of(experiment_id))
        .order_by(c.ended_at.desc())
        .limit(100)
    )
    lags = sorted((row.ended_at - row.subject_ended_at).total_seconds() for row in connection.execute(lately))
    return {
        "queued": queued.number if queued else 0,
        "running": running.number if running else 0,
        "oldest_seconds": round((moment - queued.oldest).total_seconds(), 1) if queued else 0.0,
        "lag_seconds": round(lags[len(lags) // 2], 1) if lags else None,
    }


def _counts(connection: Connection, experiment_id: str | None) -> dict[tuple[str, str], dict[str, int]]:
    c = judgments.c
    since = now() - timedelta(days=DAYS)
    query = (
        select(c.experiment_id, c.judge, c.state, func.count().label("number"))
        .where(c.subject_ended_at >= since, *_of(experiment_id))
        .group_by(c.experiment_id, c.judge, c.state)
    )
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in connection.execute(query):
        found.setdefault((row.experiment_id, row.judge), {})[row.state] = row.number
    return found


def _failures(connection: Connection, experiment_id: str | None) -> list[dict[str, Any]]:
    from paddock_mlflow.judges.states import State

    c = judgments.c
    query = (
        select(c.judge, c.subject, c.trace_id, c.reason, c.state, c.ended_at)
        .where(c.state.in_([State.FAILED, State.BUDGET]), *_of(experiment_id))
        .order_by(c.ended_at.desc())
        .limit(FAILURES)
    )
    return [
        dict(row) | {"ended_at": row["ended_at"].isoformat() if row["ended_at"] else None}
        for row in connection.execute(query).mappings()
    ]


def _endpoints(connection: Connection) -> set[str]:
    query = select(judgments.c.endpoint).where(judgments.c.endpoint.is_not(None)).distinct()
    return set(connection.execute(query).scalars())


def _budgets(url: str, names: set[str]) -> list[dict[str, Any]]:
    """Those that a judge's call counts for: its endpoint's, the judges' user's, and everybody's."""
    from mlflow.store.tracking.dbmodels.models import SqlGatewayEndpoint

    from paddock_mlflow.budgets import windows_at

    endpoints: Any = SqlGatewayEndpoint.__table__
    query = select(endpoints.c.endpoint_id, endpoints.c.name).where(endpoints.c.name.in_(names))
    with engine(url).connect() as connection:
        ids = {row.name: row.endpoint_id for row in connection.execute(query)}
    windows = windows_at(url, now())
    user = load().judge_user
    found = []
    for name in sorted(ids):
        counting = [
            window
            for window in windows
            if window.policy.target_scope.value in ("GLOBAL", "WORKSPACE")
            or (window.policy.target_scope.value, window.policy.target_value)
            in (("ENDPOINT", ids[name]), ("USER", user))
        ]
        budgets = [
            {
                "scope": window.policy.target_scope.value.lower(),
                "action": window.policy.budget_action.value.lower(),
                "amount_usd": _usd(Decimal(repr(window.policy.budget_amount))),
                "spent_usd": _usd(window.spent),
                "left_usd": _usd(max(Decimal(repr(window.policy.budget_amount)) - window.spent, Decimal(0))),
                "until": window.end.isoformat(),
            }
            for window in counting
        ]
        found.append({"name": name, "budgets": budgets})
    return found


def _usd(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:.{DECIMAL_PLACES}f}"
