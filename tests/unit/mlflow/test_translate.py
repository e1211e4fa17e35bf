"""The translation by itself: what it adds, what it leaves, and what it concludes from incomplete traces."""

import json
import os
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_recordings import ANSWER, CASES, TASK, Recording, recording

from paddock_mlflow.conversations import conversation
from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.spans import SpanView, view
from paddock_mlflow.translate import Price, translate


def views(recording: Recording) -> list[SpanView]:
    return [view(span) for span in recording.spans]


def nothing(trace_id: str) -> list[SpanView]:
    return []


def priced(requested: str, responded: str, usage: Usage) -> Price:
    return Price(total=usage.input / 1000, provider="openai")


def unpriced(requested: str, responded: str, usage: Usage) -> None:
    return None


def attributes(span: Span) -> dict[str, Any]:
    return dict(view(span).attributes)


@pytest.mark.parametrize("case", CASES)
def test_a_translated_request_translates_to_itself(case: str) -> None:
    (request,) = recording(case).together().requests
    assert translate(request, nothing, priced)
    once = request.SerializeToString(deterministic=True)
    assert not translate(request, nothing, priced)
    assert request.SerializeToString(deterministic=True) == once


@pytest.mark.parametrize("case", CASES)
def test_nothing_that_was_sent_is_lost_or_changed(case: str) -> None:
    before, after = recording(case).together(), recording(case).together()
    translate(after.requests[0], nothing, priced)
    for old, new in zip(before.spans, after.spans, strict=True):
        assert attributes(old).items() <= attributes(new).items() or old.status.code
        assert (old.name, old.span_id, old.parent_span_id) == (new.name, new.span_id, new.parent_span_id)
        assert (old.start_time_unix_nano, old.end_time_unix_nano) == (
            new.start_time_unix_nano,
            new.end_time_unix_nano,
        )


def test_the_price_is_asked_with_the_endpoint_and_the_bare_model() -> None:
    asked = []

    def note(requested: str, responded: str, usage: Usage) -> None:
        asked.append((requested, responded, usage))

    translate(recording("message").together().requests[0], nothing, note)
    assert asked == [("coder", "demo", Usage(input=1000, output=50))]


def test_the_sdks_own_cost_stands_in_for_an_unknown_price() -> None:
    sent = recording("message").together()
    (around,) = [span for span in sent.spans if span.name.startswith("llm.")]
    around.attributes.add(key="gen_ai.usage.cost").value.double_value = 0.25
    translate(sent.requests[0], nothing, unpriced)
    (call,) = [span for span in sent.spans if span.name == "litellm.completion"]
    assert json.loads(attributes(call)["mlflow.llm.cost"]) == {"total_cost": 0.25}
    assert "mlflow.llm.cost" not in attributes(around)


def test_an_unknown_price_is_no_price_rather_than_zero() -> None:
    sent = recording("finish").together()
    translate(sent.requests[0], nothing, unpriced)
    assert not [span for span in sent.spans if "mlflow.llm.cost" in attributes(span)]


def test_a_session_that_looks_like_a_number_stays_a_text() -> None:
    sent = recording("message").together()
    for span in sent.spans:
        for attribute in span.attributes:
            if attribute.key == "lmnr.association.properties.session_id":
                attribute.value.string_value = "123e4567"
    translate(sent.requests[0], nothing, unpriced)
    assert {attributes(span)["session.id"] for span in sent.spans} == {"123e4567"}


def test_a_session_too_long_for_mlflow_does_not_cost_the_batch() -> None:
    sent = recording("message").together()
    for span in sent.spans:
        for attribute in span.attributes:
            if attribute.key == "lmnr.association.properties.session_id":
                attribute.value.string_value = "s" * 251
    translate(sent.requests[0], nothing, unpriced)
    assert not [span for span in sent.spans if "session.id" in attributes(span)]


def test_a_text_with_nul_can_be_stored() -> None:
    sent = recording("message").together()
    (send,) = [span for span in sent.spans if span.name == "conversation.send_message"]
    (given,) = [attribute for attribute in send.attributes if attribute.key == "lmnr.span.input"]
    given.value.string_value = json.dumps({"message": "one\x00two"})
    translate(sent.requests[0], nothing, unpriced)
    assert json.loads(attributes(sent.root)["mlflow.spanInputs"])["messages"][0]["content"] == "onetwo"


def test_a_message_of_parts_is_its_text() -> None:
    sent = recording("message").together()
    (send,) = [span for span in sent.spans if span.name == "conversation.send_message"]
    (given,) = [attribute for attribute in send.attributes if attribute.key == "lmnr.span.input"]
    parts = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "two"},
    ]
    given.value.string_value = json.dumps({"message": {"role": "user", "content": parts}})
    assert conversation(views(sent)).requests == ("one\ntwo",)


