"""Judges of the declared configuration: list, check, set, remove, and what decided a verdict.

MLflow's REST API takes a scorer as its library serializes it, which the command line does not have; so scorers are made
here. Code from files never runs here: this process has the secrets of all users.
"""

import json
import re
from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, field_validator

from paddock_mlflow import settings as settings_module
from paddock_mlflow.judges.definition import Definition
from paddock_mlflow.judges.model import JUDGE_NAME

router = APIRouter(prefix="/judges")


class Wanted(BaseModel):
    """A judge for an experiment, which a file could name."""

    model_config = ConfigDict(extra="forbid")

    experiment_id: str
    definition: Definition

    @field_validator("definition")
    @classmethod
    def _could_stand_in_a_file(cls, value: Definition) -> Definition:
        if value.kind == "foreign" or not re.fullmatch(JUDGE_NAME, value.name):
            raise ValueError("expected a judge that judges.yaml can name")
        return value


class ToCheck(BaseModel):
    """Judges that are only looked at."""

    model_config = ConfigDict(extra="forbid")

    definitions: list[Definition]


@router.get("")
def list_judges(experiment_id: str) -> dict[str, Any]:
    """Every judge of an experiment as a file would call it. `rate` is null where it was never started; `problem` says why
    code could not be loaded, `checked` whether that was tried."""
    from paddock_mlflow.judges.described import described

    rows = _rows(experiment_id)
    rates = _rates(experiment_id)
    found = []
    for judge in _registry().of_experiment(experiment_id):
        row = rows.get(judge.name)
        if judge.serialized is None:
            assert row is not None
            definition = Definition.model_validate(row.definition)
        else:
            definition = described(judge.name, judge.serialized, judge.definition)
        rate, filter_string = rates.get(judge.name, (None, None))
        if rate is None and row is not None:
            rate, filter_string = row.sample_rate, row.filter
        found.append(
            {
                "definition": definition.model_dump(mode="json"),
                "version": judge.version,
                "fingerprint": judge.fingerprint,
                "rate": rate,
                "filter": filter_string or "",
                "declared": row is not None,
                "checked": row is None or row.checked == row.fingerprint,
                "problem": row.problem if row is not None and row.checked == row.fingerprint else "",
            }
        )
    return {"judges": found}


