"""Plans: what the demo model does step by step, as generators that yield tool calls and are sent the results.

The server keeps nothing about a conversation. For each request the plan is run again from its start and fed the results
that the request holds; the first call without a result is the answer. A run that was killed and resumed therefore goes
on where it stood, and one plan serves any number of conversations at once.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from paddock_demo_model.conversation import Conversation, Result, Step
from paddock_demo_model.protocol import Call, Reply

MAX_STEPS = 80
_DECORATION = ("summary", "security_risk")


@dataclass(frozen=True)
class Action:
    """A tool call with the reason that the model gives for it.

    ``risk`` is OpenHands' own scale: LOW for reading, MEDIUM for what changes the workspace.
    """

    tool: str
    arguments: dict[str, Any]
    why: str
    risk: str = "LOW"


@dataclass(frozen=True)
class Outcome:
    """How a plan ended: whether it did what was asked, and what to tell the user."""

    done: bool
    message: str


type Plan = Generator[Action, Result, Outcome]


def look(command: str, why: str) -> Generator[Action, Result, Result]:
    """Sub-plan for a terminal command that only reads: done again, once, if the terminal lost its output."""
    result = yield Action("terminal", {"command": command}, why)
    if result.lost:
        result = yield Action(
            "terminal", {"command": command}, "The terminal lost the output, so look again."
        )
    return result


def next_reply(plan: Plan, conversation: Conversation) -> Reply:
    """The plan's next tool call or, at its end, its message (by the ``finish`` tool where there is one)."""
    steps = conversation.steps
    if len(steps) >= MAX_STEPS:
        return _finish(
            Outcome(False, f"I stop here: {MAX_STEPS} tool calls have not led to an end."), conversation
        )
    recorded = iter(steps)
    try:
        action = next(plan)
        while (result := _result_of(action, recorded)) is not None:
            action = plan.send(result)
    except StopIteration as stop:
        return _finish(stop.value, conversation)
    return _reply(action, conversation)


def _result_of(action: Action, recorded: Iterable[Step]) -> Result | None:
    """The result of this action, or None if it has not been made. Steps of another model are passed over."""
    for step in recorded:
        if step.name == action.tool and (step.ours or _same(step.arguments, action.arguments)):
            return step.result
    return None


def _same(recorded: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    if recorded is None:
        return False
    return {key: value for key, value in recorded.items() if key not in _DECORATION} == wanted


def _reply(action: Action, conversation: Conversation) -> Reply:
    tool = conversation.tools.get(action.tool)
    properties = ((tool.function.parameters or {}).get("properties") or {}) if tool else {}
    arguments = dict(action.arguments)
    # OpenHands adds these two to every tool's parameters; a tool that has them as its own keeps its own.
    if "security_risk" in properties and "security_risk" not in arguments:
        arguments["security_risk"] = action.risk
    if "summary" in properties and "summary" not in arguments:
        arguments["summary"] = action.why.rstrip(".")
    return Reply(text=action.why, calls=[Call(action.tool, arguments)])


def _finish(outcome: Outcome, conversation: Conversation) -> Reply:
    if "finish" not in conversation.tools:
        return Reply(text=outcome.message)
    if any(step.name == "finish" and step.ours for step in conversation.steps):
        # The agent asked again after the end, without a new task.
        return Reply(text="There is nothing left to do; send a new task to go on.")
    action = Action("finish", {"message": outcome.message}, "Report the result.")
    return Reply(calls=_reply(action, conversation).calls)
