"""Guardrails of the declared configuration: list, set, remove. They become MLflow's own, which its UI shows and changes.

MLflow's REST API takes a scorer as its library serializes it, which the command line does not have; so scorers are made
here.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

router = APIRouter(prefix="/guardrails")

EXPERIMENT = "gateway/guardrails"
"""Where their scorers are registered. Nothing is judged there."""
SCHEME = "gateway:/"


class Guardrail(BaseModel):
    """Endpoints by name. `order` is its place among those of an endpoint."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=128)
    scorer: Literal["PIIDetection", "SecretDetection", "Safety", "Judge"]
    stage: Literal["before", "after"]
    action: Literal["validation", "sanitization"]
    endpoints: Annotated[list[str], Field(min_length=1)]
    instructions: str = ""
    model: str = ""
    """An endpoint's name, for scorers that ask a model."""
    order: Annotated[int, Field(ge=0)] = 0


@router.get("")
def list_guardrails() -> dict[str, Any]:
    """Every guardrail; `scorer` is empty where it is none that a configuration can name."""
    store = _store()
    endpoints = {one.endpoint_id: one.name for one in store.list_gateway_endpoints()}
    guarded: dict[str, list[str]] = {}
    for identifier, name in endpoints.items():
        for config in store.list_endpoint_guardrail_configs(identifier):
            guarded.setdefault(config.guardrail_id, []).append(name)
    return {
        "guardrails": [
            {
                "id": rail.guardrail_id,
                "name": rail.name,
                "stage": rail.stage.value.lower(),
                "action": rail.action.value.lower(),
                "endpoints": sorted(guarded.get(rail.guardrail_id, [])),
                **_described(store.resolve_endpoint_in_scorer(rail.scorer)._serialized_scorer),
            }
            for rail in _every(store)
        ]
    }


@router.put("")
def set_guardrail(wanted: Guardrail) -> dict[str, Any]:
    """Make the guardrail, or put another in the place of the one of that name, which guards until the new one does.

    400 where it can't guard, or an endpoint does not exist.
    """
    from mlflow.entities.gateway_guardrail import GuardrailAction, GuardrailStage
    from mlflow.exceptions import MlflowException

    store = _store()
    known = {one.name: one.endpoint_id for one in store.list_gateway_endpoints()}
    if unknown := [name for name in wanted.endpoints if name not in known]:
        raise HTTPException(
            400,
            f"expected endpoints that exist ({', '.join(sorted(known))}), found {', '.join(unknown)}; make them first",
        )
    before = [rail.guardrail_id for rail in _every(store) if rail.name == wanted.name]
    try:
        serialized = json.dumps(_scorer(wanted).model_dump())
        version = store.register_scorer(_experiment(store), wanted.name, serialized)
        made = store.create_gateway_guardrail(
            wanted.name,
            version.scorer_id,
            version.scorer_version,
            GuardrailStage(wanted.stage.upper()),
            GuardrailAction(wanted.action.upper()),
        )
        for name in wanted.endpoints:
            store.add_guardrail_to_endpoint(known[name], made.guardrail_id, wanted.order)
    except MlflowException as error:
        raise HTTPException(400, error.message) from None
    for identifier in before:
        _remove(store, identifier)
    return {"id": made.guardrail_id}


@router.delete("/{guardrail_id}")
def remove_guardrail(guardrail_id: str) -> dict[str, Any]:
    """404 where there is no such guardrail."""
    store = _store()
    if all(rail.guardrail_id != guardrail_id for rail in _every(store)):
        raise HTTPException(
            404,
            f"expected a guardrail {guardrail_id}, found none; list them: GET /api/3.0/paddock/guardrails",
        )
    _remove(store, guardrail_id)
    return {}


def _store() -> Any:
    # MLflow reads its environment at import.
    from mlflow.server.handlers import _get_tracking_store

    return _get_tracking_store()


def _every(store: Any) -> Iterator[Any]:
    token = None
    while True:
        page = store.list_gateway_guardrails(page_token=token)
        yield from page
        if not (token := page.token):
            return


def _remove(store: Any, guardrail_id: str) -> None:
    for endpoint in store.list_gateway_endpoints():
        if any(
            config.guardrail_id == guardrail_id
            for config in store.list_endpoint_guardrail_configs(endpoint.endpoint_id)
        ):
            store.remove_guardrail_from_endpoint(endpoint.endpoint_id, guardrail_id)
    store.delete_gateway_guardrail(guardrail_id)


def _experiment(store: Any) -> str:
    from mlflow.entities.experiment_tag import ExperimentTag
    from mlflow.utils.mlflow_tags import MLFLOW_EXPERIMENT_IS_GATEWAY

    return str(
        store._get_or_create_experiment_id(EXPERIMENT, [ExperimentTag(MLFLOW_EXPERIMENT_IS_GATEWAY, "true")])
    )


def _scorer(wanted: Guardrail) -> Any:
    from mlflow.genai.judges import make_judge
    from mlflow.genai.scorers import PIIDetection, RegexMatch, Safety

    from paddock_mlflow.guardrails.scorers import DECLARED_PII, secret_pattern

    model = SCHEME + (wanted.model or "judge")
    match wanted.scorer:
        case "PIIDetection":
            return PIIDetection(name=wanted.name, pii_types=list(DECLARED_PII))
        case "SecretDetection":
            return RegexMatch(name=wanted.name, pattern=secret_pattern())
        case "Safety":
            return Safety(name=wanted.name, model=model)
        case "Judge":
            return make_judge(
                name=wanted.name, instructions=wanted.instructions, model=model, feedback_value_type=bool
            )


def _described(serialized: str) -> dict[str, str]:
    """What a configuration would call the scorer."""
    from paddock_mlflow.guardrails.scorers import DECLARED_PII, secret_pattern

    data = json.loads(serialized)
    built_in = data.get("builtin_scorer_class")
    settings = data.get("builtin_scorer_pydantic_data") or {}
    instructed = data.get("instructions_judge_pydantic_data") or {}
    model = str(settings.get("model") or instructed.get("model") or "").removeprefix(SCHEME)
    found = {"scorer": "", "instructions": "", "model": ""}
    if built_in == "PIIDetection" and settings.get("pii_types") == list(DECLARED_PII):
        return found | {"scorer": "PIIDetection"}
    if built_in == "RegexMatch" and settings.get("pattern") == secret_pattern():
        return found | {"scorer": "SecretDetection"}
    if built_in == "Safety":
        return found | {"scorer": "Safety", "model": model}
    if instructed:
        return found | {
            "scorer": "Judge",
            "model": model,
            "instructions": str(instructed.get("instructions", "")),
        }
    return found
