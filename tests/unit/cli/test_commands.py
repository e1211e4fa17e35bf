"""Calls of the command line that need no stack: messages, exit codes, and one JSON document with --json."""

import io
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from paddock_cli import judging, selection, task
from paddock_cli.errors import CliError, EngineMissing, NotFound, NotRunning, ServerFailed, UsageFailed
from paddock_cli.exit_codes import ExitCode
from paddock_cli.mlflow_api import Trace
from paddock_cli.runs import Result
from paddock_cli.settings import load
from paddock_cli.task import Order

COMMANDS = (
    "demo",
    "up",
    "down",
    "stop",
    "status",
    "logs",
    "run",
    "traces",
    "costs",
    "evaluate",
    "password",
    "env",
    "test",
)


@pytest.mark.parametrize("command", ["validate", "plan", "apply", "export", "rotate-secret", "rotate-key"])
def test_every_command_of_the_configuration_is_there_and_speaks_json(call, command):
    code, help_text, _ = call("config", command, "--help")
    assert code == 0
    assert "--json" in help_text


def test_a_configuration_with_mistakes_starts_nothing(call, monkeypatch, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nproviders: {x: {kind: openai, secret: SOME_API_KEY}}\n")
    monkeypatch.setenv("GATEWAY_CONFIG", str(bad))
    for command in (("up",), ("demo",), ("config", "validate"), ("config", "plan")):
        code, out, told = call(*command, "--json")
        assert code == ExitCode.BAD_CONFIGURATION
        problems = json.loads(out)["problems"]
        assert [(one["line"], one["path"]) for one in problems] == [
            (1, "endpoints"),
            (2, "providers.x.secret"),
        ]
        assert f"{bad}:2:31: providers.x.secret: expected the secret SOME_API_KEY to be set" in told


def test_every_command_is_there_and_speaks_json(call):
    code, out, _ = call("--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", out)
        code, help_text, _ = call(command, "--help")
        assert code == 0
        assert "--json" in help_text


@pytest.mark.parametrize(
    "arguments", [("run", "--bogus"), ("runn",), ("run", "x", "--timeout", "soon"), ("run",)]
)
def test_a_wrong_call_is_a_usage_error_without_a_stack_trace(call, arguments):
    code, _, err = call(*arguments)

    assert code == ExitCode.USAGE
    assert "Traceback" not in err
    assert err


def test_a_wrong_call_with_json_is_one_document(call):
    code, out, _ = call("run", "--bogus", "--json")

    assert json.loads(out)["exit_code"] == code == ExitCode.USAGE


def test_a_failure_is_told_as_expected_found_remedy(call, tmp_path):
    code, out, err = call("run", "a task", "--workspace", str(tmp_path / "none"), "--json")

    assert code == ExitCode.BAD_WORKSPACE
    assert set(json.loads(out)["error"]) == {"kind", "expected", "found", "remedy"}
    assert "expected" in err
    assert "found" in err


def test_without_engine_and_stack_a_command_says_how_to_start(call, program):
    program("docker", "sys.exit('Cannot connect to the Docker daemon')")

    code, _, err = call("traces")

    assert code == ExitCode.NOT_RUNNING
    assert "./paddock demo" in err


def test_up_without_an_engine_is_refused_and_names_the_embedded_way(call, program):
    program("docker", "sys.exit('Cannot connect to the Docker daemon')")

    code, _, err = call("up")

    assert code == ExitCode.NO_ENGINE
    assert "--embedded" in err


def test_bad_settings_are_told_before_anything_else(call, monkeypatch):
    monkeypatch.setenv("MLFLOW_PORT", "many")

    code, _, err = call("up")

    assert code == ExitCode.BAD_SETTINGS
    assert "MLFLOW_PORT" in err


def test_a_defect_leaves_its_trace_in_a_log_and_not_on_the_screen(call, monkeypatch, where):
    monkeypatch.setattr(selection, "running", lambda *_: 1 / 0)

    code, out, err = call("status", "--json")

    assert code == ExitCode.UNEXPECTED
    assert json.loads(out)["exit_code"] == ExitCode.UNEXPECTED
    assert "Traceback" not in err
    (log,) = where.logs.glob("failure-*.log")
    assert "ZeroDivisionError" in log.read_text()


def test_removing_data_asks_first(call, where, monkeypatch):
    removed = []

    class Fake:
        kind = "embedded"

        def down(self, volumes):
            removed.append(volumes)

    monkeypatch.setattr(selection, "running", lambda *_: Fake())
    monkeypatch.setattr("sys.stdin", io.StringIO())

    assert call("down", "--volumes")[0] == ExitCode.DECLINED
    assert removed == []
    assert call("down", "--volumes", "--yes")[0] == 0
    assert call("down")[0] == 0
    assert removed == [True, False]


def test_exit_codes_differ_and_every_failure_has_one_of_its_own_kind():
    assert len(set(ExitCode)) == len(list(ExitCode))

    def tree(kind):
        return [kind, *(one for sub in kind.__subclasses__() for one in tree(sub))]

    codes = [kind.exit_code for kind in tree(CliError)[1:]]
    assert len(set(codes)) == len(codes)
    assert ExitCode.UNEXPECTED not in codes


def test_it_starts_quickly_enough_to_import_nothing_large():
    """The list of modules stands for the time: these take longer than everything else together."""
    code = "import sys; sys.argv = ['paddock', '--help']; from paddock_cli.__main__ import main; main(); "
    code += "print([m for m in ('httpx', 'pydantic', 'mlflow', 'dotenv', 'psutil') if m in sys.modules])"

    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)

    assert done.stdout.splitlines()[-1] == "[]"


