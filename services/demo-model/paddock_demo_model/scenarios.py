"""Scripted answers: ``scenario/<name>`` plays ``<folder>/<name>.yaml``.

A file is a list of steps. The step that is played is the number of answers that the request's conversation holds
already, so a run that was killed and resumed goes on at its step, and nothing is kept between requests but how often
a step has failed.

    description: Two server errors, then the end.     # optional
    steps:
      - fail: {times: 2, status: 500}                 # before the step is answered; times: always for every time
        reply: Working on it.
        tool_calls:
          - name: terminal
            arguments: {command: "echo step {n}"}     # {n}: 1 for the first repetition, and so on
        repeat: 3                                      # or: forever
      - tool_calls: [{name: finish, arguments: {message: done}}]

A step may also have ``delay_seconds`` (before the headers), ``reset: true`` (the connection is reset instead of an
answer), ``close: true`` (it is closed), ``reset_after_events: 2`` (it is reset after so many events of a stream; 0 is
after the headers; an answer in one piece is cut in its middle), ``malformed: body`` or ``malformed: arguments`` (JSON
that is cut off), and ``huge_mib`` (so many MiB of text are added to the reply). ``usage: none`` leaves the token counts
out, ``usage: {input: 1000, output: 50, cache_read: 400, cache_write: 0, reasoning: 20}`` sets them. In ``fail``,
``retry_after_seconds`` sets the header, ``message``, ``type`` and ``code`` fill the API's error object, and ``body``
replaces it; ``{key}`` in a message is the key that the request came with, as some providers quote it. After the last
step the model says that the scenario is over.

``answers_to: [gpt-4o-mini]`` lets a scenario answer as models of these names too, which have a price.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from paddock_demo_model.errors import ConfigurationError, RequestError
from paddock_demo_model.protocol import Call, ChatRequest, Reply, Usage

PREFIX = "scenario/"
OVER = "The scenario has no further step."
_MAX_DELAY_SECONDS = 3600
_MAX_HUGE_MIB = 64
_FILLER = "The demo model fills its answer up to the size that the scenario asks for. "


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScriptedCall(_Strict):
    """A tool call of a step."""

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = {}


class Failure(_Strict):
    """An error answer, given ``times`` times before the step is played."""

    times: Annotated[int, Field(ge=1)] | Literal["always"] = "always"
    status: int = Field(ge=400, le=599)
    retry_after_seconds: int | None = Field(default=None, ge=0)
    message: str = "The scenario makes this request fail."
    type: str | None = None
    code: str | None = None
    body: Any = None

    def response(self) -> "FailedAnswer":
        """The answer to send."""
        headers = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return FailedAnswer(self, headers)


class Counts(_Strict):
    """Token counts that a step tells, whatever was said. `input` and `output` count all, cached and reasoning too."""

    input: int = Field(default=0, ge=0)
    output: int = Field(default=0, ge=0)
    cache_read: int = Field(default=0, ge=0)
    cache_write: int = Field(default=0, ge=0)
    reasoning: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _parts_fit(self) -> "Counts":
        if self.cache_read + self.cache_write > self.input or self.reasoning > self.output:
            raise ValueError("cache_read and cache_write are parts of input, reasoning is a part of output")
        return self

    def usage(self) -> Usage:
        """As the answers write it."""
        return Usage(self.input, self.output, self.cache_read, self.cache_write, self.reasoning)


class Step(_Strict):
    """One answer of the script; see the module's docstring."""

    reply: str = ""
    tool_calls: list[ScriptedCall] = []
    repeat: Annotated[int, Field(ge=1, le=100_000)] | Literal["forever"] = 1
    fail: Failure | None = None
    delay_seconds: float = Field(default=0, ge=0, le=_MAX_DELAY_SECONDS)
    reset: bool = False
    close: bool = False
    reset_after_events: int | None = Field(default=None, ge=0)
    usage: Counts | Literal["none"] | None = None
    malformed: Literal["body", "arguments"] | None = None
    huge_mib: float = Field(default=0, ge=0, le=_MAX_HUGE_MIB)

    @model_validator(mode="after")
    def _says_something(self) -> "Step":
        fails_always = self.fail is not None and self.fail.times == "always"
        if not (
            self.reply
            or self.tool_calls
            or self.huge_mib
            or self.reset
            or self.close
            or fails_always
            or self.malformed == "body"
        ):
            raise ValueError(
                "a step needs a reply, tool_calls, huge_mib, reset, close, malformed: body, or a fail for ever"
            )
        if self.malformed == "arguments" and not self.tool_calls:
            raise ValueError("malformed: arguments needs tool_calls")
        return self


class Scenario(_Strict):
    """A scenario file."""

    description: str = ""
    answers_to: list[Annotated[str, Field(min_length=1)]] = []
    steps: list[Step] = Field(min_length=1)

    def step_at(self, index: int) -> tuple[int, Step, int] | None:
        """Which step answers request ``index`` (from 0): its number, itself and the repetition (from 1)."""
        start = 0
        for number, step in enumerate(self.steps):
            if step.repeat == "forever" or index < start + step.repeat:
                return number, step, index - start + 1
            start += step.repeat
        return None


class FailedAnswer(Exception):
    """A step answers with an error status."""

    def __init__(self, failure: Failure, headers: dict[str, str]) -> None:
        super().__init__(f"the scenario answers with status {failure.status}")
        self.failure = failure
        self.headers = headers


