"""judges.yaml against its form, itself, the gateway's file and the code beside it: every error at once, each at its line.

Needs no MLflow. What only MLflow can say, `remote` takes from a running server.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from paddock_mlflow.config.errors import InvalidConfiguration, Problem
from paddock_mlflow.config.form import Words, made, once, shown
from paddock_mlflow.config.source import Form, Source, Steps, read
from paddock_mlflow.judges import catalogue, definition, model
from paddock_mlflow.judges.catalogue import BUILT_IN
from paddock_mlflow.judges.definition import BadCode, Definition

FORM = Form(
    kind="a readable file of judges",
    content="a mapping of sections (endpoint, judges)",
    example="the shipped mlflow/judges.yaml",
    named_by="JUDGES_CONFIG in .env, or the argument",
)
AGENTS_ENDPOINT = "coder"
KINDS = ("scorer", "guidelines", "instructions", "python")

_ANSWERING = {"boolean": ("true", "false")}
# MLflow's search for traces: comparisons, joined by AND. What it means by each key, the server says.
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|-?\d+(?:\.\d+)?|\(\s*'[^']*'(?:\s*,\s*'[^']*')*\s*\))"
_KEY = r"[A-Za-z_]+(?:\.(?:`[^`]+`|\"[^\"]+\"|[A-Za-z0-9_.-]+))?"
_COMPARISON = r"(?:!=|>=|<=|=|>|<|\bLIKE\b|\bILIKE\b|\bRLIKE\b|\bNOT\s+IN\b|\bIN\b)"
_CLAUSE = rf"{_KEY}\s*(?:{_COMPARISON}\s*{_VALUE}|\bIS\s+(?:NOT\s+)?NULL\b)"
_FILTER = re.compile(rf"\s*{_CLAUSE}(?:\s+AND\s+{_CLAUSE})*\s*\Z", re.IGNORECASE)


@dataclass
class Checked:
    """A file that may be applied."""

    file: model.Judges
    source: Source
    definitions: dict[str, Definition]
    notes: list[str] = field(default_factory=list)
    """What is worth a word and no error."""


def load(path: Path, code_folder: Path, endpoints: Collection[str] | None) -> Checked:
    """Read and check a file.

    Args:
        path: the file.
        code_folder: where the files of code scorers are.
        endpoints: the gateway's, by name; None where they are not known, and not looked at.

    Raises:
        InvalidConfiguration: with every problem of the file.
    """
    return check(read(path, FORM), code_folder, endpoints)


def check(source: Source, code_folder: Path, endpoints: Collection[str] | None) -> Checked:
    """As `load`, of what was read already."""
    problems = list(source.problems)
    file: model.Judges | None = None
    try:
        file = model.Judges.model_validate(source.data)
    except ValidationError as error:
        problems += _WORDS.problems(source, error)
    rules = _Rules(source, file or _partial(source), code_folder, endpoints)
    problems += rules.problems()
    if problems or file is None:
        raise InvalidConfiguration(source.file, once(problems))
    return Checked(file, source, definition.resolve(file, code_folder), list(_notes(file)))


def remote(source: Source, found: list[dict[str, str]]) -> list[Problem]:
    """What a server said of the judges, at the lines of the file. `found`: name, field, expected, found, remedy."""
    return [
        source.problem(
            ("judges", one["name"], *one["field"].split(".")), one["expected"], one["found"], one["remedy"]
        )
        for one in found
    ]


# The form


def _special(source: Source, steps: Steps, error: ErrorDetails) -> Problem | None:
    kind, value = error["type"], error.get("input")
    if steps and steps[-1] == "scorer" and kind == "literal_error":
        if value == catalogue.GUIDELINES:
            return source.problem(
                steps, "a built-in scorer", f"`{value}`", "write `guidelines:` with your rules in its place"
            )
        near = difflib.get_close_matches(str(value), BUILT_IN, n=1)
        remedy = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(sorted(BUILT_IN))}"
        return source.problem(steps, "a built-in scorer of MLflow", shown(value), remedy)
    if len(steps) == 3 and steps[-1] == "sampling":
        return source.problem(steps, "a share from 0 to 1", shown(value), "write 0.2 for every fifth trace")
    if len(steps) >= 3 and steps[2] in ("values", "pass"):
        # Of a choice of forms pydantic tells what is wrong with each.
        return source.problem(steps[:3], _CHOICES[str(steps[2])], shown(value), _MEND)
    return None


def _pattern(pattern: str, is_key: bool) -> tuple[str, str]:
    if pattern == model.PYTHON:
        return "FILE.py:FUNCTION", "name the function of a file in the folder JUDGES_CODE"
    if pattern == model.JUDGE_NAME:
        return "a name of letters, digits and `_ . -`", "rename it"
    return "a name of letters, digits and `_ . -`", "mend it"


def _fields_at(steps: Steps) -> list[str]:
    if not steps:
        return list(model.Judges.model_fields)
    if len(steps) == 2 and steps[0] == "judges":
        return [one.alias or name for name, one in model.Judge.model_fields.items()]
    return []


_CHOICES = {
    "values": "`boolean`, `text`, a list of words, or a range with `lowest` and `highest`",
    "pass": "a list of answers, true or false, or a bound with `at_least` or `at_most`",
}
_EXAMPLE = "the shipped mlflow/judges.yaml and docs/judges.md"
_MEND = f"mend it; {_EXAMPLE} show the form"
_WORDS = Words(_fields_at, _EXAMPLE, _pattern, _special)


def _partial(source: Source) -> model.Judges:
    """What of the file is well-formed by itself, so that the rules can be looked at too."""
    given = source.data.get("judges")
    entries = given if isinstance(given, dict) else {}
    judges = {name: one for name, entry in entries.items() if (one := made(model.Judge, entry)) is not None}
    endpoint = source.data.get("endpoint", model.DEFAULT_ENDPOINT)
    named = endpoint if isinstance(endpoint, str) else model.DEFAULT_ENDPOINT
    return model.Judges.model_construct(version=1, endpoint=named, judges=judges)


# The rules


class _Rules:
    """What the form can't say. Judges that are not well-formed are not looked at."""

    def __init__(
        self, source: Source, file: model.Judges, code_folder: Path, endpoints: Collection[str] | None
    ) -> None:
        self._source = source
        self._file = file
        self._code_folder = code_folder
        self._endpoints = endpoints

    def problems(self) -> Iterator[Problem]:
        yield from self._endpoint(("endpoint",), self._file.endpoint)
        spelled: dict[str, str] = {}
        for name, judge in self._file.judges.items():
            steps: Steps = ("judges", name)
            spelling = re.sub(r"[^a-z0-9]", "", name.lower())
            if (first := spelled.setdefault(spelling, name)) != name:
                yield self._problem(
                    steps,
                    "each judge once, however it is written",
                    f"`{name}` beside `{first}`",
                    "rename one",
                )
            kinds = [kind for kind in KINDS if getattr(judge, kind) is not None]
            if len(kinds) != 1:
                yield self._problem(
                    (*steps, kinds[1]) if kinds else steps,
                    f"one of {', '.join(KINDS)}",
                    f"{' and '.join(kinds)}" if kinds else "none of them",
                    "say what the judge is; two of them are two judges",
                )
                continue
            yield from self._stray(steps, judge, kinds[0])
            yield from self._of_kind(steps, judge, kinds[0])
            yield from self._schedule(steps, judge)
            yield from self._passing(steps, judge)

    def _problem(self, steps: Steps, expected: str, found: str, remedy: str) -> Problem:
        return self._source.problem(steps, expected, found, remedy)

    def _endpoint(self, steps: Steps, name: str) -> Iterator[Problem]:
        if name == AGENTS_ENDPOINT:
            yield self._problem(
                steps,
                "an endpoint of the judges' own",
                f"`{name}`, which agents call",
                "name another: judges would spend the agents' budget, and wait behind their limits",
            )
        elif self._endpoints is not None and name not in self._endpoints:
            near = difflib.get_close_matches(name, self._endpoints, n=1)
            known = ", ".join(sorted(set(self._endpoints) - {AGENTS_ENDPOINT})) or "none"
            remedy = (
                f"did you mean `{near[0]}`?"
                if near and near[0] != AGENTS_ENDPOINT
                else f"declare it in the gateway's configuration; there are: {known}"
            )
            yield self._problem(steps, "an endpoint of the gateway", f"`{name}`", remedy)

    def _stray(self, steps: Steps, judge: model.Judge, kind: str) -> Iterator[Problem]:
        """Fields that would do nothing for this kind of judge."""
        belongs = {
            "options": ("scorer",),
            "sees": ("guidelines",),
            "values": ("instructions",),
            "expects": ("python",),
        }
        for name, kinds in belongs.items():
            if name in judge.model_fields_set and kind not in kinds:
                yield self._problem(
                    (*steps, name), f"`{name}` beside `{kinds[0]}` alone", f"it beside `{kind}`", "remove it"
                )
        asks = kind != "python" and (judge.scorer is None or BUILT_IN[judge.scorer].asks)
        if judge.endpoint is not None and not asks:
            yield self._problem(
                (*steps, "endpoint"),
                "no endpoint for a judge that asks no model",
                f"`{judge.endpoint}`",
                "remove it",
            )
        elif judge.endpoint is not None:
            yield from self._endpoint((*steps, "endpoint"), judge.endpoint)

    def _of_kind(self, steps: Steps, judge: model.Judge, kind: str) -> Iterator[Problem]:
        if kind == "scorer":
            yield from self._options(steps, judge)
        elif kind == "instructions":
            yield from self._instructions(steps, judge)
        elif kind == "python" and judge.python is not None:
            try:
                definition.read_code(self._code_folder, judge.python)
            except BadCode as error:
                yield self._problem((*steps, "python"), error.expected, error.found, error.remedy)

    def _options(self, steps: Steps, judge: model.Judge) -> Iterator[Problem]:
        assert judge.scorer is not None
        known = BUILT_IN[judge.scorer].options
        for name, value in judge.options.items():
            place: Steps = (*steps, "options", name)
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                all_of = ", ".join(known) or "none"
                yield self._problem(
                    place,
                    f"an option of {judge.scorer}",
                    f"`{name}`",
                    f"did you mean `{near[0]}`?" if near else f"there are: {all_of}",
                )
            elif expected := catalogue.problem_of(known[name], value):
                yield self._problem(place, expected, shown(value), "mend it")
            elif name == "pattern":
                yield from self._regex(place, str(value))
        for name, option in known.items():
            if option.required and name not in judge.options:
                yield self._problem(
                    (*steps, "options"),
                    f"the option `{name}` of {judge.scorer}",
                    "none",
                    "add it under `options`",
                )
        if judge.scorer == "ResponseLength":
            yield from self._length(steps, judge.options)

    def _regex(self, steps: Steps, pattern: str) -> Iterator[Problem]:
        try:
            re.compile(pattern)
        except re.error as error:
            yield self._problem(steps, "a regular expression of Python's", str(error), "mend it")

    def _length(self, steps: Steps, options: dict[str, Any]) -> Iterator[Problem]:
        low, high = options.get("min_length"), options.get("max_length")
        if low is None and high is None:
            yield self._problem(
                (*steps, "options"),
                "`min_length` or `max_length`",
                "neither",
                "say how long an answer may be",
            )
        elif isinstance(low, int) and isinstance(high, int) and low > high:
            yield self._problem(
                (*steps, "options", "min_length"), f"at most max_length, {high}", f"{low}", "swap them"
            )

    def _instructions(self, steps: Steps, judge: model.Judge) -> Iterator[Problem]:
        place: Steps = (*steps, "instructions")
        asked = definition.placeholders(judge.instructions or "")
        written = ", ".join(f"{{{{ {name} }}}}" for name in catalogue.VARIABLES)
        if unknown := sorted(asked - set(catalogue.VARIABLES)):
            found = ", ".join(f"{{{{ {name} }}}}" for name in unknown)
            yield self._problem(place, f"instructions that ask for some of {written}", found, "rename it")
        elif not asked:
            yield self._problem(
                place,
                f"instructions that ask for some of {written}",
                "none of them",
                "write them like: Is {{ outputs }} polite?",
            )
        elif "conversation" in asked and asked - {"conversation", "expectations"}:
            yield self._problem(
                place,
                "{{ conversation }} with nothing but {{ expectations }} beside it",
                ", ".join(f"{{{{ {name} }}}}" for name in sorted(asked - {"conversation"})),
                "a conversation holds requests and answers already",
            )
        values = judge.values
        if isinstance(values, model.Range) and values.lowest >= values.highest:
            yield self._problem(
                (*steps, "values", "lowest"),
                f"less than highest, {values.highest}",
                f"{values.lowest}",
                "swap them",
            )
        if isinstance(values, model.Range) and values.whole:
            for name in ("lowest", "highest"):
                if not float(getattr(values, name)).is_integer():
                    yield self._problem(
                        (*steps, "values", name),
                        "a whole number, as the scale has",
                        f"{getattr(values, name)}",
                        "round it, or say `whole: false`",
                    )
        if isinstance(values, list) and len(set(map(str.lower, values))) < max(2, len(values)):
            yield self._problem(
                (*steps, "values"), "two different words or more", ", ".join(values), "mend them"
            )

    def _schedule(self, steps: Steps, judge: model.Judge) -> Iterator[Problem]:
        if judge.run == "on demand":
            for name in ("sampling", "filter"):
                if getattr(judge, name) is not None:
                    yield self._problem(
                        (*steps, name),
                        f"no `{name}` for a judge that looks on demand",
                        "one",
                        "remove it, or say `run: online`",
                    )
        if judge.filter is not None and not _FILTER.match(judge.filter):
            yield self._problem(
                (*steps, "filter"),
                "comparisons joined by AND, as in MLflow's search for traces",
                shown(judge.filter),
                "write it like: trace.status = 'OK' AND tags.team = 'web'",
            )

    def _passing(self, steps: Steps, judge: model.Judge) -> Iterator[Problem]:
        place: Steps = (*steps, "pass")
        passes = judge.passes
        if passes is None or judge.python is not None:
            if isinstance(passes, model.Bound):
                yield from self._bound(place, passes, None)
            return
        scale = (
            judge.values if judge.instructions is not None and isinstance(judge.values, model.Range) else None
        )
        if isinstance(passes, model.Bound):
            if scale is None:
                yield self._problem(
                    place,
                    f"what passes of {', '.join(_answers(judge))}",
                    "a bound",
                    "bounds are for ranges of numbers",
                )
            else:
                yield from self._bound(place, passes, scale)
            return
        if scale is not None:
            yield self._problem(
                place,
                "`at_least` or `at_most` for a range of numbers",
                "answers",
                "write it like {at_least: 4}",
            )
            return
        answers = _answers(judge)
        if isinstance(passes, bool):
            if judge.values != "boolean" or judge.instructions is None:
                yield self._problem(
                    place, f"some of {', '.join(answers)}", "a truth", 'write words in a list: ["yes"]'
                )
            return
        if judge.values == "boolean":
            yield self._problem(place, "true or false", ", ".join(passes), "say which one passes")
        elif judge.values != "text" or judge.instructions is None:
            known = {answer.lower() for answer in answers}
            for index, answer in enumerate(passes):
                if answer.lower() not in known:
                    given = self._source.data["judges"][steps[1]]["pass"]
                    at = (*place, index) if isinstance(given, list) else place
                    yield self._problem(at, f"one of {', '.join(answers)}", f"`{answer}`", "mend it")

    def _bound(self, steps: Steps, bound: model.Bound, scale: model.Range | None) -> Iterator[Problem]:
        given = {
            name: value for name in ("at_least", "at_most") if (value := getattr(bound, name)) is not None
        }
        if not given:
            yield self._problem(steps, "`at_least` or `at_most`", "neither", "say from where on it passes")
        for name, value in given.items():
            if scale is not None and not scale.lowest <= value <= scale.highest:
                yield self._problem(
                    (*steps, name),
                    f"a number of the scale, {scale.lowest} to {scale.highest}",
                    f"{value}",
                    "mend one of the two",
                )
        if len(given) == 2 and given["at_least"] > given["at_most"]:
            yield self._problem(
                (*steps, "at_least"), f"at most {given['at_most']}", f"{given['at_least']}", "swap them"
            )


def _answers(judge: model.Judge) -> tuple[str, ...]:
    """What a judge may answer, in words."""
    if judge.scorer is not None:
        return BUILT_IN[judge.scorer].values
    if judge.instructions is None or judge.values is None:
        return catalogue.YES_NO
    if isinstance(judge.values, list):
        return tuple(judge.values)
    return _ANSWERING.get(str(judge.values), ("any text",))


def _notes(file: model.Judges) -> Iterator[str]:
    for name, judge in file.judges.items():
        if judge.instructions is not None and "trace" in definition.placeholders(judge.instructions):
            yield (
                f"judge {name} reads the trace by MLflow's tools, whose answers no fence stands around: what an agent"
                " wrote could turn it. `guidelines` with `sees: steps` are fenced"
            )
        if judge.python is not None:
            yield f"judge {name} is code: it runs in the judging process, not in the UI's Run Judges"
