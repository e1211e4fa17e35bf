"""What MLflow shows of traces of the real OpenHands SDK, sent to the real store."""

import json
from typing import Any

import pytest
from otlp_recordings import ANSWER, CASES, TASK, Recording, recording

# USD per token, of mlflow/prices/openai.json.
INPUT, CACHED, OUTPUT = 0.15e-6, 0.075e-6, 0.60e-6


def stored(server: Any, sent: Recording) -> Any:
    return server.client.get_trace(sent.trace_id)


def row(server: Any, sent: Recording) -> dict[str, Any]:
    """The columns of the trace's row: what lists, filters and charts of MLflow are made of."""
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo

    with server.store.ManagedSessionMaker() as session:
        found = session.get(SqlTraceInfo, sent.trace_id)
        return {column.key: getattr(found, column.key) for column in SqlTraceInfo.__table__.columns}


def everything(server: Any, sent: Recording) -> tuple[Any, ...]:
    trace = stored(server, sent)
    spans = {span.span_id: span.to_dict() for span in trace.data.spans}
    return row(server, sent), trace.info.tags, trace.info.trace_metadata, spans


def spans_named(trace: Any, name: str) -> list[Any]:
    return [span for span in trace.data.spans if span.name == name]


def test_a_finished_run_is_complete(server: Any, deliver: Any) -> None:
    sent = recording("finish")
    assert len(sent.requests) > 2, "the recording must have the root apart from its children"
    deliver(sent)
    info = stored(server, sent).info
    assert info.state == "OK"
    assert info.request_preview == TASK
    assert info.response_preview == ANSWER
    assert info.tags["mlflow.traceName"] == "conversation"
    assert len(info.trace_metadata["mlflow.trace.session"]) == 36
    assert info.token_usage == {
        "input_tokens": 4600,
        "output_tokens": 200,
        "total_tokens": 4800,
        "cache_read_input_tokens": 2400,
        "cache_creation_input_tokens": 0,
    }


def test_cost_is_tokens_by_price_with_cached_ones_at_their_own(server: Any, deliver: Any) -> None:
    sent = recording("finish")
    deliver(sent)
    found = row(server, sent)
    assert found["input_cost"] == pytest.approx(2200 * INPUT + 2400 * CACHED)
    assert found["output_cost"] == pytest.approx(200 * OUTPUT)
    assert found["total_cost"] == pytest.approx(0.00063)
    # Once a call, so that sums over spans are right too.
    costs = [span.attributes.get("mlflow.llm.cost") for span in stored(server, sent).data.spans]
    assert sum(cost["total_cost"] for cost in costs if cost) == pytest.approx(0.00063)
    assert len([cost for cost in costs if cost]) == 4


def test_session_and_user_are_known_before_the_run_ends(server: Any, deliver: Any) -> None:
    sent = recording("user")
    deliver(Recording(sent.requests[:1]))
    info = server.store.get_trace_info(sent.trace_id)
    assert info.state == "IN_PROGRESS"
    assert info.trace_metadata["mlflow.trace.user"] == "alice"
    assert len(info.trace_metadata["mlflow.trace.session"]) == 36


def test_tags_of_the_conversation_are_tags_of_the_trace(server: Any, deliver: Any) -> None:
    sent = recording("user")
    deliver(sent)
    info = stored(server, sent).info
    assert (info.tags["team"], info.tags["ticket"]) == ("lab", "7")
    assert info.trace_metadata["mlflow.trace.user"] == "alice"


@pytest.mark.parametrize(
    ("case", "state", "reason"),
    [
        ("finish", "OK", ""),
        ("message", "OK", ""),
        ("stream", "OK", ""),
        ("tool-error", "OK", ""),
        ("twice", "OK", ""),
        ("mcp", "OK", ""),
        ("limit", "ERROR", "called tools, and no finish followed"),
        ("signal", "ERROR", "called tools, and no finish followed"),
        ("wrong-key", "ERROR", "AuthenticationError"),
    ],
)
@pytest.mark.parametrize("batched", [True, False])
def test_state(server: Any, deliver: Any, case: str, state: str, reason: str, batched: bool) -> None:
    sent = recording(case)
    deliver(sent if batched else sent.together())
    trace = stored(server, sent)
    assert trace.info.state == state
    root = next(span for span in trace.data.spans if span.parent_id is None)
    assert reason in (root.status.description or "")


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        ("finish", ANSWER),
        ("stream", ANSWER),
        ("mcp", ANSWER),
        ("message", "It is a project with three facts."),
        ("twice", "I did write them."),
        ("limit", "Looking."),
    ],
)
def test_the_answer_is_the_agents_last_word(server: Any, deliver: Any, case: str, answer: str) -> None:
    sent = recording(case)
    deliver(sent)
    assert stored(server, sent).info.response_preview == answer


