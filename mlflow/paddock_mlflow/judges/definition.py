"""A declared judge with nothing left open: what the server is sent, and what it keeps of it. Needs no MLflow."""

import ast
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paddock_mlflow.judges import model
from paddock_mlflow.judges.catalogue import BUILT_IN, YES_NO, Level

Kind = Literal["built-in", "guidelines", "instructions", "python", "foreign"]
"""`foreign` is what somebody registered that no file can say, as an ensemble."""
MAX_CODE_BYTES = 256 * 1024

_PLACEHOLDER = re.compile(r"{{\s*(\w+)\s*}}")
_SCALE = re.compile(r"\n\nThe result is an? (whole )?number from (-?[\d.]+) to (-?[\d.]+)\.\Z")


class Scale(BaseModel):
    """Numbers that a judge may answer, ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lowest: float
    highest: float
    whole: bool


class Threshold(BaseModel):
    """What counts as a pass: one of these. Without any, yes and true do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answers: tuple[str, ...] = ()
    truth: bool | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_default(self) -> bool:
        """Whether it says nothing, so that yes and true pass."""
        return self == Threshold()

    def __call__(self, value: object) -> bool | None:
        """Whether a verdict is a pass; None where the threshold says nothing of such a value."""
        if self.answers:
            return str(value).strip().lower() in {one.lower() for one in self.answers}
        if self.truth is not None:
            return value is self.truth if isinstance(value, bool) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)


class Code(BaseModel):
    """A function of a file. `source` is kept, so that what gave a verdict can be read when the file has changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """Relative to the folder of code scorers."""
    function: str
    sha256: str
    source: str = Field(repr=False)


class Definition(BaseModel):
    """A judge, whole. `sampling` of None leaves the rate and the filter to the UI."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    kind: Kind
    scorer: str = ""
    """The class of a built-in one."""
    options: dict[str, Any] = Field(default_factory=dict)
    guidelines: tuple[str, ...] = ()
    sees: Literal["answer", "steps"] = "answer"
    instructions: str = ""
    values: Literal["boolean", "text", "words", "scale"] = "words"
    words: tuple[str, ...] = YES_NO
    scale: Scale | None = None
    code: Code | None = None
    endpoint: str = ""
    """Empty for those that ask no model."""
    expects: bool = False
    online: bool = True
    sampling: float | None = Field(None, ge=0, le=1)
    filter: str = ""
    threshold: Threshold = Threshold()

    @property
    def level(self) -> Level:
        """What it looks at."""
        if self.scorer:
            return BUILT_IN[self.scorer].level
        return "session" if "conversation" in placeholders(self.instructions) else "trace"

    @property
    def asks(self) -> bool:
        """Whether it asks a model."""
        return self.kind != "python" and (self.kind != "built-in" or BUILT_IN[self.scorer].asks)

    @property
    def in_mlflow(self) -> bool:
        """Whether MLflow's registry can hold it; code from a file it can't run."""
        return self.kind != "python"

    @property
    def sampled_by_mlflow(self) -> bool:
        """Whether MLflow takes a sampling rate for it: it refuses one for scorers that ask no model, and for instructions
        with an expectation."""
        return self.in_mlflow and self.asks and "expectations" not in placeholders(self.instructions)

    def deciding(self) -> dict[str, Any]:
        """What of it decides a verdict."""
        whole = self.model_dump(mode="json")
        left_out = {"name", "online", "sampling", "filter", "threshold", "expects"}
        return {key: value for key, value in whole.items() if key not in left_out}

    def registered_instructions(self) -> str:
        """The instructions as MLflow gets them: with the scale, which it can't be told otherwise."""
        if self.scale is None:
            return self.instructions
        what = "a whole number" if self.scale.whole else "a number"
        return f"{self.instructions}\n\nThe result is {what} from {self.scale.lowest:g} to {self.scale.highest:g}."

    def fields(self) -> dict[str, str]:
        """Field → text, by the names of the file, for people and for comparison."""
        shown = {
            "scorer": self.scorer,
            **{f"options.{name}": _text(value) for name, value in sorted(self.options.items())},
            "guidelines": " | ".join(self.guidelines),
            "sees": self.sees if self.kind == "guidelines" else "",
            "instructions": self.instructions,
            "values": self._values() if self.kind == "instructions" else "",
            "python": f"{self.code.file}:{self.code.function}" if self.code else "",
            "code": f"sha256 {self.code.sha256[:12]}" if self.code else "",
            "endpoint": self.endpoint,
            "run": "online" if self.online else "on demand",
            "sampling": "" if self.sampling is None else f"{self.sampling:g}",
            "filter": self.filter,
            "pass": _passing(self.threshold),
            "expects": "true" if self.expects and self.kind == "python" else "",
        }
        return {name: text for name, text in shown.items() if text}

    def _values(self) -> str:
        if self.scale is not None:
            return f"{self.scale.lowest:g} to {self.scale.highest:g}{', whole' if self.scale.whole else ''}"
        return ", ".join(self.words) if self.values == "words" else self.values


def placeholders(instructions: str) -> set[str]:
    """What instructions ask for."""
    return set(_PLACEHOLDER.findall(instructions))


def without_scale(registered: str) -> tuple[str, Scale | None]:
    """Instructions as a file has them, and the scale that `registered_instructions` wrote into them."""
    found = _SCALE.search(registered)
    if found is None:
        return registered, None
    scale = Scale(lowest=float(found[2]), highest=float(found[3]), whole=bool(found[1]))
    return registered[: found.start()], scale


