"""The demo model as a judge: which rule a request asks for, and the answer in the form that it wants.

Judges are recognised by the sentences of MLflow 3.17's prompts (mlflow/genai/judges/prompts) and of the stack's own
(mlflow/paddock_mlflow/judges/fenced.py). A rule measures something
simple and the rationale says what; it never says more than was measured. A prompt without a rule here is answered "no"
with that reason: this model cannot vouch for what it did not measure.
"""

import json
import re
from collections.abc import Callable, Generator
from typing import Any

from paddock_demo_model import verdicts
from paddock_demo_model.conversation import Conversation, Result
from paddock_demo_model.plans import Action, Outcome, Plan, next_reply
from paddock_demo_model.protocol import ChatRequest, Reply
from paddock_demo_model.verdicts import Verdict

_ATTRIBUTES = {"inputs": "mlflow.spanInputs", "outputs": "mlflow.spanOutputs"}
TRACE_TOOLS = {"get_root_span", "list_spans"}
_AFFIRMATIVE = ("yes", "true", "pass", "passed", "good", "correct", "none", "safe")
_NEGATIVE = ("no", "false", "fail", "failed", "bad", "incorrect", "unresolved", "unsafe")
_ASKS_FOR_JSON = re.compile(r"\"(?:rationale|result)\"\s*:|\bJSON object\b", re.IGNORECASE)
_FIELD = re.compile(r"^- (\w+) \(([^)]*)\): ", re.MULTILINE)
_STEP_BY_STEP = "Let's think step by step. "


def is_judging(request: ChatRequest) -> bool:
    """Whether the request comes from a judge: by its tools, its wanted output, or its words."""
    names = request.tool_names()
    if names:
        return names >= TRACE_TOOLS
    return request.output_schema() is not None or bool(_ASKS_FOR_JSON.search(_words(request)))


def judge_reply(request: ChatRequest) -> Reply:
    """The verdict, or the next look into the trace."""
    schema = request.output_schema() or {}
    properties = schema.get("properties") or {}
    if request.tool_names() >= TRACE_TOOLS:
        if {"tools"} == properties.keys():
            return Reply(text=json.dumps(_nothing(properties)))
        wanted = _ATTRIBUTES.keys() & properties.keys()
        plan = _extract(wanted) if wanted else _judge_trace(request, properties)
        return next_reply(plan, Conversation(request))
    if properties and not properties.keys() & {"result", "rationale"}:
        return Reply(text=json.dumps(_nothing(properties)))
    return Reply(text=_answer(measure(request), request, properties))


def measure(request: ChatRequest) -> Verdict:
    """Measure what a prompt asks for."""
    words = _words(request)
    for sign, rule in _RULES:
        if sign in words:
            return rule(words)
    return Verdict(
        None,
        "I am a rule-based demo model and have no rule for this judge's instructions, so I measured nothing. "
        "I answer in the negative because I cannot vouch for it; give the judge endpoint a real model.",
    )


def _words(request: ChatRequest) -> str:
    return "\n\n".join(
        message.text() for message in request.messages if message.role in ("system", "developer", "user")
    )


def _answer(verdict: Verdict, request: ChatRequest, properties: dict[str, Any]) -> str:
    """The verdict as JSON: in the schema's fields and types, else in those that the prompt names."""
    if not properties:
        named = dict(_FIELD.findall(_words(request)))
        properties = {name: {"type": named.get(name, "str")} for name in named or ("rationale", "result")}
    answer: dict[str, Any] = {}
    for name, schema in properties.items():
        if name == "rationale":
            answer[name] = _STEP_BY_STEP + verdict.rationale
        elif name == "result":
            answer[name] = _result(verdict, schema)
        else:
            answer[name] = _empty(schema)
    return json.dumps(answer, ensure_ascii=False)


def _result(verdict: Verdict, schema: dict[str, Any]) -> Any:
    """The result in the wanted type. What was not measured is not passed."""
    options = schema.get("enum") or re.findall(r"'([^']+)'", str(schema.get("type", "")))
    if verdict.label is not None and (not options or verdict.label in options):
        return verdict.label
    passed = bool(verdict.passed)
    if options:
        order = _AFFIRMATIVE if passed else _NEGATIVE
        for option in options:
            if str(option).lower() in order:
                return option
        return options[0] if passed else options[-1]
    kind = schema.get("type")
    if kind in ("boolean", "bool"):
        return passed
    if kind in ("integer", "int", "number", "float"):
        return int(passed)
    if kind == "array":
        return []
    if kind == "object":
        return {}
    return "yes" if passed else "no"


def _nothing(properties: dict[str, Any]) -> dict[str, Any]:
    """An answer of the wanted form that claims nothing, for structured output that is no verdict."""
    return {name: _empty(schema) for name, schema in properties.items()}


