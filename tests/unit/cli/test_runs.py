"""Reading a runner's lines: whatever it prints, a caller gets a result or an error that names what happened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from paddock_cli import runs
from paddock_cli.errors import RunnerFailed, UsageFailed
from paddock_cli.stack import AgentProcess, Request

STARTED = {
    "type": "started",
    "run_id": "r-1",
    "trace_id": "tr-1",
    "endpoint": "coder",
    "model": "m",
    "tools": ["terminal"],
}
EVENT = {"type": "event", "kind": "ActionEvent", "source": "agent", "summary": "terminal ls", "event": {}}
RESULT = {
    "type": "result",
    "run_id": "r-1",
    "trace_id": "tr-1",
    "outcome": "finished",
    "exit_code": 0,
    "message": "done",
    "steps": 2,
    "tools": {"terminal": 1},
    "tokens": {"input": 10, "cached_input": 4, "output": 3, "reasoning": 0},
    "cost_usd": 0.1,
    "seconds": 1.5,
    "endpoint": "coder",
    "model": "m",
}


class Recorder(runs.Watcher):
    def __init__(self):
        self.seen = []

    def started(self, line):
        self.seen.append(("started", line.run_id))

    def event(self, line):
        self.seen.append(("event", line["summary"]))


class ScriptedStack:
    """Starts a Python program in the runner's place."""

    def __init__(self, code):
        self.code = code

    def start_agent(self, request):
        return AgentProcess(
            subprocess.Popen(
                [sys.executable, "-u", "-c", self.code],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )


def request(tmp_path, **changes):
    return Request(**({"run_id": "r-1", "task": "t", "workspace": tmp_path, "state": tmp_path} | changes))


def says(*lines, code=0, stderr=""):
    printed = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return ScriptedStack(f"import sys; print({printed!r}); sys.stderr.write({stderr!r}); sys.exit({code})")


def test_a_run_is_watched_and_its_result_returned(tmp_path):
    recorder = Recorder()

    result = runs.run(says(STARTED, EVENT, RESULT), request(tmp_path), recorder)

    assert recorder.seen == [("started", "r-1"), ("event", "terminal ls")]
    assert result.finished
    assert (result.tokens.cached_input, result.cost_usd, result.tools) == (4, 0.1, {"terminal": 1})


def test_the_outcome_decides_and_not_the_process_exit_code(tmp_path):
    result = runs.run(
        says(STARTED, RESULT | {"outcome": "stuck", "exit_code": 5}, code=1), request(tmp_path), Recorder()
    )

    assert (result.exit_code, result.finished) == (5, False)


def test_what_a_library_prints_is_passed_over(tmp_path):
    result = runs.run(says("Downloading ...", "{", "[1]", "", STARTED, RESULT), request(tmp_path), Recorder())

    assert result.outcome == "finished"


def test_unknown_fields_and_lines_do_no_harm(tmp_path):
    result = runs.run(
        says({"type": "new"}, RESULT | {"later": 1, "cost_usd": None}), request(tmp_path), Recorder()
    )

    assert result.cost_usd is None


def test_refused_arguments_are_a_usage_error(tmp_path):
    with pytest.raises(UsageFailed, match="no such tool"):
        runs.run(says({"type": "error", "message": "no such tool"}, code=2), request(tmp_path), Recorder())


def test_a_stack_that_is_not_set_up_is_told(tmp_path):
    with pytest.raises(RunnerFailed, match="no handover") as caught:
        runs.run(says("", code=78, stderr="no handover file"), request(tmp_path), Recorder())
    assert "./paddock up" in caught.value.remedy


def test_an_agent_that_vanishes_is_told_with_its_last_words(tmp_path):
    with pytest.raises(RunnerFailed, match=r"137.*r-1.*\n.*out of memory") as caught:
        runs.run(says(STARTED, code=137, stderr="out of memory"), request(tmp_path), Recorder())
    assert caught.value.remedy.endswith("--resume r-1")


def test_a_flood_of_errors_does_not_stop_the_agent(tmp_path):
    flood = "import sys; sys.stderr.write(('y' * 99 + chr(10)) * 5000)"
    code = f"{flood}; print({json.dumps(RESULT)!r})"

    assert runs.run(ScriptedStack(code), request(tmp_path), Recorder()).outcome == "finished"


def test_signals_reach_the_agent_and_the_caller_gets_its_result(tmp_path):
    result = RESULT | {"outcome": "interrupted", "exit_code": 130}
    code = (
        "import json, signal, sys, time\n"
        f"signal.signal(signal.SIGINT, lambda *_: (print({json.dumps(result)!r}), sys.exit(130)))\n"
        f"print({json.dumps(STARTED)!r})\n"
        "time.sleep(30)\n"
    )

    class Interrupting(Recorder):
        def started(self, line):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = signal.getsignal(signal.SIGINT)
    outcome = runs.run(ScriptedStack(code), request(tmp_path), Interrupting())

    assert outcome.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_an_agent_that_ignores_its_own_limit_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "BACKSTOP_SECONDS", 0.2)
    began = time.monotonic()

    with pytest.raises(RunnerFailed):
        runs.run(ScriptedStack("import time; time.sleep(60)"), request(tmp_path, timeout=0), Recorder())
    assert time.monotonic() - began < 30


def test_a_note_is_kept_for_a_resume(where, tmp_path):
    runs.note(where, request(tmp_path, endpoint="other"), "embedded")

    assert runs.noted(where, "r-1")["endpoint"] == "other"
    assert runs.noted(where, "r-2") is None


def test_arguments_of_the_runner(tmp_path):
    arguments = request(
        tmp_path, task="-x", max_iterations=3, timeout=9, user="ann", tags=("a=b", "c=d")
    ).arguments("/workspace", "/state")

    assert arguments[-2:] == ["--", "-x"]
    for pair in (
        ("--run-id", "r-1"),
        ("--max-iterations", "3"),
        ("--timeout", "9"),
        ("--user", "ann"),
    ):
        assert arguments[arguments.index(pair[0]) + 1] == pair[1]
    assert [arguments[i + 1] for i, word in enumerate(arguments) if word == "--tag"] == ["a=b", "c=d"]


def test_a_resume_without_a_task_sends_no_message(tmp_path):
    arguments = request(tmp_path, task="", resume=True).arguments("/w", "/s")

    assert "--" not in arguments
    assert "--run-id" not in arguments
    assert arguments[arguments.index("--resume") + 1] == "r-1"


def test_a_line_without_an_end_is_read_in_pieces(monkeypatch):
    """What an agent prints must not fill the memory of the machine that shows it."""
    monkeypatch.setattr("paddock_cli.stack.MAX_LINE", 1000)
    code = "print('x' * 2500); print('y')"
    agent = AgentProcess(
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    )

    assert [len(line) for line in agent.lines()] == [1000, 1000, 501, 2]
    assert agent.wait() == 0


@pytest.mark.parametrize("trace_id", ["../../2.0/mlflow/users/get", "tr-1/../x", "tr-XYZ", "tr-1?x", ""])
def test_a_result_whose_trace_is_no_trace_is_none(trace_id):
    """Its id becomes part of an address that the administrator's credentials go to."""
    reading = runs._Reading(runs.Watcher())

    reading.take(json.dumps(RESULT | {"trace_id": trace_id}))

    assert reading.result is None
    assert len(reading.stray) == 1