def test_a_second_message_is_the_preview_and_both_are_kept(server: Any, deliver: Any) -> None:
    sent = recording("twice")
    deliver(sent)
    trace = stored(server, sent)
    assert trace.info.request_preview == "Now say it again."
    root = next(span for span in trace.data.spans if span.parent_id is None)
    assert [message["content"] for message in root.inputs["messages"]] == [TASK, "Now say it again."]


@pytest.mark.parametrize("case", CASES)
def test_another_delivery_changes_nothing(server: Any, deliver: Any, case: str) -> None:
    sent = recording(case)
    deliver(sent)
    first = everything(server, sent)
    deliver(sent)
    # An exporter that got no answer sends one batch again, with later ones between.
    deliver(Recording([sent.requests[-1], sent.requests[0]]))
    second = everything(server, sent)
    first[0].pop("db_payload_generation"), second[0].pop("db_payload_generation")
    assert second == first


def test_every_way_of_cutting_into_batches_gives_the_same_trace(server: Any, deliver: Any) -> None:
    def gist(sent: Recording) -> tuple[Any, ...]:
        deliver(sent)
        found, tags, metadata, spans = everything(server, sent)
        keep = ("status", "request_preview", "response_preview", "total_cost", "input_tokens", "trace_name")
        session = metadata["mlflow.trace.session"]
        inputs = {key: span["attributes"].get("mlflow.spanInputs") for key, span in spans.items()}
        return {key: found[key] for key in keep if key in found}, session, tags["mlflow.traceName"], inputs

    apart = recording("limit")
    assert gist(apart) == gist(recording("limit").together())


def test_spans_are_typed_and_can_be_found_by_type(server: Any, deliver: Any, experiment: str) -> None:
    sent = recording("finish")
    deliver(sent)
    types = [span.span_type for span in stored(server, sent).data.spans]
    assert {kind: types.count(kind) for kind in set(types)} == {"AGENT": 5, "CHAIN": 2, "LLM": 8, "TOOL": 4}
    for condition in (
        "span.type = 'TOOL'",
        "span.type = 'LLM'",
        "span.type = 'AGENT'",
        "span.name = 'TerminalAction'",
    ):
        found = server.client.search_traces(locations=[experiment], filter_string=condition)
        assert [trace.info.trace_id for trace in found] == [sent.trace_id], condition
    assert not server.client.search_traces(locations=[experiment], filter_string="span.type = 'RETRIEVER'")


def test_tools_have_inputs_outputs_and_names(server: Any, deliver: Any) -> None:
    sent = recording("finish")
    deliver(sent)
    trace = stored(server, sent)
    (terminal,) = spans_named(trace, "TerminalAction")
    assert terminal.inputs["command"] == "echo 1"
    assert terminal.outputs["exit_code"] == 0
    tools = [span.attributes["gen_ai.tool.name"] for span in trace.data.spans if span.span_type == "TOOL"]
    assert sorted(tools) == ["file_editor", "finish", "task_tracker", "terminal"]


def test_the_judges_see_tools_called_and_tools_available(server: Any, deliver: Any) -> None:
    from mlflow.genai.utils.trace_utils import (
        extract_available_tools_from_trace,
        extract_request_from_trace,
        extract_response_from_trace,
        extract_tools_called_from_trace,
    )

    sent = recording("finish")
    deliver(sent)
    trace = stored(server, sent)
    assert extract_request_from_trace(trace) == TASK
    assert extract_response_from_trace(trace) == ANSWER
    available = {tool.function.name for tool in extract_available_tools_from_trace(trace)}
    assert available >= {"terminal", "file_editor", "task_tracker", "finish"}
    called = extract_tools_called_from_trace(trace)
    assert [call.name for call in called][-1] == "FinishAction"
    assert all(call.arguments and call.outputs for call in called)


