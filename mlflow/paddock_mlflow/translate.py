"""Traces of OpenHands, as MLflow reads traces.

OpenHands (openhands-sdk 1.57 with lmnr 0.7) writes Laminar's attributes, and MLflow 3.17 knows them in part. What it
loses, and what is added here, on the OTLP request itself and so for every OpenHands user:

| lost                       | because MLflow                        | added                                 |
|----------------------------|---------------------------------------|---------------------------------------|
| session, user              | reads session.id, user.id             | both, on every span                   |
| tags                       | reads mlflow.traceTag.*               | from the conversation's own           |
| previews and name          | reads the root's inputs and outputs   | from the messages and the finish      |
| cached tokens              | reads another attribute               | mlflow.chat.tokenUsage                |
| cost                       | has no price of litellm_proxy/<model> | mlflow.llm.cost                       |
| filters by span type       | types spans after it fills the column | mlflow.spanType                       |
| state ERROR                | takes the root's status: never set    | inferred, where the sender set none   |

What the sender said is never overwritten, spans of anything but OpenHands are not touched, and a translated request
translates to itself. The only state is the trace's earlier spans, which the caller looks up: OpenHands exports children
before the root, in batches.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from paddock_mlflow.conversations import (
    COMPLETION,
    FOREIGN_STEPS,
    ROOT,
    STEPS,
    Conversation,
    conversation,
    text_of,
)
from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.spans import SpanEditor, SpanView, parsed, view

MAX_ID_CHARACTERS = 250
"""MLflow refuses a whole request for one longer session id."""

_ASSOCIATION = "lmnr.association.properties."
_TAG = "mlflow.traceTag."
_OUTCOME = _TAG + "paddock.outcome"
_OWN_METADATA = ("mlflow.", "session.id", "user.id", "openhands.", "tool_call_id")
_OBJECT_REPR = re.compile(r"^<.* object at 0x[0-9a-f]+>$")
_MCP_EXECUTOR = "MCPToolExecutor.call_tool"


@dataclass(frozen=True)
class Price:
    """What one model call cost, in USD, and who served it. `input` and `output` are None where only the sum is known."""

    total: float
    input: float | None = None
    output: float | None = None
    provider: str | None = None


class EarlierSpans(Protocol):
    """Looks up the spans of a trace (32 hex digits) that came before; those of this request may be among them."""

    def __call__(self, trace_id: str) -> Sequence[SpanView]: ...


PriceOf = Callable[[str, str, Usage], Price | None]
"""(requested model or endpoint, model of the response, usage) → price, or None where none is known."""


def translate(request: ExportTraceServiceRequest, earlier: EarlierSpans, price_of: PriceOf) -> bool:
    """Add to OpenHands' spans what MLflow would not find; changes `request` in place.

    Returns:
        Whether anything was added.
    """
    spans = [
        span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]
    views = {id(span): view(span) for span in spans}
    own = [span for span in spans if ROOT in views[id(span)].path]
    sdk_costs = {s.span_id.hex(): cost for s in own if (cost := _sdk_cost(views[id(s)])) is not None}
    changed = False
    for span in own:
        editor = SpanEditor(span)
        seen = views[id(span)]
        _identify(editor, seen)
        _type(editor, seen)
        if span.name == COMPLETION:
            _model_call(editor, seen, price_of, sdk_costs.get(seen.parent_id))
        elif span.name == ROOT and not span.parent_span_id:
            siblings = [views[id(other)] for other in own if other.trace_id == span.trace_id]
            _root(editor, seen, siblings, earlier)
        elif editor.span.name != ROOT:
            _call(editor, seen)
        changed = changed or editor.changed
    return changed


def _identify(editor: SpanEditor, seen: SpanView) -> None:
    for theirs, ours in (("session_id", "session.id"), ("user_id", "user.id")):
        value = seen.attributes.get(_ASSOCIATION + theirs)
        if value is not None and 0 < len(str(value)) <= MAX_ID_CHARACTERS:
            editor.add(ours, str(value))


def _type(editor: SpanEditor, seen: SpanView) -> None:
    match seen.attributes.get("lmnr.span.type"):
        case _ if seen.name == ROOT or seen.name in STEPS or seen.name in FOREIGN_STEPS:
            kind = "AGENT"
        case "TOOL" if seen.name == _MCP_EXECUTOR and len(seen.path) > 1 and seen.path[-2] not in STEPS:
            # The transport of a call that has a TOOL span already; two would count as two calls.
            kind = "CHAIN"
        case "TOOL":
            kind = "TOOL"
        case "LLM" | "CACHED":
            kind = "LLM"
        case _:
            kind = "CHAIN"
    editor.add("mlflow.spanType", kind)


def _model_call(editor: SpanEditor, seen: SpanView, price_of: PriceOf, sdk_cost: float | None) -> None:
    attributes = seen.attributes
    requested = str(attributes.get("gen_ai.request.model") or "")
    responded = _bare_model(str(attributes.get("gen_ai.response.model") or requested))
    if isinstance(messages := seen.json("gen_ai.input.messages"), list):
        editor.add_json("mlflow.spanInputs", {"model": requested, "messages": messages})
    if isinstance(messages := seen.json("gen_ai.output.messages"), list) and messages:
        choices = [{"index": index, "message": message} for index, message in enumerate(messages)]
        editor.add_json("mlflow.spanOutputs", {"choices": choices})
    if responded:
        editor.add("mlflow.llm.model", responded)
    usage = _usage(attributes)
    if usage is None:
        return
    editor.add_json(
        "mlflow.chat.tokenUsage",
        {
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
            "cache_read_input_tokens": usage.cache_read,
            "cache_creation_input_tokens": usage.cache_write,
        },
    )
    price = price_of(requested, responded, usage)
    if price is None and sdk_cost is not None:
        price = Price(total=sdk_cost)
    if price is None:
        return
    if price.provider:
        editor.add("mlflow.llm.provider", price.provider)
    cost = {"input_cost": price.input, "output_cost": price.output, "total_cost": price.total}
    editor.add_json("mlflow.llm.cost", {key: value for key, value in cost.items() if value is not None})


def _call(editor: SpanEditor, seen: SpanView) -> None:
    """A tool, a step or another call: what it was given, without wrapping and without addresses of Python objects."""
    given = seen.json("lmnr.span.input")
    if seen.attributes.get("lmnr.span.type") == "TOOL":
        _tool(editor, seen, given, seen.json("lmnr.span.output"))
    elif isinstance(given, dict):
        kept = {key: value for key, value in given.items() if not _is_object(value)}
        if kept != given:
            editor.add_json(
                "mlflow.spanInputs", {key: value for key, value in kept.items() if value is not None}
            )


def _tool(editor: SpanEditor, seen: SpanView, given: Any, output: Any) -> None:
    if isinstance(given, dict):
        action = given.get("action", given.get("tool_input", given))
        if isinstance(action, dict):
            editor.add("gen_ai.tool.name", _tool_name(seen.name, action, output))
            # A call that was refused before it ran comes as the model wrote it: a name, and arguments as JSON text.
            arguments = parsed(action["arguments"]) if _is_raw_call(action) else action
            given = _without_kind(arguments) if isinstance(arguments, dict) else arguments
        editor.add_json("mlflow.spanInputs", given)
    if isinstance(output, dict) and (output.get("is_error") is True or output.get("role") == "tool"):
        # A message to the model in the place of an observation: the call was refused, rejected or cancelled.
        editor.fail(_first_line(text_of(output.get("content"))) or "the tool reported an error")


def _root(editor: SpanEditor, seen: SpanView, siblings: Sequence[SpanView], earlier: EarlierSpans) -> None:
    editor.add(_TAG + "mlflow.traceName", seen.name)
    for key, value in seen.attributes.items():
        name = key.removeprefix("conversation.tags.").removeprefix(_ASSOCIATION + "metadata.")
        if name != key and not name.startswith(_OWN_METADATA):
            editor.add(_TAG + name, str(value))

    outcome = seen.attributes.get(_OUTCOME)
    if outcome is None or "mlflow.spanInputs" not in editor or "mlflow.spanOutputs" not in editor:
        known = {span.span_id: span for span in earlier(editor.span.trace_id.hex())}
        known |= {span.span_id: span for span in siblings}
        gist = conversation([span for span in known.values() if span.span_id != seen.span_id])
    else:
        gist = Conversation((), None, None)

    requests = (_said(seen, "mlflow.spanInputs"),) if "mlflow.spanInputs" in editor else gist.requests
    if texts := [text for text in requests if text]:
        messages = [{"role": "user", "content": _storable(text)} for text in texts]
        editor.replace_json("mlflow.spanInputs", {"messages": messages})
    answer = _said(seen, "mlflow.spanOutputs") if "mlflow.spanOutputs" in editor else gist.answer
    if answer:
        message = {"role": "assistant", "content": _storable(answer)}
        editor.replace_json("mlflow.spanOutputs", {"choices": [{"index": 0, "message": message}]})

    if outcome is not None:
        if outcome != "finished":
            editor.fail(f"the run ended with the outcome {outcome}")
    elif gist.unfinished:
        editor.fail(gist.unfinished)


def _said(seen: SpanView, key: str) -> str | None:
    """A text that the sender gave as the root's input or output; None for a value with a structure, which stays.

    MLflow shows a bare text in its JSON quotes, and a chat message as its text.
    """
    value = seen.json(key)
    if isinstance(value, dict | list) or value is None:
        return None
    return value if isinstance(value, str) else str(seen.attributes[key])


def _usage(attributes: Any) -> Usage | None:
    def tokens(*keys: str) -> int | None:
        found = (attributes.get(key) for key in keys)
        return next((int(value) for value in found if isinstance(value, int | float)), None)

    given, made = tokens("gen_ai.usage.input_tokens"), tokens("gen_ai.usage.output_tokens")
    if given is None and made is None:
        return None
    return Usage(
        input=given or 0,
        output=made or 0,
        cache_read=tokens("gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.cache_read.input_tokens")
        or 0,
        cache_write=tokens(
            "gen_ai.usage.cache_creation_input_tokens", "gen_ai.usage.cache_creation.input_tokens"
        )
        or 0,
        reasoning=tokens("gen_ai.usage.reasoning_tokens", "gen_ai.usage.reasoning.output_tokens") or 0,
    )


def _sdk_cost(seen: SpanView) -> float | None:
    """OpenHands' own figure, which stands on the span around the model call and only where its SDK knows a price."""
    cost = seen.attributes.get("gen_ai.usage.cost")
    return float(cost) if isinstance(cost, int | float) and cost > 0 else None


def _bare_model(model: str) -> str:
    # litellm writes the name of its own route to a proxy before the model.
    return model.removeprefix("litellm_proxy/")


def _tool_name(span_name: str, action: dict[str, Any], output: Any) -> str:
    """The tool as the model calls it: the span is named for the action's class, TerminalAction for `terminal`."""
    if _is_raw_call(action):
        return str(action["name"])
    if isinstance(output, dict) and isinstance(name := output.get("tool_name"), str):
        return name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", span_name.removesuffix("Action")).lower()


def _without_kind(action: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an action, whose class OpenHands adds as `kind`; those of an MCP tool stand one level deeper."""
    if action.get("kind") == "MCPToolAction" and isinstance(data := action.get("data"), dict):
        return data
    return {key: value for key, value in action.items() if key != "kind"}


def _is_raw_call(action: dict[str, Any]) -> bool:
    return "kind" not in action and "name" in action and "arguments" in action


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:500]


def _is_object(value: Any) -> bool:
    return isinstance(value, str) and _OBJECT_REPR.match(value) is not None


def _storable(text: str) -> str:
    # PostgreSQL refuses a text with NUL, and MLflow the whole batch with it.
    return text.replace("\x00", "")