def resolve(file: model.Judges, code_folder: Path) -> dict[str, Definition]:
    """Each judge of a valid file, by name.

    Args:
        file: the file.
        code_folder: where the files of code scorers are.
    """
    return {name: _definition(name, judge, file, code_folder) for name, judge in file.judges.items()}


def _definition(name: str, judge: model.Judge, file: model.Judges, code_folder: Path) -> Definition:
    online = judge.run == "online"
    asks = judge.python is None and (judge.scorer is None or BUILT_IN[judge.scorer].asks)
    values = _scale_of(judge.values)
    if judge.guidelines is not None or judge.scorer is not None or judge.python is not None:
        values = {}
    return Definition(
        name=name,
        kind=kind_of(judge),
        scorer=judge.scorer or "",
        options=told(judge.scorer, judge.options),
        guidelines=tuple(one.strip() for one in judge.guidelines or ()),
        sees=judge.sees,
        instructions=(judge.instructions or "").strip(),
        code=read_code(code_folder, judge.python) if judge.python else None,
        endpoint=(judge.endpoint or file.endpoint) if asks else "",
        expects=judge.expects
        or (judge.scorer is not None and BUILT_IN[judge.scorer].expects)
        or "expectations" in placeholders(judge.instructions or ""),
        online=online,
        sampling=judge.sampling if online else None,
        filter=(judge.filter or "").strip() if online else "",
        threshold=threshold_of(judge),
        **values,
    )


def told(scorer: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a built-in scorer that say something else than it does by itself."""
    known = BUILT_IN[scorer].options if scorer in BUILT_IN else {}
    return {name: value for name, value in options.items() if name in known and value != known[name].default}


def kind_of(judge: model.Judge) -> Kind:
    """Which of its kinds a judge is; the first where it says several."""
    if judge.scorer is not None:
        return "built-in"
    if judge.guidelines is not None:
        return "guidelines"
    return "python" if judge.python is not None else "instructions"


def threshold_of(judge: model.Judge) -> Threshold:
    """What passes, as far as the file says it, or as MLflow means it."""
    match judge.passes:
        case None:
            passing = BUILT_IN[judge.scorer].passing if judge.scorer else ("yes",)
            return Threshold() if passing == ("yes",) else Threshold(answers=passing)
        case bool():
            return Threshold(truth=judge.passes)
        case model.Bound():
            return Threshold(at_least=judge.passes.at_least, at_most=judge.passes.at_most)
        case list():
            return Threshold(answers=tuple(judge.passes))


def _scale_of(values: Any) -> dict[str, Any]:
    match values:
        case None:
            return {}
        case model.Range():
            scale = Scale(lowest=values.lowest, highest=values.highest, whole=values.whole)
            return {"values": "scale", "words": (), "scale": scale}
        case list():
            return {"values": "words", "words": tuple(values)}
        case _:
            return {"values": values, "words": ()}


class BadCode(Exception):
    """A code scorer that can't be read, or is none. Args: expected, found, remedy."""

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, found {found}; {remedy}")
        self.expected, self.found, self.remedy = expected, found, remedy


def read_code(folder: Path, python: str) -> Code:
    """A code scorer's file, looked at without running it.

    Raises:
        BadCode: there is no such file in the folder, it is no Python, or it has no such function.
    """
    name, _, function = python.rpartition(":")
    root = folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise BadCode(
            f"a file in {folder}", f"{name}, which leads out of it", "put the file there, without a link"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadCode(
            f"a readable file {name} in {folder}",
            error.strerror or str(error),
            "put it there, or set JUDGES_CODE in .env to the folder that has it",
        ) from None
    if len(raw) > MAX_CODE_BYTES:
        raise BadCode(
            f"a file of at most {MAX_CODE_BYTES} bytes", f"{len(raw)}", "leave data to files of their own"
        )
    try:
        source = raw.decode()
        tree = ast.parse(source, name)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise BadCode(f"{name} to be Python", f"{error}{line}", "mend the file") from None
    functions = {
        one.name: one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    if function not in functions:
        known = ", ".join(functions) or "none"
        raise BadCode(f"a function {function} in {name}", f"only {known}", "name one of them")
    _require_signature(name, functions[function])
    return Code(file=name, function=function, sha256=hashlib.sha256(raw).hexdigest(), source=source)


PARAMETERS = ("inputs", "outputs", "expectations", "trace")


def _require_signature(file: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    if isinstance(function, ast.AsyncFunctionDef):
        raise BadCode("a plain function", f"async def {function.name} in {file}", "write it without async")
    given = [one.arg for one in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]]
    if unknown := [one for one in given if one not in PARAMETERS]:
        raise BadCode(
            f"{function.name} to take some of {', '.join(PARAMETERS)}",
            f"{', '.join(unknown)} in {file}, line {function.lineno}",
            "rename or remove them: these are given by name",
        )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return " | ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _passing(threshold: Threshold) -> str:
    if threshold.answers:
        return ", ".join(threshold.answers)
    if threshold.truth is not None:
        return "true" if threshold.truth else "false"
    bounds: Mapping[str, float | None] = {"at least": threshold.at_least, "at most": threshold.at_most}
    return ", ".join(f"{name} {value:g}" for name, value in bounds.items() if value is not None)
