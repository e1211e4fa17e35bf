"""Which registered scorers can guard a call, and what each becomes here.

MLflow stores a guardrail with a scorer and calls it with `inputs` and `outputs`, whatever it takes: `Safety` then fails
every call with 500 (`unexpected keyword argument 'inputs'`), so does `PIIDetection` before a call, and scorers that
need a trace or an expected answer can't be asked at all. Here each scorer is called with what it takes, and those that
can't guard are refused when they are configured.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from paddock_mlflow.guardrails.detectors import PII, SECRETS, Detector
from paddock_mlflow.guardrails.errors import UnusableGuardrail

DECLARED_PII = ("credit_card", "ssn", "phone")
"""What a PIIDetection of gateway.yaml looks for. Mail and network addresses stand in every repository, and in OpenHands'
own prompt, so that each call of an agent would be refused; one that is registered with MLflow may name them."""

type Stage = Literal["BEFORE", "AFTER"]
type Action = Literal["VALIDATION", "SANITIZATION"]

_FORBIDDING = re.compile(r"\(\?s\)\\A\(\?!\.\*\(\?:(?P<inner>.*)\)\)", re.DOTALL)
_TEXT_SCORERS = ("Safety", "RegexMatch", "ResponseLength")
"""Built-in scorers that read one text, so that they can read a request too."""
_ANSWER_SCORERS = {
    "Guidelines": ("inputs", "outputs"),
    "RelevanceToQuery": ("inputs", "outputs"),
    "Completeness": ("inputs", "outputs"),
    "Summarization": ("inputs", "outputs"),
    "Fluency": ("outputs",),
}
_NEEDS = {
    "Correctness": "an expected answer",
    "Equivalence": "an expected answer",
    "ExpectationsGuidelines": "expectations",
}
_PLACEHOLDER = re.compile(r"{{\s*(\w+)\s*}}")


@dataclass(frozen=True)
class Pattern:
    """A scorer that looks for forms of text. `detector` finds what must not be there."""

    detector: Detector


@dataclass(frozen=True)
class Judged:
    """A scorer that decides over the whole, by a model or a rule. `takes` are the arguments that it is called with."""

    serialized: dict[str, Any] = field(repr=False)
    takes: tuple[str, ...]
    model: str = ""


def secret_pattern() -> str:
    """The pattern of a `RegexMatch` scorer that passes texts without a key: MLflow has no scorer for secrets itself."""
    return forbidding(SECRETS)


def forbidding(patterns: dict[str, str]) -> str:
    """A regular expression that matches texts in which none of the patterns does; the kinds are its groups' names."""
    inner = "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in patterns.items())
    return rf"(?s)\A(?!.*(?:{inner}))"


def understand(serialized: str | dict[str, Any], stage: Stage, action: Action) -> Pattern | Judged:
    """What a registered scorer does as a guardrail.

    Raises:
        UnusableGuardrail: it can't guard, or not so.
    """
    data: dict[str, Any] = json.loads(serialized) if isinstance(serialized, str) else serialized
    name = str(data.get("name"))
    if built_in := data.get("builtin_scorer_class"):
        found = _built_in(data, str(built_in), stage)
    elif data.get("instructions_judge_pydantic_data"):
        found = _instructed(data, name, stage)
    else:
        kind = (
            "a custom @scorer" if data.get("call_source") else "a scorer of another library, or an ensemble"
        )
        raise UnusableGuardrail(
            f"expected a built-in scorer or a judge made by make_judge, found {name!r}, {kind}; the gateway does not"
            " run foreign code on calls"
        )
    if action == "SANITIZATION" and not isinstance(found, Pattern):
        raise UnusableGuardrail(
            f"expected the action VALIDATION for {name!r}, found SANITIZATION: it judges the whole and finds no place"
            " that could be masked; take VALIDATION, or mask by PIIDetection or a RegexMatch that forbids patterns"
        )
    return found


def _built_in(data: dict[str, Any], built_in: str, stage: Stage) -> Pattern | Judged:
    settings = data.get("builtin_scorer_pydantic_data") or {}
    if built_in == "PIIDetection":
        kinds = settings.get("pii_types") or list(PII)
        if unknown := [kind for kind in kinds if kind not in PII]:
            raise UnusableGuardrail(
                f"expected pii_types of {', '.join(PII)}, found {', '.join(unknown)}; register the scorer anew"
            )
        return Pattern(_detector({kind: PII[kind] for kind in kinds}))
    if built_in == "RegexMatch" and (forbidden := _forbidden(str(settings.get("pattern")))):
        return Pattern(_detector(forbidden))
    model = _model(settings.get("model"), built_in)
    if built_in in _TEXT_SCORERS:
        return Judged(data, ("outputs",), model)
    if built_in in _ANSWER_SCORERS:
        if stage == "BEFORE":
            raise UnusableGuardrail(
                f"expected the stage AFTER for {built_in}, which compares an answer with its question, found BEFORE;"
                " take AFTER, or one of Safety, PIIDetection, RegexMatch or a judge of {{ inputs }} alone"
            )
        return Judged(data, _ANSWER_SCORERS[built_in], model)
    needed = _NEEDS.get(built_in, "a whole trace or session")
    raise UnusableGuardrail(
        f"expected a scorer that decides by a request and its answer, found {built_in}, which needs {needed}; take"
        f" {', '.join(('PIIDetection', *_TEXT_SCORERS, *_ANSWER_SCORERS))} or a judge made by make_judge"
    )


def _instructed(data: dict[str, Any], name: str, stage: Stage) -> Judged:
    settings = data["instructions_judge_pydantic_data"]
    asked = set(_PLACEHOLDER.findall(str(settings.get("instructions"))))
    known = {"inputs"} if stage == "BEFORE" else {"inputs", "outputs"}
    if not asked & known or (asked & {"inputs", "outputs", "trace", "expectations", "conversation"}) - known:
        expected = " or ".join(f"{{{{ {one} }}}}" for one in sorted(known))
        given = ", ".join(f"{{{{ {one} }}}}" for one in sorted(asked)) or "none of them"
        raise UnusableGuardrail(
            f"expected the instructions of {name!r} to ask for {expected} alone at the stage {stage}, found {given};"
            " register the judge anew with other instructions, or use it at the other stage"
        )
    return Judged(data, tuple(sorted(asked & known)), _model(settings.get("model"), name))


def _model(model: Any, name: str) -> str:
    """Empty stands for the server's own choice, `gateway:/judge`."""
    if model and not str(model).startswith("gateway:/"):
        raise UnusableGuardrail(
            f"expected {name!r} to ask a model of the gateway, found {model!r}, which would pass by budgets and"
            " traces; register it with model='gateway:/judge'"
        )
    return str(model or "")


def _forbidden(pattern: str) -> dict[str, str]:
    """Kind → pattern of a RegexMatch made by `forbidding`; empty for one that says what must be there.

    Known kinds get today's form rather than the one that was registered, so that a release brings new ones.
    """
    match = _FORBIDDING.fullmatch(pattern)
    if match is None:
        return {}
    names = re.compile(match["inner"]).groupindex
    if names and names.keys() <= (SECRETS | PII).keys() | {"sep", "two"}:
        return {kind: (SECRETS | PII)[kind] for kind in names if kind in SECRETS | PII}
    return {"forbidden": match["inner"]}


_detectors: dict[str, Detector] = {}


def _detector(patterns: dict[str, str]) -> Detector:
    """One for all guardrails that look for the same: they share what it remembers."""
    key = json.dumps(patterns, sort_keys=True)
    return _detectors.setdefault(key, Detector(patterns))
