"""Between a declared judge and MLflow's serialized scorer, both ways. Runs where MLflow is."""

import json
import re
from typing import Any, Literal

from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Guidelines, Scorer
from mlflow.genai.scorers import builtin_scorers as stock
from pydantic import ValidationError

from paddock_mlflow.judges.catalogue import BUILT_IN, GUIDELINES
from paddock_mlflow.judges.definition import Definition, Scale, told, without_scale
from paddock_mlflow.judges.model import DEFAULT_ENDPOINT, JUDGE_NAME

SCHEME = "gateway:/"
_EVERY_SCORERS = {
    "name",
    "model",
    "required_columns",
    "description",
    "aggregations",
    "timeout",
    "instructions",
}


def scorer_of(definition: Definition) -> Scorer:
    """The scorer that MLflow is to hold.

    Raises:
        MlflowException, ValueError: MLflow does not take it so; the text says why.
    """
    model = SCHEME + definition.endpoint
    match definition.kind:
        case "guidelines":
            return Guidelines(name=definition.name, guidelines=list(definition.guidelines), model=model)
        case "built-in":
            made = getattr(stock, definition.scorer)
            asked = {"model": model} if BUILT_IN[definition.scorer].asks else {}
            scorer: Scorer = made(name=definition.name, **asked, **definition.options)
            return scorer
        case "instructions":
            return make_judge(
                name=definition.name,
                instructions=definition.registered_instructions(),
                model=model,
                feedback_value_type=_value_type(definition),
            )
        case _:
            raise ValueError(f"expected a judge that MLflow can hold, found {definition.kind}")


def described(name: str, serialized: str, kept: Definition | None) -> Definition:
    """What a file would call a registered scorer; of kind `foreign` where it can't.

    Args:
        name: its name.
        serialized: with endpoints by their names.
        kept: what a file said of it, for what MLflow does not hold.
    """
    try:
        data = json.loads(serialized)
        found = _of(data) if re.fullmatch(JUDGE_NAME, name) else {"kind": "foreign"}
        if kept is not None and found["kind"] == kept.kind:
            found["threshold"] = kept.threshold
            if kept.kind == "guidelines":
                found["sees"] = kept.sees
        elif (known := BUILT_IN.get(found.get("scorer", ""))) and known.passing != ("yes",):
            found["threshold"] = {"answers": known.passing}
        return Definition.model_validate({"name": name, **found})
    except (ValidationError, ValueError, AttributeError, TypeError, KeyError):
        return Definition(name=name, kind="foreign")


def _of(data: dict[str, Any]) -> dict[str, Any]:
    foreign = {"kind": "foreign"}
    if (built_in := data.get("builtin_scorer_class")) is not None:
        settings = data.get("builtin_scorer_pydantic_data") or {}
        given = {
            key: value for key, value in settings.items() if key not in _EVERY_SCORERS and value is not None
        }
        given.pop("last_turn_scorer", None)
        if built_in == GUIDELINES and given.keys() == {"guidelines"}:
            rules = given["guidelines"]
            return {
                "kind": "guidelines",
                "guidelines": [rules] if isinstance(rules, str) else rules,
                "endpoint": _endpoint(settings.get("model")),
            }
        known = BUILT_IN.get(built_in)
        if known is None or not given.keys() <= known.options.keys():
            return foreign
        if isinstance(given.get("guidelines"), str):
            given["guidelines"] = [given["guidelines"]]
        return {
            "kind": "built-in",
            "scorer": built_in,
            "options": told(built_in, given),
            "endpoint": _endpoint(settings.get("model")) if known.asks else "",
            "expects": known.expects,
        }
    if (settings := data.get("instructions_judge_pydantic_data")) is not None:
        if settings.keys() - {"instructions", "model", "feedback_value_type"}:
            return foreign
        text, scale = without_scale(settings["instructions"])
        return {
            "kind": "instructions",
            "instructions": text,
            "endpoint": _endpoint(settings["model"]),
            **_values(settings.get("feedback_value_type") or {"type": "string"}, scale),
        }
    return foreign


def _endpoint(model: str | None) -> str:
    if not model:
        return DEFAULT_ENDPOINT
    if not model.startswith(SCHEME):
        raise ValueError(model)
    return model.removeprefix(SCHEME)


def _value_type(definition: Definition) -> Any:
    match definition.values:
        case "boolean":
            return bool
        case "text":
            return str
        case "words":
            return Literal[definition.words]
        case "scale":
            assert definition.scale is not None
            return int if definition.scale.whole else float


def _values(schema: dict[str, Any], scale: Scale | None) -> dict[str, Any]:
    answers = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if answers:
        return {"values": "words", "words": answers}
    kind = schema.get("type")
    if kind in ("integer", "number") and scale is not None:
        return {"values": "scale", "words": (), "scale": scale}
    named = {"boolean": "boolean", "string": "text"}
    return {"values": named[str(kind)], "words": ()}
