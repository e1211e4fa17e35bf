"""What a run prints: readable lines, or one JSON object a line.

Results go to standard output; notices about retries or traces go to standard error in both forms.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pydantic import BaseModel

from .confinement import Isolation
from .masking import Mask

if TYPE_CHECKING:
    from openhands.sdk.event import Event

_LINE_LENGTH = 160
# What a terminal would obey rather than show: C0 but tab and line feed, DEL, C1, and what turns the direction of writing
# around or is not seen at all; halves of surrogate pairs, which cannot be printed. Much of what is shown was written by
# the agent, or by whoever wrote what it has read.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


class Tokens(BaseModel):
    """Tokens of all model calls of the run; `cached_input` is part of `input`, `reasoning` part of `output`."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0


class Started(BaseModel):
    """The first line of a run."""

    type: str = "started"
    run_id: str
    trace_id: str | None
    endpoint: str
    model: str
    workspace: str
    tools: list[str]
    max_iterations: int
    timeout_seconds: float
    resumed: bool
    experiment_id: str | None
    # What the libraries took of the time to this line.
    import_seconds: float
    isolation: Isolation


class Result(BaseModel):
    """The last line of a run. A resumed run counts from its very start."""

    type: str = "result"
    run_id: str
    trace_id: str | None
    outcome: str
    exit_code: int
    message: str
    steps: int = 0
    tools: dict[str, int] = {}
    tokens: Tokens = Tokens()
    # USD; None where the SDK knows no price for the endpoint. MLflow's trace has the cost.
    cost_usd: float | None = None
    seconds: float = 0
    endpoint: str
    model: str
    # None where no traces are sent at all.
    trace_delivered: bool | None = None


class Writer(Protocol):
    """Where a run tells what it does, without what `mask` hides."""

    mask: Mask

    def started(self, started: Started) -> None: ...
    def event(self, event: Event) -> None: ...
    def result(self, result: Result) -> None: ...
    def usage_error(self, message: str) -> None: ...
    def notice(self, message: str) -> None: ...


class _Stream:
    """A text stream whose reader may go away: the task is worth more than its audience."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def line(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except OSError:
            self._stream = None


class _Terminal(_Stream):
    """A stream that a person looks at."""

    def line(self, text: str) -> None:
        super().line(_CONTROL.sub("", text))


class JsonlWriter:
    """One JSON object a line: started, event…, result; or a single error."""

    def __init__(self, out: TextIO, err: TextIO | None = None) -> None:
        self.mask = Mask(())
        self._out = _Stream(out)
        self._err = _Terminal(err or sys.stderr)

    def started(self, started: Started) -> None:
        self._write(started.model_dump(mode="json"))

    def event(self, event: Event) -> None:
        self._write(
            {
                "type": "event",
                "kind": type(event).__name__,
                "source": event.source,
                "summary": summary_of(event),
                "event": event.model_dump(mode="json"),
            }
        )

    def result(self, result: Result) -> None:
        self._write(result.model_dump(mode="json"))

    def usage_error(self, message: str) -> None:
        self._write({"type": "error", "message": message})

    def notice(self, message: str) -> None:
        self._err.line(f"paddock-agent: {self.mask.text(message)}")

    def _write(self, content: Mapping[str, Any]) -> None:
        # Exact, but escaped: what acts on a terminal does not act as \u001b.
        self._out.line(self.mask.json_text(json.dumps(content)))


class TextWriter:
    """Lines for people."""

    def __init__(self, out: TextIO, err: TextIO | None = None) -> None:
        self.mask = Mask(())
        self._out = _Terminal(out)
        self._err = _Terminal(err or sys.stderr)

    def started(self, started: Started) -> None:
        again = "resumed run" if started.resumed else "run"
        self._say(f"{again} {started.run_id} · endpoint {started.endpoint} · {started.workspace}")
        self._say(f"fence {started.isolation.summary()}")
        if started.isolation.landlock.reason:
            self._say(f"  Landlock: {started.isolation.landlock.reason}")
        if started.trace_id:
            self._say(f"trace {started.trace_id}")

    def event(self, event: Event) -> None:
        summary = summary_of(event)
        if not summary:
            return
        mark = {"agent": "▸", "user": "»"}.get(event.source, " ")
        if type(event).__name__ in {"AgentErrorEvent", "ConversationErrorEvent"}:
            mark = "✗"
        self._say(f"{mark} {summary}")

    def result(self, result: Result) -> None:
        tools = ", ".join(f"{name} {count}" for name, count in sorted(result.tools.items())) or "none"
        tokens = result.tokens
        self._say("")
        self._say(f"{result.outcome.replace('_', ' ')}: {result.message}")
        line = (
            f"{_count(result.steps, 'step')} · tools: {tools} · tokens: {tokens.input} in "
            f"({tokens.cached_input} cached), {tokens.output} out · {result.seconds:.1f} s"
        )
        if result.cost_usd is not None:
            line += f" · ${result.cost_usd:.6f}"
        self._say(line)

    def usage_error(self, message: str) -> None:
        self.notice(message)

    def notice(self, message: str) -> None:
        self._err.line(f"paddock-agent: {self.mask.text(message)}")

    def _say(self, text: str) -> None:
        self._out.line(self.mask.text(text))


def make_writer(form: str, out: TextIO) -> Writer:
    """The writer of `text` or `jsonl` on a stream."""
    return JsonlWriter(out) if form == "jsonl" else TextWriter(out)


def summary_of(event: Event) -> str:
    """What an event says in one line of at most 160 characters; empty where it says nothing to a reader."""
    # By name: importing the classes here would cost a usage error the SDK's import time.
    kind = type(event).__name__
    content: Any = event
    if kind == "SystemPromptEvent":
        return ""
    if kind == "ActionEvent":
        return _line(f"{content.tool_name}  {_arguments(content)}")
    if kind in {"ObservationEvent", "UserRejectObservation"}:
        text = (
            _text(content.observation.to_llm_content)
            if kind == "ObservationEvent"
            else content.rejection_reason
        )
        lines = [line for line in text.splitlines() if line.strip()]
        more = f"  (+{len(lines) - 1} lines)" if len(lines) > 1 else ""
        first = _line(lines[0] if lines else "no output", _LINE_LENGTH - len(more) - 2)
        return f"  {first}{more}"
    if kind == "MessageEvent":
        return _line(_text(content.llm_message.content))
    if kind == "AgentErrorEvent":
        return _line(f"{content.tool_name}: {content.error}")
    if kind == "ConversationErrorEvent":
        return _line(f"{content.code}: {content.detail}")
    if kind == "Condensation":
        return "history condensed"
    return ""


def _arguments(event: Any) -> str:
    """The telling argument of a tool call, or all of them."""
    try:
        arguments = json.loads(event.tool_call.arguments or "{}")
    except ValueError:
        return str(event.tool_call.arguments)
    if not isinstance(arguments, dict):
        return str(arguments)
    arguments = {key: value for key, value in arguments.items() if key not in {"security_risk", "summary"}}
    command, path = arguments.get("command"), arguments.get("path")
    if command and path:
        return f"{command} {path}"
    for name in ("command", "message", "thought", "pattern", "url"):
        if isinstance(arguments.get(name), str):
            return str(arguments[name])
    return json.dumps(arguments, ensure_ascii=False)


def _text(content: Any) -> str:
    return "\n".join(str(item.text) for item in content if getattr(item, "text", None))


def _line(text: str, length: int = _LINE_LENGTH) -> str:
    text = _CONTROL.sub("", " ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
