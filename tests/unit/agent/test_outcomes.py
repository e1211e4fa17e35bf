"""Every end of a run: exit code, result line, and the state of its trace."""

import json
import os
import uuid

import pytest
from conftest import Runner
from otlp import ERROR, OK


def test_finished(runner: Runner) -> None:
    run_id = str(uuid.uuid4())
    ended = runner.run("make it", "--endpoint", "scenario/short", "--run-id", run_id, cold=True)
    assert ended.code == 0, ended.err
    started, result = ended.started, ended.result
    assert 0 < started.pop("import_seconds") < result["seconds"]
    assert started.pop("isolation")["uid"] == os.getuid()
    assert started == {
        "type": "started",
        "run_id": run_id,
        "trace_id": result["trace_id"],
        "endpoint": "scenario/short",
        "model": "litellm_proxy/scenario/short",
        "workspace": str(runner.workspace),
        "tools": ["terminal", "file_editor", "task_tracker"],
        "max_iterations": 100,
        "timeout_seconds": 3600,
        "resumed": False,
        "experiment_id": "7",
    }
    assert result["outcome"] == "finished"
    assert result["message"] == "all done"
    assert (result["steps"], result["tools"]) == (2, {"terminal": 1, "finish": 1})
    assert result["tokens"]["input"] > 1000
    assert result["tokens"]["cached_input"] > 0
    assert result["tokens"]["output"] > 0
    assert result["trace_delivered"] is True
    assert (runner.workspace / "made.txt").read_text() == "made\n"
    kinds = [event["kind"] for event in ended.events]
    assert kinds == ["SystemPromptEvent", "MessageEvent", *["ActionEvent", "ObservationEvent"] * 2]
    assert all(set(event) == {"type", "kind", "source", "summary", "event"} for event in ended.events)
    assert "echo made" in ended.events[2]["summary"]
    assert ended.err == ""


CASES = [
    # endpoint, extra flags, outcome, exit code, words of the message, model calls
    ("endless", ("--max-iterations", "3"), "max_iterations", 3, "--max-iterations", 3),
    ("budget", (), "budget", 4, "Budget limit exceeded", 2),
    ("no-quota", (), "budget", 4, "quota", 1),
    ("same-again", (), "stuck", 5, "again and again", None),
    ("question", (), "waiting", 6, "Shall I delete", 2),
    ("wrong-key", (), "authentication", 7, "LLM_API_KEY", 1),
    ("forbidden", (), "authentication", 7, "Permission denied", 1),
    ("down", (), "provider_unavailable", 8, "overloaded", 5),
    ("reset", (), "provider_unavailable", 8, "5 attempts", 5),
    ("unknown", (), "unknown_endpoint", 9, "expected an endpoint 'scenario/unknown'", 1),
    ("bad-request", (), "error", 1, "tools[0] is not valid", 1),
    ("says-done", (), "finished", 0, "There was nothing to do.", 1),
    ("hiccup", (), "finished", 0, "all done", 4),
]


@pytest.mark.parametrize(
    ("scenario", "flags", "outcome", "code", "words", "calls"), CASES, ids=[c[0] for c in CASES]
)
def test_outcome(
    runner: Runner,
    scenario: str,
    flags: tuple[str, ...],
    outcome: str,
    code: int,
    words: str,
    calls: int | None,
) -> None:
    ended = runner.run("do it", "--endpoint", f"scenario/{scenario}", *flags)
    result = ended.result
    assert (result["outcome"], result["exit_code"], ended.code) == (outcome, code, code), result
    assert words in result["message"]
    assert "Traceback" not in ended.err + result["message"]
    if calls is not None:
        assert len(runner.provider.calls()) == calls
    root = runner.collector.root(result["trace_id"])
    assert root.status == (OK if outcome == "finished" else ERROR)
    assert root.attributes["mlflow.traceTag.paddock.outcome"] == outcome
    assert json.loads(root.attributes["mlflow.spanOutputs"]) == result["message"]


def test_nobody_listens(runner: Runner) -> None:
    ended = runner.run("do it", LLM_BASE_URL="http://127.0.0.1:9/v1", PADDOCK_AGENT_LLM_ATTEMPTS="2")
    assert (ended.code, ended.result["outcome"]) == (8, "provider_unavailable")
    assert "http://127.0.0.1:9/v1" in ended.result["message"]
    assert "attempt 1 of 2" in ended.err
    assert runner.collector.root(ended.result["trace_id"]).status == ERROR


def test_wall_clock_limit_ends_a_command_under_way(runner: Runner) -> None:
    ended = runner.run("do it", "--endpoint", "scenario/cut-off-command", "--timeout", "15")
    assert (ended.code, ended.result["outcome"]) == (124, "timeout")
    assert "after 15 s" in ended.result["message"]
    assert ended.result["seconds"] < 45
    assert (runner.workspace / "begun.txt").exists()
    assert not (runner.workspace / "ended.txt").exists()
    trace = runner.collector.trace(ended.result["trace_id"])
    assert trace["conversation"][0].status == ERROR
    # Every span that was open is there, so the tree is whole.
    spans = {span.id: span for spans in trace.values() for span in spans}
    assert all(span.parent in spans for span in spans.values() if span.parent)
    assert {"conversation.run", "agent.step", "TerminalAction"} <= set(trace)


def test_wall_clock_limit_ends_a_model_call_under_way(runner: Runner) -> None:
    ended = runner.run("do it", "--endpoint", "scenario/slow-third", "--timeout", "15")
    assert (ended.code, ended.result["outcome"], ended.result["steps"]) == (124, "timeout", 2)
    assert ended.result["seconds"] < 30
    assert len(runner.collector.trace(ended.result["trace_id"])["litellm.completion"]) == 3


def test_without_a_collector_the_work_is_done_and_the_loss_is_said(runner: Runner) -> None:
    ended = runner.run(
        "make it",
        *("--endpoint", "scenario/short"),
        cold=True,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        PADDOCK_AGENT_FLUSH_TIMEOUT="1",
    )
    assert (ended.code, ended.result["outcome"], ended.result["trace_delivered"]) == (0, "finished", False)
    assert "TRACE NOT DELIVERED" in ended.err
    assert "http://127.0.0.1:9" in ended.err
    assert "not delivered" in ended.result["message"]


def test_a_collector_that_refuses_is_said(runner: Runner) -> None:
    runner.collector.status = 403
    ended = runner.run("make it", "--endpoint", "scenario/short")
    assert (ended.code, ended.result["trace_delivered"]) == (0, False)
    assert "TRACE NOT DELIVERED" in ended.err