def test_model_calls_have_the_system_prompt_the_model_and_its_provider(server: Any, deliver: Any) -> None:
    sent = recording("finish")
    deliver(sent)
    for span in spans_named(stored(server, sent), "litellm.completion"):
        messages = span.inputs["messages"]
        assert messages[0]["role"] == "system"
        assert "OpenHands agent" in json.dumps(messages[0]["content"])
        assert span.outputs["choices"][0]["message"]["role"] == "assistant"
        assert (span.attributes["mlflow.llm.model"], span.attributes["mlflow.llm.provider"]) == (
            "demo",
            "openai",
        )


def test_failed_tools_are_spans_in_error(server: Any, deliver: Any) -> None:
    sent = recording("tool-error")
    deliver(sent)
    trace = stored(server, sent)
    (missing,) = spans_named(trace, "FileEditorAction")
    assert missing.status.status_code == "ERROR"
    assert "does not exist" in missing.status.description
    # Refused before it ran, so the SDK hangs it under the conversation, with the raw call as its input.
    (refused,) = spans_named(trace, "TerminalAction")
    assert refused.status.status_code == "ERROR"
    assert refused.inputs["nothing"] == "here"
    assert refused.attributes["gen_ai.tool.name"] == "terminal"


def test_a_tool_of_an_mcp_server_is_one_tool_call_with_its_own_name(server: Any, deliver: Any) -> None:
    sent = recording("mcp")
    deliver(sent)
    tools = [span for span in stored(server, sent).data.spans if span.span_type == "TOOL"]
    assert [span.attributes["gen_ai.tool.name"] for span in tools] == ["add", "finish"]
    assert tools[0].inputs == {"a": 2, "b": 3}
    assert "5" in json.dumps(tools[0].outputs)


def test_no_input_shows_the_address_of_an_object(server: Any, deliver: Any) -> None:
    sent = recording("finish")
    deliver(sent)
    assert " object at 0x" not in json.dumps([span.inputs for span in stored(server, sent).data.spans])


class TestWhatTheSenderSaid:
    """The runner, and careful users, set the root's attributes themselves."""

    def root_with(self, case: str, **attributes: str) -> Recording:
        sent = recording(case)
        for key, value in attributes.items():
            name = {
                "inputs": "mlflow.spanInputs",
                "outputs": "mlflow.spanOutputs",
                "session": "session.id",
            }.get(key)
            name = (
                name
                or {"outcome": "mlflow.traceTag.paddock.outcome", "name": "mlflow.traceTag.mlflow.traceName"}[
                    key
                ]
            )
            sent.root.attributes.add(key=name).value.string_value = value
        return sent

    def test_its_texts_and_names_stay(self, server: Any, deliver: Any) -> None:
        sent = self.root_with(
            "finish",
            inputs=json.dumps("My task"),
            outputs=json.dumps("My answer"),
            name="mine",
            outcome="finished",
        )
        deliver(sent)
        info = stored(server, sent).info
        assert (info.request_preview, info.response_preview) == ("My task", "My answer")
        assert info.tags["mlflow.traceName"] == "mine"
        assert (info.state, info.tags["paddock.outcome"]) == ("OK", "finished")

    def test_structured_inputs_stay_as_they_are(self, server: Any, deliver: Any) -> None:
        sent = self.root_with("finish", inputs='{"question": "why"}')
        deliver(sent)
        root = next(span for span in stored(server, sent).data.spans if span.parent_id is None)
        assert root.inputs == {"question": "why"}

    def test_a_text_that_is_a_number_stays_a_text(self, server: Any, deliver: Any) -> None:
        sent = self.root_with("finish", inputs="42")
        deliver(sent)
        assert stored(server, sent).info.request_preview == "42"

    @pytest.mark.parametrize("outcome", ["max_iterations", "budget", "terminated"])
    def test_its_outcome_decides(self, server: Any, deliver: Any, outcome: str) -> None:
        sent = self.root_with("finish", outcome=outcome)
        deliver(sent)
        assert stored(server, sent).info.state == "ERROR"

    def test_finished_is_believed_where_the_spans_look_cut_off(self, server: Any, deliver: Any) -> None:
        sent = self.root_with("limit", outcome="finished")
        deliver(sent)
        assert stored(server, sent).info.state == "OK"
