"""What `judges.yaml` may say. The JSON Schema that editors use is made from these classes."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from paddock_mlflow.config.model import Name, Strict
from paddock_mlflow.judges.catalogue import BUILT_IN

DEFAULT_ENDPOINT = "judge"

JUDGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,127}$"
PYTHON = r"^[A-Za-z0-9_][A-Za-z0-9_./-]*\.py:[A-Za-z_][A-Za-z0-9_]*$"

JudgeName = Annotated[str, StringConstraints(pattern=JUDGE_NAME)]
"""Also the name of its assessments."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Python = Annotated[str, StringConstraints(pattern=PYTHON)]
BuiltInName = Literal[tuple(BUILT_IN)]  # type: ignore[valid-type]
Number = int | float


def _words(value: Any) -> Any:
    """YAML reads a bare yes and no as true and false; in a list of answers they are words."""
    if isinstance(value, list):
        return [{True: "yes", False: "no"}[one] if isinstance(one, bool) else one for one in value]
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _or_one(schema: dict[str, Any]) -> None:
    """One guideline may stand without a list around it."""
    schema["anyOf"] = [{"type": "string"}, *schema["anyOf"]]


Answer = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Range(Strict):
    """A scale of numbers, ends included."""

    lowest: Number
    highest: Number
    whole: bool = Field(True, description="Whether only whole numbers are on it.")


class Bound(Strict):
    """What of a scale counts as a pass."""

    at_least: Number | None = None
    at_most: Number | None = None


Answers = Annotated[list[Answer], BeforeValidator(_words), Field(min_length=1, max_length=32)]


class Judge(Strict):
    """One of `scorer`, `guidelines`, `instructions` and `python` says what it is."""

    scorer: BuiltInName | None = Field(None, description="A built-in scorer of MLflow, by its class.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the built-in scorer, by MLflow's names."
    )
    guidelines: (
        Annotated[list[Text], BeforeValidator(_as_list), Field(min_length=1, max_length=50)] | None
    ) = Field(
        None,
        description="What must hold, in plain words, one sentence each. All must hold for a yes.",
        json_schema_extra=_or_one,
    )
    sees: Literal["answer", "steps"] = Field(
        "answer",
        description="For `guidelines`: `answer` is the request and the answer, `steps` the tool calls between them, too.",
    )
    instructions: Text | None = Field(
        None,
        description="What a judge of your own is to decide. It asks for what it needs by {{ inputs }}, {{ outputs }},"
        " {{ expectations }}, {{ trace }} or {{ conversation }}.",
    )
    values: Literal["boolean", "text"] | Answers | Range | None = Field(
        None,
        description="What it may answer: `boolean`, `text`, a list of words, a range of numbers; yes or no if left out.",
    )
    python: Python | None = Field(
        None,
        description="FILE.py:FUNCTION, of a file in the folder JUDGES_CODE. It runs in the judging process alone.",
    )
    endpoint: Name | None = Field(
        None, description="The gateway's endpoint that is asked; the file's `endpoint` if left out."
    )
    sampling: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="The share of new traces that it looks at by itself. Left out: all at first, then what the UI says.",
    )
    filter: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = Field(
        None, description="Which new traces it looks at, in MLflow's search syntax; all if left out."
    )
    run: Literal["online", "on demand"] = Field(
        "online", description="`on demand`: only where somebody asks, as by ./paddock evaluate."
    )
    expects: bool = Field(
        False,
        description="For `python`: whether it needs an expectation with the trace. For the others it is known.",
    )
    passes: Answers | Bound | bool | None = Field(
        None,
        alias="pass",
        description="What passes: a list of answers, a bound of the scale, true or false; yes and true if left out.",
    )


class Judges(Strict):
    """The judges of a stack: who looks at the traces, at which of them, and what passes."""

    version: Literal[1] = Field(description="Of this form.")
    endpoint: Name = Field(
        DEFAULT_ENDPOINT,
        description="The gateway's endpoint that judges ask, where they name none themselves.",
    )
    judges: dict[JudgeName, Judge] = Field(description="By the names of their assessments.")
