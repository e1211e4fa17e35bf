"""The cases of both stacks, and what is peculiar to the embedded one."""

import os
import signal
import stat
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cases import ROOT, TASK, EndToEnd, Product, eventually, lines_of, require_every_step_once


class TestEmbedded(EndToEnd):
    """Every shared case, without Docker."""


def test_the_demo_ends_judged_and_says_that_there_is_no_fence(product: Product) -> None:
    answer = product.paddock("demo", "--embedded", "--json")

    assert answer.code == 0, answer.err
    assert "NOT fenced" in answer.err
    judges = answer.document["judges"]
    assert {name: verdict["value"] for name, verdict in judges.items()} == {
        "conduct": "yes",
        "correctness": "yes",
        "relevance_to_query": "yes",
        "tool_call_efficiency": "yes",
    }


@pytest.fixture
def kiosk() -> Iterator[str]:
    """A page that needs JavaScript to show anything; its address."""
    folder = ROOT / "suites" / "workspaces" / "noticeboard" / "kiosk"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.requires_browser
def test_the_browser_starts_though_the_home_is_closed(product: Product, tmp_path: Path, kiosk: str) -> None:
    answer = product.paddock(
        *["run", f"Read {kiosk}", "--tools", "terminal,browser", "--judge-timeout", "0", "--json"],
        cwd=tmp_path,
    )

    assert answer.code == 0, answer.err
    assert "Lindqvist" in answer.document["run"]["message"], answer.document


@pytest.mark.parametrize("command", [["up", "--embedded"], ["run", TASK]])
def test_who_asks_for_another_runtime_gets_no_run_without_a_container(
    product: Product, tmp_path: Path, command: list[str]
) -> None:
    answer = product.paddock(*command, "--json", cwd=tmp_path, env={"AGENT_RUNTIME": "runsc"})

    assert answer.code == 25
    assert "the embedded stack, which has none" in answer.document["error"]["found"]
    assert not (tmp_path / "FACTS.txt").exists()


def test_the_demo_shows_a_table_with_figures_verdicts_and_links(product: Product, tmp_path: Path) -> None:
    answer = product.paddock("demo", "--embedded", "--workspace", str(tmp_path))

    assert answer.code == 0, answer.err
    for shown in (
        "steps",
        "tools",
        "tokens",
        "cost",
        "time",
        "correctness",
        "relevance_to_query",
        "/#/experiments/",
    ):
        assert shown in answer.out
    assert "demo model" in answer.out
    assert len((tmp_path / "FACTS.txt").read_text().splitlines()) == 3


def test_without_docker_the_demo_goes_embedded_by_itself(product: Product, tmp_path: Path) -> None:
    # Nothing listens there, as where no engine is installed.
    env = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}

    answer = product.paddock("demo", "--workspace", str(tmp_path), "--judge-timeout", "0", "--json", env=env)

    assert answer.code == 0, answer.err
    assert "Running EMBEDDED" in answer.err


def test_a_killed_agent_can_be_resumed_from_where_it_was(product: Product, tmp_path: Path) -> None:
    endpoint = product.scenario("long-run")
    steps = tmp_path / "steps.log"
    call = product.start("run", TASK, "--endpoint", endpoint, "--json", cwd=tmp_path)
    eventually(lambda: len(lines_of(steps)) >= 2, 90, "two steps")
    runs = Path(product.env["PADDOCK_STATE_DIR"]) / "runs"
    from paddock_cli import processes

    pids = {path: processes.noted(path) for path in runs.glob("*.agent.pid")}
    path, known = next((path, known) for path, known in pids.items() if known and known.process())

    os.kill(known.pid, signal.SIGKILL)
    call.communicate(timeout=30)
    done = len(lines_of(steps))

    assert call.returncode == 31
    resumed = product.paddock(
        "run", "--resume", path.name.removesuffix(".agent.pid"), "--judge-timeout", "0", "--json", timeout=240
    )
    assert resumed.code == 0, resumed.err
    require_every_step_once(steps, done)


def test_secrets_are_readable_by_their_owner_alone(product: Product) -> None:
    state = Path(product.env["PADDOCK_STATE_DIR"])

    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    secrets = list((state / "embedded" / "secrets").iterdir())
    assert secrets
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def test_it_listens_on_loopback_only(product: Product) -> None:
    import psutil

    from paddock_cli import processes

    folder = Path(product.env["PADDOCK_STATE_DIR"]) / "embedded"
    listening = set()
    for name in ("demo-model", "mlflow", "mlflow-jobs"):
        known = processes.noted(folder / f"{name}.pid")
        assert known is not None
        for process in [psutil.Process(known.pid), *psutil.Process(known.pid).children(recursive=True)]:
            listening |= {one.laddr.ip for one in process.net_connections("tcp") if one.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


def test_a_provider_key_is_in_no_process_environment(tmp_path: Path, product: Product) -> None:
    """A stack of its own: the key changes which model serves."""
    env = product.env | {
        "PADDOCK_STATE_DIR": str(tmp_path / "state"),
        "OPENAI_API_KEY": "sk-canary-7f3a",
        # Once its stack is gone, commands mean Compose: not the stack that the user may run there.
        "COMPOSE_PROJECT_NAME": "pdktest-none",
    }
    own = Product("embedded", env, model_url="")
    try:
        answer = own.paddock("up", "--embedded", "--json")
        assert answer.code == 0, answer.err
        import psutil

        from paddock_cli import processes

        for name in ("demo-model", "mlflow", "mlflow-jobs"):
            known = processes.noted(tmp_path / "state" / "embedded" / f"{name}.pid")
            assert known is not None
            for process in [psutil.Process(known.pid), *psutil.Process(known.pid).children(recursive=True)]:
                assert "sk-canary-7f3a" not in " ".join(process.environ().values()) + " ".join(
                    process.cmdline()
                )
        secret = tmp_path / "state" / "embedded" / "secrets" / "openai_api_key"
        assert secret.read_text() == "sk-canary-7f3a"
    finally:
        down = own.paddock("down", "--volumes", "--yes", "--json")
    assert down.code == 0, down.err
    assert not (tmp_path / "state" / "embedded").exists()
    assert not (tmp_path / "state" / "provider.env").exists()
    (tmp_path / "project").mkdir()
    assert own.paddock("run", TASK, cwd=tmp_path / "project").code == 29


def test_a_taken_port_is_named(tmp_path: Path, product: Product) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        own = Product(
            "embedded", product.env | {"PADDOCK_STATE_DIR": str(tmp_path), "MLFLOW_PORT": port}, model_url=""
        )

        answer = own.paddock("up", "--embedded")

    assert answer.code == 24
    assert port in answer.err
    assert "MLFLOW_PORT" in answer.err


@pytest.mark.parametrize("command", ["status", "traces", "password", "env", "logs"])
def test_without_a_stack_a_command_says_how_to_start_one(
    tmp_path: Path, product: Product, command: str
) -> None:
    (tmp_path / "stack").write_text("embedded")
    own = Product("embedded", product.env | {"PADDOCK_STATE_DIR": str(tmp_path)}, model_url="")

    answer = own.paddock(command)

    assert answer.code in (29, 0 if command == "logs" else 29)
    assert "Traceback" not in answer.err