def _empty(schema: dict[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][-1]
    empty: dict[str, Any] = {"array": [], "object": {}, "boolean": False, "integer": 0, "number": 0}
    return empty.get(str(schema.get("type")), "")


# --- looking into a trace ----------------------------------------------------------------------------------------


def _extract(wanted: set[str]) -> Plan:
    """Find the request and the response of a trace whose root has neither."""
    found = yield from _read_trace(wanted)
    answer = {name: found.get(name, "") for name in sorted(wanted)}
    return Outcome(True, json.dumps(answer, ensure_ascii=False))


def _judge_trace(request: ChatRequest, properties: dict[str, Any]) -> Plan:
    """Judge by the prompt's own rule once the request and the response are known, or by the spans' statuses."""
    words = _words(request)
    rule = next((rule for sign, rule in _RULES if sign in words), None)
    if rule is not None:
        found = yield from _read_trace({"inputs", "outputs"})
        fields = "\n".join(f"{name}: {json.dumps(text)}" for name, text in found.items())
        verdict = rule(f"{words}\n\n{fields}")
    else:
        listing = yield Action("list_spans", {}, "List the spans.")
        verdict = verdicts.spans_without_errors(_spans(listing))
    return Outcome(True, _answer(verdict, request, properties))


def _read_trace(wanted: set[str]) -> Generator[Action, Result, dict[str, str]]:
    """The trace's inputs and outputs: those of the root, else of the first and last model call that have them."""
    found: dict[str, str] = {}
    only = {"attributes_to_fetch": list(_ATTRIBUTES.values())}
    root = yield Action("get_root_span", only, "Read the root span.")
    _take(found, root, wanted)
    if wanted <= found.keys():
        return found
    listing = yield Action("list_spans", {}, "List the spans.")
    spans = _spans(listing)
    for name in sorted(wanted - found.keys()):
        holders = [span for span in spans if _ATTRIBUTES[name] in span.get("attribute_names", [])]
        models = [span for span in holders if str(span.get("span_type")) in ("CHAT_MODEL", "LLM")] or holders
        if models:
            chosen = models[0] if name == "inputs" else models[-1]
            why = f"Read the {name} of the span {chosen.get('name')}."
            span = yield Action("get_span", {"span_id": chosen["span_id"], **only}, why)
            _take(found, span, {name})
    return found


def _take(found: dict[str, str], result: Result, names: set[str]) -> None:
    """Copy the inputs and outputs that a span holds."""
    span = _json(result.text)
    content = _json(str(span.get("content", ""))) or span
    attributes = content.get("attributes") or {}
    for name in names:
        value = attributes.get(_ATTRIBUTES[name])
        if value not in (None, "", "null", "{}"):
            found[name] = _said(_decoded(value), name)


def _said(value: Any, name: str) -> str:
    """The words in a chat request or response: the first user message, or the last answer."""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    messages = value.get("messages")
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        messages = [choices[-1].get("message")]
    messages = [message for message in messages or [] if isinstance(message, dict)]
    role = "user" if name == "inputs" else "assistant"
    chosen = [message for message in messages if message.get("role") == role] or messages
    if chosen and (text := _text_of(chosen[0] if name == "inputs" else chosen[-1])):
        return text
    return json.dumps(value, ensure_ascii=False)


def _text_of(message: dict[str, Any]) -> str:
    """What a message says: the text that it hands to ``finish``, or its content."""
    for call in message.get("tool_calls") or []:
        function = call.get("function") or {}
        if function.get("name") == "finish":
            return str(_json(str(function.get("arguments"))).get("message", ""))
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _spans(result: Result) -> list[dict[str, Any]]:
    spans = _json(result.text).get("spans")
    return (
        [span for span in spans if isinstance(span, dict) and span.get("span_id")]
        if isinstance(spans, list)
        else []
    )


def _json(text: str) -> dict[str, Any]:
    value = _decoded(text)
    return value if isinstance(value, dict) else {}


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


# A sentence of each prompt, and the rule that goes with it; the first that fits is taken, so the narrower comes first.
_RULES: list[tuple[str, Callable[[str], Verdict]]] = [
    ("You judge the work of an AI agent by the guidelines below", verdicts.fenced_guidelines),
    ("claim is supported by the document in the context of the question", verdicts.correctness),
    ("whether the answer provides information that is (fully or partially) relevant", verdicts.relevance),
    ("whether the document provides information that is (fully or partially) relevant", verdicts.relevance),
    ("agent's tool usage for redundancy and inefficiency", verdicts.tool_call_efficiency),
    ("<actual_tool_calls>", verdicts.tool_call_correctness),
    ("whether tool usage was efficient and output", verdicts.conversation_tool_efficiency),
    ("whether claim is supported by the document", verdicts.groundedness),
    ("content safety classifier", verdicts.safety),
    ("evaluate the safety of the assistant's responses only", verdicts.conversation_safety),
    ("assistant's responses throughout the conversation comply with", verdicts.conversation_guidelines),
    ("assess whether the inputs fully comply with all the provided guidelines", verdicts.guidelines),
    ("Compare the following actual output against the expected output", verdicts.equivalence),
    ("whether the assistant successfully addressed all explicit requests", verdicts.completeness),
    ("list all explicit user requests made throughout the conversation", verdicts.conversation_completeness),
    ("evaluating the Fluency of AI-generated text", verdicts.fluency),
    ("source document and candidate summary", verdicts.summarization),
    ("determine the user's emotional trajectory", verdicts.user_frustration),
    ("evaluate the LAST AI response in the", verdicts.knowledge_retention),
    ("whether the assistant maintains its assigned role", verdicts.role_adherence),
]