@router.post("/check")
def check(asked: ToCheck) -> dict[str, Any]:
    """What only MLflow can say of judges: name, field, expected, found, remedy of each that it would refuse."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchTraceUtils

    from paddock_mlflow.judges.described import scorer_of

    problems = []
    for one in asked.definitions:
        if one.in_mlflow:
            try:
                scorer_of(one)
            except (MlflowException, ValueError) as error:
                field = {"built-in": "options", "guidelines": "guidelines"}.get(one.kind, "instructions")
                problems.append(_problem(one, field, "what MLflow takes for such a judge", error))
        if one.filter:
            try:
                SearchTraceUtils.parse_search_filter_for_search_traces(one.filter)
            except (MlflowException, ValueError) as error:
                problems.append(
                    _problem(one, "filter", "a filter that MLflow's search for traces takes", error)
                )
    return {"problems": problems}


@router.put("")
def set_judge(wanted: Wanted) -> dict[str, Any]:
    """Make the judge, or bring it to this: a new version of its scorer where what decides its verdicts differs, and its
    sampling where the definition claims it. A second time nothing. 400 where MLflow does not take it."""
    from mlflow.exceptions import MlflowException

    try:
        return _set(wanted.experiment_id, wanted.definition)
    except (MlflowException, ValueError) as error:
        raise HTTPException(400, str(getattr(error, "message", error))) from None


@router.delete("/{name}")
def remove_judge(name: str, experiment_id: str) -> dict[str, Any]:
    """With all its versions; what decided its verdicts is kept. 404 where there is no such judge."""
    from sqlalchemy import delete

    from paddock_mlflow.database import judges

    there = [judge for judge in _registry().of_experiment(experiment_id) if judge.name == name]
    if not there:
        raise HTTPException(404, f"expected a judge {name}, found none; list them: ./paddock judges plan")
    _registry().remember(there[0])
    if there[0].serialized is not None:
        _store().delete_scorer(experiment_id, name)
    with _engine().begin() as connection:
        connection.execute(
            delete(judges).where(judges.c.experiment_id == experiment_id, judges.c.name == name)
        )
    return {}


@router.get("/versions")
def versions(
    experiment_id: str | None = None, name: str | None = None, fingerprint: str | None = None
) -> dict[str, Any]:
    """What decided verdicts, newest first: of a fingerprint, or of a judge. A fingerprint may be its first 12 digits."""
    from sqlalchemy import select

    from paddock_mlflow.database import judge_versions

    if experiment_id is not None and name is not None:
        for judge in _registry().of_experiment(experiment_id):
            if judge.name == name:
                _registry().remember(judge)
    query = select(judge_versions).order_by(judge_versions.c.created_at.desc()).limit(100)
    if experiment_id is not None:
        query = query.where(judge_versions.c.experiment_id == experiment_id)
    if name is not None:
        query = query.where(judge_versions.c.name == name)
    if fingerprint is not None:
        query = query.where(judge_versions.c.fingerprint.startswith(fingerprint, autoescape=True))
    with _engine().connect() as connection:
        rows = connection.execute(query).all()
    return {
        "versions": [
            {
                "name": row.name,
                "experiment_id": row.experiment_id,
                "version": row.version,
                "fingerprint": row.fingerprint,
                "content": row.content,
                "created_at": row.created_at.isoformat(),
            }
            for row in rows
        ]
    }


def _set(experiment_id: str, wanted: Definition) -> dict[str, Any]:
    from paddock_mlflow.judges.described import scorer_of
    from paddock_mlflow.judges.registry import code_fingerprint, fingerprint

    store = _store()
    known = next(
        (judge for judge in _registry().of_experiment(experiment_id) if judge.name == wanted.name), None
    )
    if wanted.in_mlflow:
        serialized = scorer_of(wanted).model_dump()
        mark = fingerprint(serialized, wanted.endpoint or None, wanted.sees)
        if known is not None and known.fingerprint == mark:
            number = known.version
        else:
            number = store.register_scorer(experiment_id, wanted.name, json.dumps(serialized)).scorer_version
        rate, filter_string = _schedule(experiment_id, wanted)
        if wanted.sampled_by_mlflow:
            if rate is not None:
                store.upsert_online_scoring_config(experiment_id, wanted.name, rate, filter_string or None)
            rate = filter_string = None
    else:
        mark = code_fingerprint(wanted)
        if known is not None and known.serialized is not None:
            # Its name was a scorer's of MLflow, which would be taken for the judge.
            _registry().remember(known)
            store.delete_scorer(experiment_id, wanted.name)
        number = known.version + (known.fingerprint != mark) if known is not None else 1
        rate, filter_string = _schedule(experiment_id, wanted)
    _write(experiment_id, wanted, number, mark, rate, filter_string)
    for judge in _registry().of_experiment(experiment_id):
        if judge.name == wanted.name:
            _registry().remember(judge)
    return {"version": number, "fingerprint": mark}


def _schedule(experiment_id: str, wanted: Definition) -> tuple[float | None, str | None]:
    """Rate and filter to be set. What the file does not claim stays as it is in the UI; None sets nothing."""
    rate, filter_string = _rates(experiment_id).get(wanted.name, (None, None))
    row = _rows(experiment_id).get(wanted.name)
    if rate is None and row is not None:
        rate, filter_string = row.sample_rate, row.filter
    if not wanted.online:
        return (0.0, filter_string) if rate else (rate, filter_string)
    if wanted.sampling is not None:
        return wanted.sampling, wanted.filter or None
    if wanted.filter:
        return (1.0 if rate is None else rate), wanted.filter
    return (1.0 if rate is None else rate), filter_string


def _write(
    experiment_id: str,
    wanted: Definition,
    number: int,
    mark: str,
    rate: float | None,
    filter_string: str | None,
) -> None:
    from sqlalchemy import insert, update

    from paddock_mlflow.database import judges, now

    values = {
        "definition": wanted.model_dump(mode="json"),
        "version": number,
        "fingerprint": mark,
        "sample_rate": rate,
        "filter": filter_string,
        # Code is loaded by the judging process, also where its file was mended without a change that is seen here.
        "checked": "" if wanted.kind == "python" else mark,
        "updated_at": now(),
    }
    names = {"experiment_id": experiment_id, "name": wanted.name}
    with _engine().begin() as connection:
        changed = connection.execute(
            update(judges)
            .where(judges.c.experiment_id == experiment_id, judges.c.name == wanted.name)
            .values(**values)
        ).rowcount
        if not changed:
            connection.execute(insert(judges).values(**names, **values))


def _problem(one: Definition, field: str, expected: str, error: Exception) -> dict[str, str]:
    found = " ".join(str(getattr(error, "message", error)).split())[:300]
    return {"name": one.name, "field": field, "expected": expected, "found": found, "remedy": "mend it"}


def _rows(experiment_id: str) -> dict[str, Any]:
    from sqlalchemy import select

    from paddock_mlflow.database import judges

    with _engine().connect() as connection:
        query = select(judges).where(judges.c.experiment_id == experiment_id)
        return {row.name: row for row in connection.execute(query)}


def _rates(experiment_id: str) -> dict[str, tuple[float, str | None]]:
    """Rate and filter of those that MLflow samples, by name."""
    store = _store()
    names = {one.scorer_id: one.scorer_name for one in store.list_scorers(experiment_id)}
    return {
        names[one.scorer_id]: (one.sample_rate, one.filter_string)
        for one in store.get_online_scoring_configs(list(names))
    }


def _registry() -> Any:
    # MLflow reads its environment at import.
    from paddock_mlflow.judges.registry import Judges

    return Judges(settings_module.load().tracking_database)


def _engine() -> Any:
    from paddock_mlflow.database import engine

    return engine(settings_module.load().tracking_database)


def _store() -> Any:
    from mlflow.server.handlers import _get_tracking_store

    return _get_tracking_store()