class Played:
    """What a step does: wait, then reset the connection or send the reply, cut off or whole."""

    @classmethod
    def of(cls, reply: Reply) -> "Played":
        """A reply of the model's own: whole, at once."""
        played = cls(Step(reply=OVER), 1)
        played.reply = reply
        return played

    def __init__(self, step: Step, repetition: int) -> None:
        self.delay_seconds = step.delay_seconds
        self.reset = step.reset
        self.close = step.close
        self.reset_after_events = step.reset_after_events
        self.usage = step.usage
        self.cut_body = step.malformed == "body"
        text = _numbered(step.reply, repetition)
        if step.huge_mib:
            size = int(step.huge_mib * 1024 * 1024)
            text += (_FILLER * (size // len(_FILLER) + 1))[:size]
        calls = [Call(call.name, _numbered(call.arguments, repetition)) for call in step.tool_calls]
        if step.malformed == "arguments":
            calls = [Call(call.name, _cut(call.arguments_text())) for call in calls]
        self.reply = Reply(text, calls)


class Scenarios:
    """The scenarios of a folder, and how often their steps have failed in each conversation."""

    def __init__(self, scenarios: dict[str, Scenario], max_counters: int = 10_000) -> None:
        self._scenarios = scenarios
        self._aliases = _aliases(scenarios)
        self._failures: OrderedDict[tuple[str, int, int], int] = OrderedDict()
        self._max_counters = max_counters

    def names(self) -> list[str]:
        """Model names, ``scenario/...``, sorted; then those that scenarios answer to as well."""
        return [*(PREFIX + name for name in sorted(self._scenarios)), *sorted(self._aliases)]

    def plays(self, model: str) -> bool:
        """Whether a model's name means a scenario, known or not."""
        return model.startswith(PREFIX) or model in self._aliases

    def play(self, request: ChatRequest) -> Played:
        """What happens to this request. Raises FailedAnswer, or RequestError 404 for an unknown scenario."""
        name = self._aliases.get(request.model) or request.model.removeprefix(PREFIX)
        scenario = self._scenarios.get(name)
        if scenario is None:
            known = ", ".join(self.names()) or "none (DEMO_SCENARIOS names no folder with .yaml files)"
            raise RequestError(404, f"Expected a scenario's name, found {request.model!r}. Scenarios here: {known}.",
                               code="model_not_found", param="model")  # fmt: skip
        index = request.step()
        found = scenario.step_at(index)
        if found is None:
            return Played(Step(reply=OVER), 1)
        number, step, repetition = found
        if step.fail is not None:
            self._fail(step.fail, (request.conversation_key(), number, repetition))
        return Played(step, repetition)

    def forget(self) -> None:
        """Start all failure counts again."""
        self._failures.clear()

    def _fail(self, failure: Failure, key: tuple[str, int, int]) -> None:
        if failure.times == "always":
            raise failure.response()
        count = self._failures.get(key, 0)
        if count >= failure.times:
            # Played at last: the same conversation, run anew, fails anew.
            del self._failures[key]
            return
        self._failures[key] = count + 1
        self._failures.move_to_end(key)
        if len(self._failures) > self._max_counters:
            self._failures.popitem(last=False)
        raise failure.response()


def load_scenarios(folder: Path | None) -> Scenarios:
    """Read ``*.yaml`` of a folder (None: no scenarios). Raises ConfigurationError naming file, place and remedy."""
    if folder is None:
        return Scenarios({})
    if not folder.is_dir():
        raise ConfigurationError(
            f"DEMO_SCENARIOS: expected a folder with .yaml files, found {folder}, which is not a folder. "
            "Name another one, or unset the variable."
        )
    return Scenarios({path.stem: _load(path) for path in sorted(folder.glob("*.yaml"))})


def _aliases(scenarios: dict[str, Scenario]) -> dict[str, str]:
    """Model name → scenario. Raises ConfigurationError for a name that two scenarios claim."""
    found: dict[str, str] = {}
    for name, scenario in scenarios.items():
        for alias in scenario.answers_to:
            if (other := found.setdefault(alias, name)) != name:
                raise ConfigurationError(
                    f"scenarios {other} and {name}: expected one scenario that answers to {alias}, found two. "
                    "Take the name out of one of them."
                )
    return found


def _load(path: Path) -> Scenario:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"{path}: expected a YAML file, found: {reason}. Correct the file."
        ) from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: expected a mapping with the key steps, found {type(content).__name__}. "
            "Begin the file with `steps:` and a list below it."
        )
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors(include_url=False))
        allowed = ", ".join(Step.model_fields)
        raise ConfigurationError(
            f"{path}: {problems}. Correct the file; a step's keys are: {allowed}."
        ) from error


def _problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    found = repr(item["input"])
    return f"at {where}: {item['msg']}, found {found if len(found) < 100 else found[:97] + '...'}"


def _numbered(value: Any, repetition: int) -> Any:
    """Put the repetition's number in the place of ``{n}``, at any depth."""
    if isinstance(value, str):
        return value.replace("{n}", str(repetition))
    if isinstance(value, list):
        return [_numbered(item, repetition) for item in value]
    if isinstance(value, dict):
        return {key: _numbered(item, repetition) for key, item in value.items()}
    return value


def _cut(text: str) -> str:
    return text[: max(1, len(text) * 2 // 3)]
