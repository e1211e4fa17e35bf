"""The judges that there are: MLflow's registered scorers, with the sampling rate and filter that it keeps for each.

What people make in MLflow's UI or from code counts as it stands: the newest version of a scorer is the judge. What MLflow
can't hold of a declared judge (what passes, what it sees, code from a file) stands in `paddock_judges`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from mlflow.entities import AssessmentSourceType
from mlflow.genai.scorers import Scorer
from mlflow.genai.scorers.base import SCORER_BACKEND_TRACKING, ScorerSamplingConfig
from mlflow.genai.scorers.scorer_utils import (
    build_gateway_model,
    extract_endpoint_ref,
    extract_model_from_serialized_scorer,
    is_gateway_model,
    update_model_in_serialized_scorer,
)
from mlflow.store.tracking.dbmodels import models
from sqlalchemy import Connection, Row, Select, and_, func, insert, select
from sqlalchemy.exc import IntegrityError

from paddock_mlflow.database import engine, judge_versions, now
from paddock_mlflow.database import judges as declared_judges
from paddock_mlflow.judges import code, fenced
from paddock_mlflow.judges.catalogue import BUILT_IN
from paddock_mlflow.judges.definition import Definition, Threshold
from paddock_mlflow.judges.errors import UnknownJudge, UnusableJudge

DEFAULT_ENDPOINT = "judge"
"""Whom a judge asks that names no model: `environment.common` sets it as MLflow's default."""

Level = Literal["trace", "session"]

_EXPECTATIONS: dict[str, tuple[str, ...]] = {
    "Correctness": ("expected_facts", "expected_response"),
    "Equivalence": ("expected_response",),
    "ExpectationsGuidelines": ("guidelines",),
}
"""Built-in judges that compare with an expectation, and the names that each takes it by."""
# MLflow's models have no types.
_scorers: Any = models.SqlScorer.__table__
_versions: Any = models.SqlScorerVersion.__table__
_configurations: Any = models.SqlOnlineScoringConfig.__table__
_endpoints: Any = models.SqlGatewayEndpoint.__table__

_PLACEHOLDER = re.compile(r"{{\s*expectations\s*}}")
_UNDECIDING = (
    "aggregations",
    "description",
    "mlflow_version",
    "name",
    "required_columns",
    "serialization_version",
    "timeout",
)
"""What of a serialized scorer, and of the settings in it, can change without another verdict."""


class Passes(Protocol):
    """Whether a verdict is a pass."""

    def __call__(self, value: object) -> bool | None:
        """None where the value says nothing of it."""
        ...


