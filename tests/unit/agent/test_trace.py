"""What only the runner can put on a trace. The rest is done at ingest, for every OpenHands user."""

import json

from conftest import Runner
from otlp import OK


def test_root_span(runner: Runner) -> None:
    task = "Make it, " + "please " * 30
    ended = runner.run(
        task, "--endpoint", "scenario/short", "--user", "alice", "--tag", "team=stable", "--tag", "ticket=A=1"
    )
    result = ended.result
    trace = runner.collector.trace(result["trace_id"])
    root = trace["conversation"][0]
    assert (root.status, root.parent) == (OK, "")
    name = root.attributes["mlflow.traceTag.mlflow.traceName"]
    assert name.startswith("Make it, please")
    assert len(name) == 80
    expected = {
        "session.id": result["run_id"],
        "user.id": "alice",
        "mlflow.spanInputs": json.dumps(task),
        "mlflow.spanOutputs": '"all done"',
        "mlflow.traceTag.paddock.run_id": result["run_id"],
        "mlflow.traceTag.paddock.endpoint": "scenario/short",
        "mlflow.traceTag.paddock.outcome": "finished",
        "mlflow.traceTag.team": "stable",
        "mlflow.traceTag.ticket": "A=1",
    }
    assert {name: root.attributes.get(name) for name in expected} == expected


def test_span_tree_is_the_one_that_any_openhands_script_sends(runner: Runner) -> None:
    ended = runner.run("make it", "--endpoint", "scenario/short")
    trace = runner.collector.trace(ended.result["trace_id"])
    assert {name: len(spans) for name, spans in trace.items()} == {
        "conversation": 1,
        "conversation.send_message": 1,
        "conversation.run": 1,
        "agent.step": 2,
        "llm.litellm_proxy/scenario/short": 2,
        "litellm.completion": 2,
        "TerminalAction": 1,
        "FinishAction": 1,
    }
    call = trace["litellm.completion"][0]
    assert "gen_ai.input.messages" in call.attributes
    assert call.attributes["gen_ai.usage.input_tokens"] > 0


def test_no_trace_without_a_collectors_address(runner: Runner) -> None:
    ended = runner.run("make it", "--endpoint", "scenario/short", cold=True, OTEL_EXPORTER_OTLP_ENDPOINT=None)
    assert (ended.code, ended.result["trace_id"], ended.result["trace_delivered"]) == (0, None, None)
    assert "NO TRACE" in ended.err
    assert runner.collector.spans == []
