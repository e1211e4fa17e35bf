"""Signals, and runs that go on afterwards."""

import signal
import uuid

import pytest
from conftest import Ended, Runner
from otlp import ERROR, OK


@pytest.mark.parametrize(
    ("number", "outcome", "code"), [(signal.SIGTERM, "terminated", 143), (signal.SIGINT, "interrupted", 130)]
)
def test_signal_ends_a_model_call(runner: Runner, number: int, outcome: str, code: int) -> None:
    running = runner.start("do it", "--endpoint", "scenario/slow-third")
    running.until(lambda: len(runner.provider.calls()) == 3, "third model call")
    running.signal(number)
    # Long before the model answers.
    ended = running.end(seconds=25)
    assert (ended.code, ended.result["outcome"], ended.result["exit_code"]) == (code, outcome, code)
    assert f"--resume {ended.result['run_id']}" in ended.result["message"]
    assert ended.result["trace_delivered"] is True
    assert ended.err == ""
    trace = runner.collector.trace(ended.result["trace_id"])
    root = trace["conversation"][0]
    assert root.status == ERROR
    assert root.attributes["mlflow.traceTag.paddock.outcome"] == outcome
    assert len(trace["agent.step"]) == 3
    spans = {span.id for spans in trace.values() for span in spans}
    assert all(span.parent in spans for group in trace.values() for span in group if span.parent)


def test_second_signal_forces_the_exit_with_the_trace_sent(runner: Runner) -> None:
    running = runner.start("do it", "--endpoint", "scenario/cut-off-command")
    running.until((runner.workspace / "begun.txt").exists, "command under way")
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGTERM)
    ended = running.end(seconds=30)
    assert ended.code == 143
    assert ended.result["outcome"] == "terminated"
    assert [line["type"] for line in ended.lines].count("result") == 1
    assert runner.collector.root(ended.result["trace_id"]).status == ERROR


def test_signal_while_importing(runner: Runner) -> None:
    running = runner.start("do it", "--endpoint", "scenario/short", cold=True)
    running.until((runner.state / "runs").exists, "start")
    running.until(lambda: any((runner.state / "runs").glob("*/paddock.json")), "record of the run")
    running.signal(signal.SIGTERM)
    ended = running.end()
    assert (ended.code, ended.result["outcome"]) == (143, "terminated"), ended.err
    assert "Traceback" not in ended.err


def _go_on(runner: Runner, first: Ended, *arguments: str) -> Ended:
    return runner.run("--resume", first.result["run_id"], *arguments)


def test_terminated_run_goes_on_without_repeating_a_step(runner: Runner) -> None:
    running = runner.start("do it", "--endpoint", "scenario/slow-third")
    running.until(lambda: len(runner.provider.calls()) == 3, "third model call")
    running.signal(signal.SIGTERM)
    first = running.end()
    second = _go_on(runner, first, "--endpoint", "scenario/count")
    assert (second.code, second.started["resumed"]) == (0, True)
    assert (runner.workspace / "steps.txt").read_text() == "1\n2\n3\n4\n5\n"
    assert (second.result["steps"], second.result["tools"]) == (6, {"terminal": 5, "finish": 1})
    # A trace of its own, in the same session, with the task that the run was started with.
    assert second.result["trace_id"] != first.result["trace_id"]
    root = runner.collector.root(second.result["trace_id"])
    assert root.attributes["session.id"] == first.result["run_id"]
    assert root.attributes["mlflow.spanInputs"] == '"do it"'
    assert root.status == OK
    messages = runner.provider.calls()[-1]["body"]["messages"]
    assert sum(message["role"] == "user" for message in messages) == 1


def test_killed_run_goes_on_and_is_told_of_the_call_that_was_cut_off(runner: Runner) -> None:
    run_id = str(uuid.uuid4())
    running = runner.start("do it", "--endpoint", "scenario/cut-off-command", "--run-id", run_id)
    running.until((runner.workspace / "begun.txt").exists, "command under way")
    running.signal(signal.SIGKILL)
    assert running.end().code == -signal.SIGKILL
    second = runner.run("--resume", run_id)
    assert (second.code, second.result["outcome"]) == (0, "finished"), second.err
    # Once by the killed process; the resumed one asks the model instead of doing it again.
    assert (runner.workspace / "begun.txt").read_text() == "begun\n"
    told = [event for event in second.events if event["kind"] == "UserRejectObservation"]
    assert "effect is unknown" in told[0]["summary"]


def test_an_answer_to_a_question_is_sent_to_the_agent(runner: Runner) -> None:
    first = runner.run("tidy up", "--endpoint", "scenario/question")
    assert first.code == 6
    second = _go_on(runner, first, "keep it")
    assert (second.code, second.result["outcome"]) == (0, "finished")
    messages = runner.provider.calls()[-1]["body"]["messages"]
    assert "keep it" in str(messages[-1])


def test_a_finished_run_has_nothing_more_to_do(runner: Runner) -> None:
    first = runner.run("make it", "--endpoint", "scenario/short")
    calls = len(runner.provider.calls())
    second = _go_on(runner, first)
    assert (second.code, second.result["outcome"]) == (0, "finished")
    assert len(runner.provider.calls()) == calls


def test_two_processes_do_not_work_on_one_run(runner: Runner) -> None:
    run_id = str(uuid.uuid4())
    running = runner.start("do it", "--endpoint", "scenario/slow-third", "--run-id", run_id)
    running.until(lambda: len(runner.provider.calls()) == 3, "third model call")
    second = runner.run("--resume", run_id)
    assert second.code == 2
    assert "another process" in second.lines[0]["message"]
    running.signal(signal.SIGTERM)
    assert running.end().code == 143