def yes_is_a_pass(value: object) -> bool | None:
    """True and yes pass, False and no don't; numbers and other words say nothing without a threshold."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"yes": True, "true": True, "no": False, "false": False}.get(value.strip().lower())
    return None


@dataclass(frozen=True)
class Judge:
    """A judge of one experiment.

    `sample_rate` is from 0 (looks only when asked) to 1, `filter` a search string of MLflow. Where `needs_expectations`,
    one of `expectation_names` must be there; none named: any.
    """

    name: str
    experiment_id: str
    level: Level
    serialized: str | None = field(repr=False)
    """MLflow's serialized scorer; None for code from a file."""
    version: int
    """Of the registered scorer."""
    fingerprint: str
    """SHA-256, in hex, of all that decides the verdict."""
    endpoint: str | None
    """Of the gateway; None for a judge that asks no model, or one that can't be asked: `scorer` says why."""
    sample_rate: float
    filter: str | None
    needs_expectations: bool
    expectation_names: tuple[str, ...] = ()
    passes: Passes = yes_is_a_pass
    endpoints: frozenset[str] = field(default=frozenset(), repr=False)
    """The names of all endpoints that exist."""
    definition: Definition | None = field(default=None, repr=False)
    """What judges.yaml says of it; None for one that it does not name."""
    code_folder: Path | None = field(default=None, repr=False)
    """Where the files of code scorers are; None where they must not run."""

    @property
    def source_type(self) -> str:
        """What MLflow's UI shows as the kind of the assessment's source."""
        return AssessmentSourceType.LLM_JUDGE if self.endpoint else AssessmentSourceType.CODE

    def scorer(self) -> Scorer:
        """The scorer, ready to be called.

        Raises:
            UnusableJudge: it can't be called: another model than the gateway's, an endpoint that is gone, foreign code,
                or a definition that MLflow can't read.
        """
        if self.serialized is None:
            assert self.definition is not None
            assert self.definition.code is not None
            return code.load(self.name, self.definition.code, self.code_folder)
        data = _parsed(self.name, self.serialized)
        if "call_source" in _keys(data):
            raise UnusableJudge(
                f"the judge {self.name} to be a built-in scorer or one made by make_judge",
                "Python code in MLflow's registry, which anybody with an account could have put there",
                "declare it in judges.yaml, as `python: FILE.py:FUNCTION`",
            )
        for model in _models(data):
            endpoint = _endpoint(model)
            if endpoint in self.endpoints:
                continue
            raise UnusableJudge(
                f"the judge {self.name} to ask an endpoint of the gateway",
                f"one that does not exist: {endpoint}"
                if endpoint
                else f"the model {model}, which has no budget and no trace there",
                f"register it with model='gateway:/{DEFAULT_ENDPOINT}'",
            )
        try:
            scorer = Scorer.model_validate(data)
        except Exception as error:
            raise UnusableJudge(
                f"the judge {self.name} to be a scorer that MLflow {version('mlflow')} can read",
                f"{type(error).__name__}: {error}",
                "register it anew",
            ) from error
        scorer = self._fenced(scorer)
        scorer._set_registration_metadata(
            backend=SCORER_BACKEND_TRACKING,
            experiment_id=self.experiment_id,
            sampling_config=ScorerSamplingConfig(sample_rate=self.sample_rate, filter_string=self.filter),
            scorer_version=self.version,
        )
        return scorer

    @property
    def content(self) -> dict[str, Any]:
        """All that decides its verdicts, to be read by people: what `fingerprint` is the hash of, and the prompt."""
        if self.serialized is None:
            assert self.definition is not None
            return {"definition": self.definition.model_dump(mode="json"), "mlflow": version("mlflow")}
        try:
            data = _parsed(self.name, self.serialized)
        except UnusableJudge:
            return {"unreadable": self.serialized}
        prompt = _prompt(data)
        sees = {"sees": self.definition.sees} if self.definition else {}
        return {
            "scorer": _deciding(data),
            "endpoint": self.endpoint,
            "mlflow": version("mlflow"),
            **({"prompt": prompt} if prompt else {}),
            **sees,
        }

    def _fenced(self, scorer: Scorer) -> Scorer:
        """The scorer in its fenced form, with the answers that the file allows it."""
        if self.definition is None:
            return fenced.fenced(scorer)
        return fenced.fenced(
            scorer,
            sees=self.definition.sees,
            words=self.definition.words if self.definition.values == "words" else (),
            scale=self.definition.scale,
        )


class Judges:
    """The judges of all experiments, as they are at each call.

    Args:
        database_url: of MLflow's tracking database.
        code_folder: where the files of code scorers are; None in processes that must not run them.
    """

    def __init__(self, database_url: str, code_folder: Path | None = None) -> None:
        self._engine = engine(database_url)
        self._code_folder = code_folder
        self._remembered: set[tuple[str, str, str]] = set()

    def active(self) -> list[Judge]:
        """Those that look at new traces by themselves.

        None of them looks at the calls of an endpoint that a judge asks: each look would make a trace to be looked at.
        """
        with self._engine.connect() as connection:
            every = self._every(connection, None)
            started = [judge for judge in every if judge.sample_rate > 0]
            asked = {judge.endpoint for judge in every if judge.endpoint} | {DEFAULT_ENDPOINT}
            calls = select(_endpoints.c.experiment_id).where(_endpoints.c.name.in_(asked))
            closed = {str(row.experiment_id) for row in connection.execute(calls)}
        return [judge for judge in started if judge.experiment_id not in closed]

    def of_experiment(self, experiment_id: str) -> list[Judge]:
        """All of an experiment, by name."""
        with self._engine.connect() as connection:
            return self._every(connection, experiment_id)

    def remember(self, judge: Judge) -> None:
        """Keep what decides a judge's verdicts, so that a verdict's fingerprint leads to its prompt for good."""
        key = (judge.fingerprint, judge.experiment_id, judge.name)
        if key in self._remembered:
            return
        row = {"version": judge.version, "content": judge.content, "created_at": now()}
        names = {"fingerprint": judge.fingerprint, "experiment_id": judge.experiment_id, "name": judge.name}
        known = select(judge_versions.c.name).filter_by(**names)
        with self._engine.connect() as connection:
            there = connection.execute(known).first()
        if there is None:
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(judge_versions).values(**names, **row))
            except IntegrityError:
                # Another process was first, with the same.
                pass
        self._remembered.add(key)

    def _every(self, connection: Connection, experiment_id: str | None) -> list[Judge]:
        """Those of an experiment, or of all: MLflow's, and code from files."""
        query = _newest().order_by(_scorers.c.experiment_id, _scorers.c.scorer_name)
        rows = select(declared_judges)
        if experiment_id is not None:
            query = query.where(_scorers.c.experiment_id == int(experiment_id))
            rows = rows.where(declared_judges.c.experiment_id == experiment_id)
        declared = {(row.experiment_id, row.name): row for row in connection.execute(rows)}
        names: dict[str, str] = {}
        found = []
        scorers = connection.execute(query).all()
        if scorers:
            endpoints = select(_endpoints.c.endpoint_id, _endpoints.c.name)
            names = {row.endpoint_id: row.name for row in connection.execute(endpoints)}
        for row in scorers:
            found.append(_judge(row, names, declared.get((str(row.experiment_id), row.scorer_name))))
        there = {(judge.experiment_id, judge.name) for judge in found}
        found += [
            _coded(row, self._code_folder)
            for key, row in declared.items()
            if key not in there and row.definition["kind"] == "python"
        ]
        return sorted(found, key=lambda judge: (int(judge.experiment_id), judge.name))

    def named(self, experiment_id: str, names: Sequence[str]) -> list[Judge]:
        """Those of these names, in their order; RelevanceToQuery, relevance-to-query and relevance_to_query are one.

        Raises:
            UnknownJudge: there is none of a name; the text lists those that there are.
        """
        known = self.of_experiment(experiment_id)
        by_spelling = {spelling(judge.name): judge for judge in known}
        if missing := [name for name in names if spelling(name) not in by_spelling]:
            there = ", ".join(judge.name for judge in known) or "none"
            raise UnknownJudge(
                f"expected the judge {missing[0]}, found only {there}; register it in the UI: Judges"
            )
        # Once each, whatever the spellings.
        wanted = dict.fromkeys(spelling(name) for name in names)
        return [by_spelling[name] for name in wanted]