def test_several_traces_in_one_request_are_kept_apart() -> None:
    first, second = recording("finish"), recording("limit")
    whole = ExportTraceServiceRequest()
    for request in [*first.requests, *second.requests]:
        whole.MergeFrom(request)
    both = Recording([whole])
    translate(whole, nothing, unpriced)
    roots = {span.trace_id: span for span in both.spans if not span.parent_span_id}
    assert roots[first.root.trace_id].status.code == 0
    assert roots[second.root.trace_id].status.code == 2


def test_earlier_spans_are_looked_up_once_and_only_for_the_root() -> None:
    sent = recording("finish")
    asked = []

    def note(trace_id: str) -> list[SpanView]:
        asked.append(trace_id)
        return []

    for request in sent.requests:
        translate(request, note, unpriced)
    assert asked == [sent.trace_id.removeprefix("tr-")]


class TestConclusions:
    """What is told of a trace whose spans are not all there."""

    def without(self, case: str, *names: str) -> list[SpanView]:
        return [
            span for span in views(recording(case)) if span.name not in names and span.name != "conversation"
        ]

    def test_complete(self) -> None:
        gist = conversation(self.without("finish"))
        assert (gist.requests, gist.answer, gist.unfinished) == ((TASK,), ANSWER, None)

    def test_the_spans_may_come_in_any_order(self) -> None:
        spans = self.without("limit")
        assert conversation(spans) == conversation(spans[::-1])

    def test_a_missing_finish_span_is_made_up_for_by_the_call(self) -> None:
        gist = conversation(self.without("finish", "FinishAction"))
        assert (gist.answer, gist.unfinished) == (ANSWER, None)

    def test_a_resumed_run_has_the_first_message_of_its_model_call(self) -> None:
        assert conversation(self.without("finish", "conversation.send_message")).requests == (TASK,)

    def test_no_failure_is_concluded_while_the_last_steps_model_call_is_missing(self) -> None:
        spans = views(recording("limit"))
        last = max((span for span in spans if span.name == "agent.step"), key=lambda span: span.start_ns)
        calls = {span.span_id for span in spans if span.parent_id == last.span_id}
        rest = [span for span in spans if span.span_id not in calls and span.parent_id not in calls]
        assert conversation(rest).unfinished is None

    def test_a_run_that_was_killed_before_the_first_answer(self) -> None:
        spans = [span for span in views(recording("signal")) if span.name == "conversation.send_message"]
        assert conversation(spans).unfinished == "the run ended before the model answered"

    def test_a_run_that_was_killed_after_a_failed_call_names_the_failure(self) -> None:
        gist = conversation(self.without("wrong-key", "conversation.run", "agent.step"))
        assert gist.unfinished is not None
        assert gist.unfinished.startswith("the last model call failed: litellm.AuthenticationError")

    def test_a_refused_finish_is_none(self) -> None:
        sent = recording("finish")
        (finish,) = [span for span in sent.spans if span.name == "FinishAction"]
        (output,) = [attribute for attribute in finish.attributes if attribute.key == "lmnr.span.output"]
        output.value.string_value = json.dumps({"role": "tool", "content": "Blocked", "kind": "Message"})
        assert conversation(views(sent)).unfinished is not None

    def test_calls_of_condensers_and_sub_agents_are_not_the_agents_answer(self) -> None:
        sent = recording("limit")
        calls = [span for span in sent.spans if span.name == "litellm.completion"]
        other = Span()
        other.CopyFrom(calls[-1])
        other.span_id, other.start_time_unix_nano = os.urandom(8), calls[-1].start_time_unix_nano + 10**9
        for attribute in other.attributes:
            if attribute.key == "lmnr.span.path":
                attribute.value.array_value.values.insert(3, attribute.value.array_value.values[2])
                attribute.value.array_value.values[
                    3
                ].string_value = "LLMSummarizingCondenser.get_condensation"
            if attribute.key == "gen_ai.output.messages":
                attribute.value.string_value = json.dumps([{"role": "assistant", "content": "A summary."}])
        gist = conversation([*views(sent), view(other)])
        assert gist.answer == "Looking."
        assert gist.unfinished is not None

    def test_nothing_is_concluded_of_an_agent_that_runs_elsewhere(self) -> None:
        sent = recording("limit")
        for span in sent.spans:
            span.name = span.name.replace("agent.step", "acp_agent.step")
        assert conversation(views(sent)).unfinished is None

    def test_without_litellms_span_what_follows_the_call_tells(self) -> None:
        assert conversation(self.without("finish", "litellm.completion")).unfinished is None
        assert conversation(self.without("message", "litellm.completion")).unfinished is None
        assert conversation(self.without("limit", "litellm.completion")).unfinished is not None
