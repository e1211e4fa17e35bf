"""--secret: the value comes from the shell or the settings file, and goes to the runner alone."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from paddock_cli import runs, task
from paddock_cli.errors import UsageFailed
from paddock_cli.stack import AgentProcess
from paddock_cli.task import Order


@pytest.fixture
def asked(where, tmp_path):
    project = tmp_path / "project"
    project.mkdir()

    def ask(*secrets, **changes):
        return task.request_of(
            Order(**({"task": "do it", "workspace": project, "secrets": list(secrets)} | changes)), where
        )

    return ask


def test_the_value_is_the_shells_or_else_the_settings_files(asked, where, monkeypatch):
    where.env_file.write_text("DEPLOY_TOKEN=from-the-file\nOTHER_TOKEN='also from the file'\n")
    monkeypatch.setenv("DEPLOY_TOKEN", "from-the-shell")

    made = asked("DEPLOY_TOKEN", "OTHER_TOKEN")

    assert made.secrets == {"DEPLOY_TOKEN": "from-the-shell", "OTHER_TOKEN": "also from the file"}
    assert "from-the-shell" not in repr(made)
    assert "from-the-shell" not in " ".join(made.arguments("/workspace", "/state"))
    assert json.loads(made.handover())["secrets"] == made.secrets


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DEPLOY_TOKEN", None, "the variable DEPLOY_TOKEN"),
        ("DEPLOY_TOKEN", "", "the variable DEPLOY_TOKEN"),
        ("DEPLOY_TOKEN", "1234567", "at least 8 characters"),
        ("DEPLOY_TOKEN=given-in-the-call", None, "without a value"),
        ("DEPLOY-TOKEN", None, "a variable's name"),
        ("OPENAI_API_KEY", "sk-0123456789", "key of the stack's own"),
        ("S3_SECRET_KEY", "0123456789", "key of the stack's own"),
    ],
)
def test_what_can_not_be_a_secret_is_refused_without_its_value(asked, monkeypatch, name, value, told):
    if value is not None:
        monkeypatch.setenv(name, value)

    with pytest.raises(UsageFailed) as caught:
        asked(name)

    said = f"{caught.value.expected} {caught.value.found} {caught.value.remedy}"
    assert told in said
    assert "given-in-the-call" not in said
    assert not value or value not in said


def test_a_note_names_secrets_and_a_resume_asks_for_them_again(asked, where, tmp_path, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", "the-first-value")
    servers = tmp_path / "mcp.json"
    servers.write_text(json.dumps({"mcpServers": {"one": {"command": "x", "env": {"KEY": "a-value-of-it"}}}}))
    first = asked("DEPLOY_TOKEN", mcp=servers, tags=["team=web"])
    runs.note(where, first, "compose")

    kept = runs.note_path(where, first.run_id).read_text()
    monkeypatch.setenv("DEPLOY_TOKEN", "the-second-value")
    again = task.request_of(Order("", resume=first.run_id), where)

    assert "DEPLOY_TOKEN" in kept
    assert "the-first-value" not in kept
    assert "a-value-of-it" not in kept
    assert again.secrets == {"DEPLOY_TOKEN": "the-second-value"}
    assert again.mcp == first.mcp
    assert again.tags == ("team=web",)
    assert again.begun_with == "do it"
    monkeypatch.delenv("DEPLOY_TOKEN")
    with pytest.raises(UsageFailed, match="DEPLOY_TOKEN"):
        task.request_of(Order("", resume=first.run_id), where)


def test_a_handover_larger_than_a_pipe_reaches_a_slow_reader(asked, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", "a-secret-value")
    code = "import sys, time; time.sleep(0.5); print(len(sys.stdin.read())); sys.stderr.write('bad a-secret-value here')"
    wanted = replace(asked("DEPLOY_TOKEN"), mcp={"mcpServers": {"x": {"command": "y" * 200_000}}})

    agent = AgentProcess(_process(code), wanted)

    assert [int(line) > 100_000 for line in agent.lines()] == [True]
    assert agent.wait() == 0
    # What a library says on standard error is shown where a run fails.
    assert agent.errors() == "bad <secret-hidden> here"


def test_a_runner_that_reads_nothing_is_no_failure_of_its_own(asked, monkeypatch):
    monkeypatch.setenv("LARGE_SECRET", "x" * 100_000)

    agent = AgentProcess(_process("print('gone')"), asked("LARGE_SECRET"))

    assert list(agent.lines()) == ["gone\n"]
    assert agent.wait() == 0


def _process(code):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_the_fence_has_and_lacks_is_shown(monkeypatch):
    from rich.console import Console

    from paddock_cli import console, render

    stream = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=stream, width=400))
    seen = {
        "landlock": {"applied": True, "abi": 4, "reason": "ABI 4 can't hold signals back"},
        "runtime": "runsc",
        "container": True,
        "seccomp": "filter",
        "no_new_privs": True,
        "uid": 1000,
        "capabilities": ["net_raw"],
        "read_only_root": True,
        "default_route": None,
    }
    render.LiveRun(to_stderr=False).started(runs.Started(run_id="r-1", isolation=seen))

    assert (
        "container · runtime runsc · Landlock ABI 4 · seccomp filter · no new privileges · uid 1000"
        in stream.getvalue()
    )
    assert "no fence: Landlock: ABI 4 can't hold signals back" in stream.getvalue()
    assert "no fence: capabilities: net_raw" in stream.getvalue()
    # Not known is neither.
    assert "route" not in stream.getvalue()