def spelling(name: str) -> str:
    """What is the same for every way to write a judge's name."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) or name


def _newest() -> Select[*tuple[Any, ...]]:
    """Each scorer's newest version, with its online configuration where it has one."""
    last = (
        select(_versions.c.scorer_id, func.max(_versions.c.scorer_version).label("version"))
        .group_by(_versions.c.scorer_id)
        .subquery()
    )
    return (
        select(
            _scorers.c.scorer_name,
            _scorers.c.experiment_id,
            _versions.c.scorer_version,
            _versions.c.serialized_scorer,
            _configurations.c.sample_rate,
            _configurations.c.filter_string,
        )
        .join(last, last.c.scorer_id == _scorers.c.scorer_id)
        .join(
            _versions,
            and_(
                _versions.c.scorer_id == _scorers.c.scorer_id,
                _versions.c.scorer_version == last.c.version,
            ),
        )
        .outerjoin(_configurations, _configurations.c.scorer_id == _scorers.c.scorer_id)
    )


def _coded(row: Row[Any], folder: Path | None) -> Judge:
    """A judge that is code from a file."""
    definition = Definition.model_validate(row.definition)
    return Judge(
        name=row.name,
        experiment_id=row.experiment_id,
        level="trace",
        serialized=None,
        version=row.version,
        fingerprint=row.fingerprint,
        endpoint=None,
        sample_rate=row.sample_rate or 0.0,
        filter=row.filter or None,
        needs_expectations=definition.expects,
        passes=_passes(definition),
        definition=definition,
        code_folder=folder,
    )


def _passes(definition: Definition) -> Passes:
    return yes_is_a_pass if definition.threshold.is_default else definition.threshold


def _judge(row: Row[Any], endpoints: Mapping[str, str], declared: Row[Any] | None = None) -> Judge:
    """A judge of a row; one that can't be read is one too, whose `scorer` says why."""
    try:
        data = _parsed(row.scorer_name, row.serialized_scorer)
    except UnusableJudge:
        data = {}
    model = extract_model_from_serialized_scorer(data)
    if model and is_gateway_model(model) and (name := endpoints.get(extract_endpoint_ref(model))):
        # MLflow keeps the id, so that an endpoint can be renamed.
        data = update_model_in_serialized_scorer(data, build_gateway_model(name))
    asked = [_endpoint(model) for model in _models(data)]
    endpoint = next((name for name in asked if name in endpoints.values()), None)
    needs, names = _expectations(data)
    definition = Definition.model_validate(declared.definition) if declared is not None else None
    # MLflow refuses a rate for scorers that ask no model, and for some others: then it is ours.
    ours = declared is not None and row.sample_rate is None and declared.sample_rate is not None
    return Judge(
        name=row.scorer_name,
        experiment_id=str(row.experiment_id),
        level="session" if data.get("is_session_level_scorer") else "trace",
        serialized=json.dumps(data) if data else row.serialized_scorer,
        version=row.scorer_version,
        fingerprint=fingerprint(data, endpoint, definition.sees if definition else "answer"),
        endpoint=endpoint,
        sample_rate=(declared.sample_rate if ours and declared is not None else row.sample_rate) or 0.0,
        filter=(declared.filter if ours and declared is not None else row.filter_string) or None,
        needs_expectations=needs,
        expectation_names=names,
        passes=_passes(definition) if definition else _default_passes(data),
        endpoints=frozenset(endpoints.values()),
        definition=definition,
    )


