"""A declared secret reaches the command that names it, and stands nowhere else: output, state, spans, environment."""

import base64
import hashlib
import json
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import Ended, Runner
from scenarios import SECRET

KEY = "pdk_the-key-of-this-run-alone"
HANDOVER = json.dumps({"llm_api_key": KEY, "secrets": {"DEPLOY_TOKEN": SECRET}})
TELLING_SERVER = '''
import os
from mcp.server.fastmcp import FastMCP

server = FastMCP("telling")


@server.tool()
def tell() -> str:
    """Tells what it knows."""
    return f"token {os.environ['SERVICE_TOKEN']} in {os.environ['REGION']}"


server.run(transport="stdio")
'''


def run(runner: Runner, scenario: str, *arguments: str, handover: str = HANDOVER, **options: object) -> Ended:
    return runner.run(
        "use it",
        "--endpoint",
        f"scenario/{scenario}",
        "--handover",
        *arguments,
        stdin=handover,
        LLM_API_KEY=None,
        **options,
    )


def forms(value: str) -> list[str]:
    """What can be found of the value, however it is written."""
    data = value.encode()
    # Its end, which is the same in JSON of any depth.
    found = [value, value[-14:], quote(value, safe=""), data.hex()]
    # Of `user:` and the value; the ends share their characters with the neighbours.
    return [
        *found,
        base64.b64encode(b"user:" + data).decode()[8:-4],
        base64.b64encode(data).decode()[:-4],
    ]


def everything(runner: Runner, ended: Ended) -> str:
    """All that a run leaves and sends, as one text; the workspace, which belongs to the user, left out."""
    files = [path for folder in (runner.state, runner.home) for path in folder.rglob("*") if path.is_file()]
    kept = "\n".join(path.read_text(errors="replace") for path in files)
    spans = repr(runner.collector.spans)
    assert "events" in str(files)
    assert ended.result["trace_id"].removeprefix("tr-") in spans
    return "\n".join([ended.out, ended.err, kept, spans, repr(runner.collector.headers)])


def test_a_secret_reaches_its_command_and_is_hidden_everywhere(runner: Runner) -> None:
    ended = run(runner, "secret")
    assert ended.code == 0, ended.err
    # The tool had the real one.
    proof = hashlib.sha256(SECRET.encode()).hexdigest()
    assert (runner.workspace / "proof.txt").read_text().split()[0] == proof
    left = everything(runner, ended)
    assert proof not in left
    assert [form for form in forms(SECRET) if form in left] == []
    assert "<secret-hidden>" in ended.out
    assert "DEPLOY_TOKEN" in ended.out
    # The model is told the name, and nothing more than that.
    told = json.dumps(runner.provider.calls()[0])
    assert "DEPLOY_TOKEN" in told
    assert [form for form in forms(SECRET) if form in told] == []


def test_what_the_model_sees_of_its_tools_is_masked_too(runner: Runner) -> None:
    run(runner, "secret")
    conversation = json.dumps(runner.provider.calls()[1])
    assert "<secret-hidden>" in conversation
    assert [form for form in forms(SECRET) if form in conversation] == []


def test_the_runs_key_is_masked_and_stands_in_no_environment(runner: Runner) -> None:
    (runner.workspace / "probe.sh").write_text(
        "until [ -s pid ]; do sleep 0.02; done\nenv | grep -c pdk_\n"
        "tr '\\0' '\\n' </proc/$(cat pid)/environ | grep -c pdk_\n"
        f"echo {KEY}\n"
    )
    running = runner.start(
        "look", "--endpoint", "scenario/probe", "--handover", stdin=HANDOVER, LLM_API_KEY=None
    )
    (runner.workspace / "pid.new").write_text(str(running.pid))
    (runner.workspace / "pid.new").rename(runner.workspace / "pid")
    ended = running.end()
    assert ended.code == 0, ended.err
    observed = next(event for event in ended.events if event["kind"] == "ObservationEvent")
    assert observed["summary"].strip().startswith("0")
    assert KEY not in everything(runner, ended)