# Which stack


def test_the_stack_that_was_brought_up_last_is_meant(where, program):
    program("docker", "sys.exit('no engine')")
    (where.state / "stack").write_text("embedded")

    assert selection.running(where, load(where, {})).kind == "embedded"


def test_without_a_note_a_machine_without_engine_has_no_stack(where, program):
    program("docker", "sys.exit('no engine')")

    with pytest.raises(NotRunning, match="no engine"):
        selection.running(where, load(where, {}))


def test_demo_falls_back_and_says_so(where, program, capsys):
    program("docker", "sys.exit('no engine')")

    stack = selection.to_start(where, load(where, {}), embedded=False, fall_back=True)

    assert stack.kind == "embedded"
    assert "No Docker engine to use (no engine)" in capsys.readouterr().err
    assert selection.last(where) == "embedded"


def test_up_does_not_fall_back(where, program):
    program("docker", "sys.exit('no engine')")

    with pytest.raises(EngineMissing):
        selection.to_start(where, load(where, {}), embedded=False, fall_back=False)
    assert selection.last(where) is None


def test_a_password_is_new_once(where):
    assert selection.password_is_new(where, "one")
    assert not selection.password_is_new(where, "one")
    assert selection.password_is_new(where, "two")
    assert "two" not in (where.state / "password-shown").read_text()


def test_two_calls_do_not_change_the_stack_at_once(where, capsys):
    order = []

    def second():
        with selection.changing(where):
            order.append("second")

    with selection.changing(where):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)

    assert order == ["first", "second"]
    assert "waiting for it" in capsys.readouterr().err


# What a run is asked for


RESULT = Result(run_id="r", trace_id="tr-1", outcome="finished", exit_code=0, endpoint="coder")


class FakeServer:
    """Enough of MLflow for a report."""

    def endpoints(self):
        return {"coder": "the demo model"}

    def trace(self, trace_id):
        return Trace(trace_id, "1", "OK", "", 1.0, "", "", {}, 0.5, {}, {}, ())

    def trace_link(self, experiment_id, trace_id):
        return f"link {trace_id}"

    def experiment_link(self, experiment_id):
        return "link"


def test_who_is_tired_of_the_judges_still_gets_the_figures(monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "judge_run", interrupted)

    report = task.judged(FakeServer(), RESULT, ["x"], "ann", 5)

    assert (report.trace.cost, report.verdicts) == (0.5, {})
    assert "interrupted" in report.notes[0]


@pytest.mark.parametrize("outcome", ["max_iterations", "error", "interrupted"])
def test_judges_are_not_waited_for_where_the_run_did_not_finish(monkeypatch, outcome):
    monkeypatch.setattr(judging, "judge_run", lambda *_: pytest.fail("asked"))

    report = task.judged(FakeServer(), RESULT.model_copy(update={"outcome": outcome}), ["x"], "ann", 5)

    assert outcome in report.notes[0]


def test_a_run_has_its_figures_where_mlflow_was_stopped_meanwhile():
    class Stopped(FakeServer):
        def trace(self, trace_id):
            raise ServerFailed("MLflow to answer", "connection refused", "look at it: ./paddock status")

    terminated = RESULT.model_copy(update={"outcome": "terminated", "exit_code": 143})
    report = task.judged(Stopped(), terminated, [], "ann", 5)

    assert (report.result, report.trace, report.as_json()["exit_code"]) == (terminated, None, 143)
    assert "connection refused" in report.notes[0]


def test_the_report_is_one_json_document():
    report = task.judged(FakeServer(), RESULT, [], "ann", 0)

    document = json.loads(json.dumps(report.as_json()))
    assert document["run"]["served_by"] == "the demo model"
    assert document["links"]["trace"] == "link tr-1"
    assert document["exit_code"] == 0


def test_the_current_folder_is_the_workspace(where, tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")

    request = task.request_of(Order("do it"), where)

    assert request.workspace == tmp_path / "project"
    assert (request.endpoint, request.tools) == ("coder", "terminal,file_editor,task_tracker")
    assert request.user


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "  "}, "task"),
        ({"task": "x" * 100_001}, "100000 bytes"),
        ({"endpoint": "a b"}, "endpoint"),
        ({"tools": "terminal,hammer"}, "hammer"),
        ({"tags": ["novalue"]}, "novalue"),
        ({"resume": "not-a-uuid"}, "UUID"),
    ],
)
def test_what_makes_no_sense_is_refused(where, tmp_path, changes, told):
    with pytest.raises(UsageFailed, match=told):
        task.request_of(Order(**({"task": "do it", "workspace": tmp_path} | changes)), where)


def test_a_resume_takes_what_it_is_not_told_from_the_note(where, tmp_path):
    from paddock_cli import runs

    folder = tmp_path / "project"
    folder.mkdir()
    first = task.request_of(Order("do it", workspace=folder, endpoint="special", tools="terminal"), where)
    runs.note(where, first, "embedded")

    again = task.request_of(Order("", resume=first.run_id), where)

    assert (again.workspace, again.endpoint, again.tools) == (folder, "special", "terminal")
    assert (again.run_id, again.task, again.resume) == (first.run_id, "", True)


def test_a_run_that_is_not_here_is_not_found(where):
    with pytest.raises(NotFound, match="00000000"):
        task.request_of(Order("", resume="00000000-0000-4000-8000-000000000000"), where)
