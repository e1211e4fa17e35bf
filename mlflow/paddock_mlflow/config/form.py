"""What pydantic finds wrong with a file's form, in words: expected, found, remedy, each at its line."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from paddock_mlflow.config.errors import Problem
from paddock_mlflow.config.source import Source, Steps

_SHOWN = 60


def _nothing_special(source: Source, steps: Steps, error: ErrorDetails) -> Problem | None:
    return None


@dataclass(frozen=True)
class Words:
    """How one kind of file speaks of its mistakes."""

    fields_at: Callable[[Steps], list[str]]
    """The fields that are known at a place; none where any name is allowed."""
    example: str
    """What shows the form."""
    pattern: Callable[[str, bool], tuple[str, str]]
    """What a regular expression asks for, and the remedy; whether it is a key's."""
    special: Callable[[Source, Steps, ErrorDetails], Problem | None] = _nothing_special
    """What this kind of file says otherwise than all."""

    def problems(self, source: Source, error: ValidationError) -> Iterator[Problem]:
        """One for each thing that pydantic found."""
        for found in error.errors(include_url=False, include_context=True):
            # Of a value that may be a word or a mapping, what is said of the mapping's fields is enough.
            if found["type"] != "literal_error" or not isinstance(found["input"], dict):
                yield self._translated(source, found)

    def _translated(self, source: Source, error: ErrorDetails) -> Problem:
        kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
        is_key = bool(error["loc"]) and error["loc"][-1] == "[key]"
        steps = steps_of(source, error["loc"])
        if (said := self.special(source, steps, error)) is not None:
            return said
        if kind == "missing":
            return source.problem(steps, f"a field `{steps[-1]}`", "none", f"add `{steps[-1]}:`")
        if kind == "extra_forbidden":
            known = self.fields_at(steps[:-1])
            near = difflib.get_close_matches(str(steps[-1]), known, n=1)
            remedy = (
                f"did you mean `{near[0]}`?"
                if near
                else f"known are: {', '.join(known)}"
                if known
                else "remove it"
            )
            return source.problem(steps, "a field that is known here", f"`{steps[-1]}`", remedy)
        expected = _expected(kind, context)
        remedy = f"mend it; {self.example} show the form"
        if kind == "string_pattern_mismatch":
            expected, remedy = self.pattern(str(context.get("pattern")), is_key)
        if kind == "literal_error" and (meant := _near(value, context)):
            remedy = f"did you mean `{meant}`?"
        return source.problem(steps, expected or error["msg"].lower(), shown(value), remedy)


def _expected(kind: str, context: Mapping[str, Any]) -> str | None:
    return {
        "literal_error": str(context.get("expected", "")).replace(" or ", ", "),
        "greater_than": f"a number above {context.get('gt')}",
        "greater_than_equal": f"a number of at least {context.get('ge')}",
        "less_than_equal": f"a number of at most {context.get('le')}",
        "too_short": "at least one entry",
        "too_long": f"at most {context.get('max_length')} entries",
        "string_too_short": "a text",
        "string_too_long": f"a text of at most {context.get('max_length')} characters",
        "string_type": "a text",
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "float_type": "a number",
        "decimal_parsing": "a number",
        "decimal_type": "a number",
        "finite_number": "a number",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "dict_type": "a mapping (name: value)",
        "model_type": "a mapping (name: value)",
        "list_type": "a list",
        "tuple_type": "a list",
        "decimal_max_places": f"at most {context.get('decimal_places')} decimal places",
        "decimal_max_digits": "a smaller number",
    }.get(kind)


def _near(value: Any, context: Mapping[str, Any]) -> str:
    known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
    return next(iter(difflib.get_close_matches(str(value), known, n=1)), "")


def steps_of(source: Source, location: tuple[int | str, ...]) -> Steps:
    """Pydantic's location without the names of the union's branches, which no file has."""
    steps: list[int | str] = []
    at: Any = source.data
    for step in location:
        if isinstance(at, dict) and isinstance(step, str) and (step in at or _may_be_missing(step)):
            steps.append(step)
            at = at.get(step)
        elif isinstance(at, list) and isinstance(step, int) and step < len(at):
            steps.append(step)
            at = at[step]
    return tuple(steps)


def _may_be_missing(step: str) -> bool:
    return step.isidentifier() and step.islower() and step not in {"free", "str", "list", "dict"}


def shown(value: Any) -> str:
    """A value as a message names it: short."""
    text = f"`{value}`" if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    text = {"a dict": "a mapping", "a NoneType": "nothing"}.get(text, text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...`"


def made(item: type[BaseModel], entry: Any) -> BaseModel | None:
    """An entry by itself, or None where it is not well-formed."""
    try:
        return TypeAdapter(item).validate_python(entry)
    except ValidationError:
        return None


def once(problems: list[Problem]) -> list[Problem]:
    """One problem a field: the first one found says enough."""
    seen: set[tuple[int, str]] = set()
    return [
        problem
        for problem in problems
        if (key := (problem.line, problem.path)) not in seen and not seen.add(key)  # type: ignore[func-returns-value]
    ]
