"""What stands at a trace: verdicts of judges and labels of people, as MLflow's REST API tells them.

A label is feedback of a person under the judge's name. MLflow's UI makes one where somebody corrects a verdict, too: the
verdict is then no longer valid, and is still what the judge said. So is one that the judge itself overrode when it was
asked again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HUMAN = "HUMAN"
# What MLflow records itself is taken where ours is not there: a scorer that somebody ran from code.
VERSION = ("paddock.judge.version", "mlflow.assessment.scorerVersion")
FINGERPRINT = ("paddock.judge.fingerprint", "mlflow.assessment.scorerDigest")
ENDPOINT = "paddock.judge.endpoint"
COST = "paddock.judge.cost_usd"
PASSED = "paddock.passed"
_WORDS = {"yes": "yes", "true": "yes", "pass": "yes", "no": "no", "false": "no", "fail": "no"}


@dataclass(frozen=True)
class Assessment:
    """Feedback of a judge (`human` is False) or of a person.

    `category` is what two of them are compared by: yes or no where the value, or the judge's threshold, tells a pass from
    none; the value itself otherwise; empty where there is no value, and `error` says why.
    """

    id: str
    trace_id: str
    name: str
    human: bool
    by: str
    value: Any
    category: str
    rationale: str
    error: str
    created: str
    version: str
    fingerprint: str
    endpoint: str
    cost_usd: float | None


def of_trace(info: dict[str, Any]) -> Iterator[Assessment]:
    """The feedback that counts: what is valid, and verdicts that something else overrides."""
    listed = [one for one in info.get("assessments", []) if "feedback" in one]
    overridden = {one["overrides"] for one in listed if one.get("overrides")}
    for one in listed:
        if one.get("valid", True) or (one.get("assessment_id") in overridden and not _is_human(one)):
            yield read(one, str(info.get("trace_id", "")))


def read(one: dict[str, Any], trace_id: str) -> Assessment:
    """One assessment that is feedback."""
    feedback, metadata = one.get("feedback") or {}, one.get("metadata") or {}
    error = feedback.get("error") or one.get("error") or {}
    value = feedback.get("value")
    said = f"{error.get('error_code', '')}: {error.get('error_message', '')}".strip(": ") if error else ""
    human = _is_human(one)
    passed = {"true": "yes", "false": "no"}.get(str(metadata.get(PASSED, "")).lower(), "")
    return Assessment(
        id=str(one.get("assessment_id", "")),
        trace_id=trace_id,
        name=str(one.get("assessment_name", "")),
        human=human,
        by=str((one.get("source") or {}).get("source_id", "")),
        value=value,
        category="" if said else category(value) if human else passed or category(value),
        rationale=str(one.get("rationale") or ""),
        error=said,
        created=str(one.get("create_time", "")),
        version=_first(metadata, VERSION),
        fingerprint=_first(metadata, FINGERPRINT),
        endpoint=str(metadata.get(ENDPOINT, "")),
        cost_usd=_number(metadata.get(COST)),
    )


def category(value: Any) -> str:
    """What a value is compared by: yes, True and pass are one; a list or a dict is its JSON; empty for none."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower(), value.strip())
    if isinstance(value, float) and value.is_integer():
        # MLflow's protocol has no whole numbers.
        return str(int(value))
    return str(value) if isinstance(value, int | float) else json.dumps(value, sort_keys=True)


def _is_human(one: dict[str, Any]) -> bool:
    return str((one.get("source") or {}).get("source_type", "")).upper() == HUMAN


def _first(metadata: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((str(metadata[name]) for name in names if metadata.get(name)), "")


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