@pytest.mark.parametrize(
    "headers", ["x-mlflow-experiment-id=7", "x-mlflow-experiment-id=7,Authorization=Basic%20eA"]
)
def test_spans_are_known_by_the_runs_key_unless_they_have_an_identity(runner: Runner, headers: str) -> None:
    assert run(runner, "secret", cold=True, OTEL_EXPORTER_OTLP_HEADERS=headers).code == 0
    sent = [{name.lower(): value for name, value in request.items()} for request in runner.collector.headers]
    assert {request["authorization"] for request in sent} == {
        "Basic eA" if "Basic" in headers else f"Bearer {KEY}"
    }
    assert {request["x-mlflow-experiment-id"] for request in sent} == {"7"}


@pytest.mark.parametrize(("scenario", "code"), [("secret-in-an-answer", 0), ("secret-in-an-error", 1)])
def test_a_secret_in_the_last_words_is_hidden(runner: Runner, scenario: str, code: int) -> None:
    ended = run(runner, scenario)
    assert ended.code == code
    assert "<secret-hidden>" in ended.result["message"]
    assert [form for form in forms(SECRET) if form in everything(runner, ended)] == []


def test_text_for_people_is_masked(runner: Runner) -> None:
    ended = run(runner, "secret-in-an-answer", "--output", "text")
    assert "It is <secret-hidden>." in ended.out
    assert SECRET not in ended.out + ended.err


def test_a_resumed_run_has_its_secrets_from_the_new_handover(runner: Runner) -> None:
    first = run(runner, "secret")
    (runner.workspace / "proof.txt").unlink()
    again = runner.run(
        "once more",
        *["--resume", first.result["run_id"], "--endpoint", "scenario/secret", "--handover"],
        stdin=json.dumps({"secrets": {"DEPLOY_TOKEN": SECRET}, "task": "what the note says"}),
    )
    assert again.code == 0, again.err
    assert [form for form in forms(SECRET) if form in everything(runner, again)] == []
    inputs = runner.collector.root(again.result["trace_id"]).attributes["mlflow.spanInputs"]
    assert inputs == '"what the note says"'


def test_the_variables_of_mcp_servers_are_secrets(runner: Runner) -> None:
    (runner.workspace / "telling.py").write_text(TELLING_SERVER)
    variables = {"SERVICE_TOKEN": SECRET, "REGION": "north"}
    servers = {"telling": {"command": sys.executable, "args": ["telling.py"], "env": variables}}
    ended = run(runner, "mcp-tells", handover=json.dumps({"mcp": {"mcpServers": servers}}))
    assert ended.code == 0, ended.err + ended.out[-2000:]
    assert "token <secret-hidden> in north" in ended.out
    assert [form for form in forms(SECRET) if form in everything(runner, ended)] == []


def test_a_shell_keeps_no_history(runner: Runner) -> None:
    run(runner, "secret")
    assert not list(runner.home.rglob("*history*"))


@pytest.mark.parametrize(
    ("handover", "words"),
    [
        ("", "found no JSON"),
        ("{", "found no JSON"),
        ("[1]", "something else"),
        (json.dumps({"secrets": {"PIN": "1234567"}}), "at least 8 characters in PIN"),
        (json.dumps({"secrets": {"NOT A NAME": "1234567890"}}), "a variable's name"),
        (json.dumps({"secret": {"A": "b"}}), "secret: extra inputs"),
        (json.dumps({"mcp": {"servers": {}}}), "mcpServers"),
    ],
)
def test_a_handover_that_can_not_be_used(runner: Runner, handover: str, words: str) -> None:
    ended = run(runner, "short", handover=handover)
    assert ended.code == 2
    assert words.lower() in ended.lines[0]["message"].lower()
    assert "1234567" not in ended.out + ended.err
    assert not list(Path(runner.state).glob("runs/*"))


def test_the_task_and_the_handover_can_not_both_be_on_standard_input(runner: Runner) -> None:
    ended = runner.run("-", "--handover", stdin=HANDOVER)
    assert ended.code == 2
    assert "expected the task as an argument" in ended.out
