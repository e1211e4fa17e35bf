"""The judges that there are: MLflow's registered scorers, with the sampling rate and filter that it keeps for each.

What people make in MLflow's UI or from code counts as it stands: the newest version of a scorer is the judge.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
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
from sqlalchemy import Connection, Row, Select, and_, func, select

from paddock_mlflow.database import engine
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
_UNDECIDING = ("aggregations", "description", "mlflow_version", "name", "serialization_version", "timeout")
"""What of a serialized scorer can change without another verdict."""


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
        data = _parsed(self.name, self.serialized)
        if "call_source" in _keys(data):
            raise UnusableJudge(
                f"the judge {self.name} to be a built-in scorer or one made by make_judge",
                "Python code in MLflow's registry, which anybody with an account could have put there",
                "declare it as code from a file",
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
        scorer._set_registration_metadata(
            backend=SCORER_BACKEND_TRACKING,
            experiment_id=self.experiment_id,
            sampling_config=ScorerSamplingConfig(sample_rate=self.sample_rate, filter_string=self.filter),
            scorer_version=self.version,
        )
        return scorer


class Judges:
    """The judges of all experiments, as they are at each call.

    Args:
        database_url: of MLflow's tracking database.
    """

    def __init__(self, database_url: str) -> None:
        self._engine = engine(database_url)

    def active(self) -> list[Judge]:
        """Those that look at new traces by themselves."""
        with self._engine.connect() as connection:
            found = _read(connection, _newest().where(_configurations.c.sample_rate > 0))
            return list(found)

    def of_experiment(self, experiment_id: str) -> list[Judge]:
        """All of an experiment, by name."""
        query = (
            _newest().where(_scorers.c.experiment_id == int(experiment_id)).order_by(_scorers.c.scorer_name)
        )
        with self._engine.connect() as connection:
            return list(_read(connection, query))

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


def _read(connection: Connection, query: Select[*tuple[Any, ...]]) -> Iterator[Judge]:
    rows = connection.execute(query).all()
    names: dict[str, str] = {}
    if rows:
        endpoints = select(_endpoints.c.endpoint_id, _endpoints.c.name)
        names = {row.endpoint_id: row.name for row in connection.execute(endpoints)}
    return (_judge(row, names) for row in rows)


def _judge(row: Row[Any], endpoints: Mapping[str, str]) -> Judge:
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
    return Judge(
        name=row.scorer_name,
        experiment_id=str(row.experiment_id),
        level="session" if data.get("is_session_level_scorer") else "trace",
        serialized=json.dumps(data) if data else row.serialized_scorer,
        version=row.scorer_version,
        fingerprint=_fingerprint(data, endpoint),
        endpoint=endpoint,
        sample_rate=row.sample_rate or 0.0,
        filter=row.filter_string or None,
        needs_expectations=needs,
        expectation_names=names,
        endpoints=frozenset(endpoints.values()),
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


def _fingerprint(data: dict[str, Any], endpoint: str | None) -> str:
    """The prompts of built-in judges are those of the installed MLflow, not of the one that registered them."""
    deciding = {key: value for key, value in data.items() if key not in _UNDECIDING and value is not None} | {
        "endpoint": endpoint,
        "mlflow": version("mlflow"),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _keys(data: Any) -> set[str]:
    """The keys that have a value, at every depth: an ensemble holds its scorers."""
    if isinstance(data, dict):
        own = {key for key, value in data.items() if value is not None}
        return own.union(*(_keys(value) for value in data.values()))
    if isinstance(data, list):
        return set().union(*(_keys(value) for value in data))
    return set()
