"""What an OpenHands conversation was asked, what it answered, and whether it came to its end, told by its spans.

OpenHands' root span says none of this: it has no input, no output, and no status but for an exception, so a run that was
stopped by its iteration limit, its budget or a signal looks finished (openhands-sdk 1.57, conversation/base.py).

The tree, by names: conversation > conversation.send_message; conversation.run > agent.step > llm.<model> >
litellm.completion, and beside each llm.<model> one span for each tool call, named for the action's class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from paddock_mlflow.spans import SpanView, parsed

ROOT = "conversation"
SEND = "conversation.send_message"
RUNS = frozenset({"conversation.run", "conversation.arun"})
STEPS = frozenset({"agent.step", "agent.astep"})
FOREIGN_STEPS = frozenset({"acp_agent.step", "acp_agent.astep"})
"""Steps of an agent that runs elsewhere (ACP): no model call of it is seen, so nothing is concluded."""
COMPLETION = "litellm.completion"
FINISH = "FinishAction"


@dataclass(frozen=True)
class Conversation:
    """The gist of a conversation.

    `requests` are the user's messages in order; `answer` is the agent's last word, where there is one; `unfinished` tells
    why the run did not come to its end, and is None where it did, or where the spans do not tell.
    """

    requests: tuple[str, ...]
    answer: str | None
    unfinished: str | None


def conversation(spans: Sequence[SpanView]) -> Conversation:
    """The gist of one trace's spans, which may come in any order and may be incomplete."""
    newest_first = sorted(spans, key=lambda span: span.start_ns, reverse=True)
    answer, unfinished = _end(newest_first)
    return Conversation(_requests(newest_first), answer, unfinished)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or OpenAI-style parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return text_of(content.get("text") or content.get("content"))
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := text_of(part)))
    return ""


def _requests(newest_first: Sequence[SpanView]) -> tuple[str, ...]:
    sent = []
    for span in reversed(newest_first):
        if span.name == SEND and _place(span) == [SEND]:
            given = span.json("lmnr.span.input")
            if isinstance(given, dict) and (text := text_of(given.get("message"))):
                sent.append(text)
    if sent:
        return tuple(sent)
    # A resumed conversation sends nothing: its first request to the model has the user's messages.
    for span in reversed(newest_first):
        if span.name == COMPLETION and _is_own_completion(_place(span)):
            messages = span.json("gen_ai.input.messages")
            users = [m for m in messages if _role(m) == "user"] if isinstance(messages, list) else []
            return (text_of(users[0].get("content")),) if users else ()
    return ()


def _end(newest_first: Sequence[SpanView]) -> tuple[str | None, str | None]:
    """The last answer, and why the run is unfinished: told by the last model call and the tools after it."""
    names = {span.name for span in newest_first}
    if names & FOREIGN_STEPS:
        return None, None
    failure = _failure(newest_first)
    called_tools = False
    for span, place in _within_steps(newest_first):
        if place[2:] == [FINISH] and _is_accepted(span):
            return _finish_message(span), failure
        if _is_own_completion(place) or (len(place) == 3 and place[2].startswith("llm.")):
            answer, finished = _model_answer(span, called_tools)
            if failure is None and span.error:
                failure = f"the last model call failed: {span.error_message}"
            elif failure is None and not finished and _is_complete(newest_first):
                failure = (
                    "the run ended before the agent finished: its last model answer called tools, and no finish"
                    " followed (iteration limit, budget, pause or interruption)"
                )
            return answer, failure
        called_tools = called_tools or len(place) == 3
    if failure is None and SEND in names and not names & RUNS:
        failure = "the run ended before the model answered"
    return None, failure


def _model_answer(call: SpanView, called_tools: bool) -> tuple[str | None, bool]:
    """The text of the last model call, and whether the agent finished with it."""
    if call.name != COMPLETION:
        # The Responses API leaves no litellm.completion: only what followed the call tells anything.
        return None, not called_tools
    message = _last_message(call)
    calls = _calls(message)
    text = text_of(message.get("content")) or None
    if "finish" in calls and not called_tools:
        # The span of the finish is not here yet; the call itself has the text.
        return _text(calls["finish"].get("message")) or text, True
    return text, not calls


def _within_steps(newest_first: Sequence[SpanView]) -> Iterator[tuple[SpanView, list[str]]]:
    for span in newest_first:
        # By name first: reading the attributes of a stored span is a query.
        if span.name in {ROOT, SEND, *RUNS, *STEPS}:
            continue
        place = _place(span)
        if len(place) >= 3 and place[0] in RUNS and place[1] in STEPS:
            yield span, place


def _place(span: SpanView) -> list[str]:
    """Names of the spans between the conversation and this span, this one included."""
    path = span.path
    return path[path.index(ROOT) + 1 :] if ROOT in path else []


def _is_own_completion(place: list[str]) -> bool:
    """Whether it is a call of the agent itself; condensers, critics and sub-agents call from deeper down."""
    return len(place) == 4 and place[1] in STEPS and place[2].startswith("llm.") and place[3] == COMPLETION


def _failure(newest_first: Sequence[SpanView]) -> str | None:
    for span in newest_first:
        if span.name in RUNS:
            return (span.error_message or "the run raised an exception") if span.error else None
    return None


def _is_complete(newest_first: Sequence[SpanView]) -> bool:
    """Whether the newest step has its model call among the spans: if not, some have not arrived."""
    parents = {span.parent_id for span in newest_first if span.name.startswith("llm.")}
    for span in newest_first:
        if span.name in STEPS:
            return span.span_id in parents or span.error
    return True


def _is_accepted(finish: SpanView) -> bool:
    """Whether a finish was carried out: a hook may refuse it, and the output is then a message to the model."""
    output = finish.json("lmnr.span.output")
    return not isinstance(output, dict) or str(output.get("kind", "FinishObservation")).startswith("Finish")


def _finish_message(finish: SpanView) -> str | None:
    given = finish.json("lmnr.span.input")
    action = given.get("action") if isinstance(given, dict) else None
    return _text(action.get("message")) if isinstance(action, dict) else None


def _last_message(completion: SpanView) -> dict[str, Any]:
    messages = completion.json("gen_ai.output.messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last if isinstance(last, dict) else {}


def _calls(message: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tool name → arguments."""
    calls: dict[str, dict[str, Any]] = {}
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = parsed(function.get("arguments"))
            calls[str(function.get("name"))] = arguments if isinstance(arguments, dict) else {}
    return calls


def _role(message: Any) -> str | None:
    return message.get("role") if isinstance(message, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