def _parsed(name: str, serialized: str | None) -> dict[str, Any]:
    try:
        data = json.loads(serialized or "")
    except ValueError as error:
        raise UnusableJudge(
            f"the judge {name} to be serialized as JSON", str(error), "register it anew"
        ) from None
    if not isinstance(data, dict):
        raise UnusableJudge(f"the judge {name} to be a JSON object", type(data).__name__, "register it anew")
    return data


def _models(data: dict[str, Any]) -> list[str | None]:
    """The models that a scorer asks, those of the scorers in it too; None for one that takes MLflow's default."""
    if ensemble := data.get("ensemble_scorer_data"):
        return [model for one in ensemble.get("scorers", []) for model in _models(one)]
    if memory := data.get("memory_augmented_judge_data"):
        return _models(memory.get("base_judge") or {})
    for kind in (
        "instructions_judge_pydantic_data",
        "builtin_scorer_pydantic_data",
        "third_party_scorer_data",
    ):
        settings = data.get(kind)
        # Deterministic scorers have no such setting.
        if settings is not None and "model" in settings:
            return [settings["model"] or None]
    return []


def _endpoint(model: str | None) -> str | None:
    if model is None:
        return DEFAULT_ENDPOINT
    return extract_endpoint_ref(model) if is_gateway_model(model) else None


def _expectations(data: dict[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether a scorer compares with an expectation, and the names of those that do."""
    if names := _EXPECTATIONS.get(str(data.get("builtin_scorer_class"))):
        return True, names
    if ensemble := data.get("ensemble_scorer_data"):
        found = [_expectations(one) for one in ensemble.get("scorers", [])]
        return any(needs for needs, _ in found), tuple(sorted({name for _, names in found for name in names}))
    if memory := data.get("memory_augmented_judge_data"):
        return _expectations(memory.get("base_judge") or {})
    instructed = data.get("instructions_judge_pydantic_data") or {}
    return bool(_PLACEHOLDER.search(str(instructed.get("instructions")))), ()


def fingerprint(data: dict[str, Any], endpoint: str | None, sees: str = "answer") -> str:
    """SHA-256 of what decides a serialized scorer's verdicts.

    The prompts of built-in judges are those of the installed MLflow, not of the one that registered them; those of
    fenced ones are ours.
    """
    deciding = _deciding(data) | {"endpoint": endpoint, "mlflow": version("mlflow")}
    if prompt := _prompt(data):
        deciding["prompt"] = prompt
    if sees != "answer":
        deciding["sees"] = sees
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _deciding(data: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _deciding(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if key not in _UNDECIDING and value is not None
    }


def code_fingerprint(definition: Definition) -> str:
    """As `fingerprint`, of code from a file."""
    assert definition.code is not None
    deciding = {
        "function": definition.code.function,
        "sha256": definition.code.sha256,
        "mlflow": version("mlflow"),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _prompt(data: dict[str, Any]) -> str:
    """The prompt of a fenced judge, without the name of a call's marks; empty for those that MLflow asks itself."""
    if data.get("builtin_scorer_class") == "Guidelines":
        rules = (data.get("builtin_scorer_pydantic_data") or {}).get("guidelines") or []
        return fenced.prompt_of([rules] if isinstance(rules, str) else rules)
    instructed = data.get("instructions_judge_pydantic_data")
    return f"{instructed.get('instructions')}\n\n{fenced.RULES}" if instructed else ""


def _default_passes(data: dict[str, Any]) -> Passes:
    """What MLflow means by its own answers, for a judge that no file names."""
    known = BUILT_IN.get(str(data.get("builtin_scorer_class")))
    return Threshold(answers=known.passing) if known and known.passing != ("yes",) else yes_is_a_pass


def _keys(data: Any) -> set[str]:
    """The keys that have a value, at every depth: an ensemble holds its scorers."""
    if isinstance(data, dict):
        own = {key for key, value in data.items() if value is not None}
        return own.union(*(_keys(value) for value in data.values()))
    if isinstance(data, list):
        return set().union(*(_keys(value) for value in data))
    return set()
