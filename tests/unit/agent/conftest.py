"""A scripted provider, a trace receiver, and runs as processes of their own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any

import httpx
import psutil
import pytest
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE))
pytest.register_assert_rewrite("otlp")

from otlp import Received, receiver  # noqa: E402
from scenarios import scenarios  # noqa: E402

START_SECONDS = 180
RUN_SECONDS = 120


@dataclass
class Ended:
    """What a run left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of standard output; fails where anything else was printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def started(self) -> dict[str, Any]:
        line = self.lines[0]
        assert line["type"] == "started", line
        return line

    @property
    def result(self) -> dict[str, Any]:
        assert self.out, f"no output; standard error:\n{self.err}"
        line = self.lines[-1]
        assert line["type"] == "result", line
        return line

    @property
    def events(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == "event"]


class Running:
    """A run under way."""

    def __init__(self, pid: int, wait: Callable[[float], int], out: Path, err: Path) -> None:
        self.pid = pid
        self._wait = wait
        self._out, self._err = out, err

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def read(self) -> str:
        """Standard output so far."""
        return self._out.read_text()

    def until(self, condition: Callable[[], object], what: str, seconds: float = RUN_SECONDS) -> None:
        """Polls until the condition holds; fails with the run's output at the deadline."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"no {what} within {seconds} s\n{self.read()}\n{self._err.read_text()}")
            time.sleep(0.02)

    def end(self, seconds: float = RUN_SECONDS) -> Ended:
        code = self._wait(seconds)
        return Ended(code, self._out.read_text(), self._err.read_text())


class Runner:
    """Starts runs in a workspace and a state folder of the test's own."""

    def __init__(self, folder: Path, warm: Path, provider: "Provider", collector: Received) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self.state = folder / "state"
        self.home = folder / "home"
        for path in (self.workspace, self.state, self.home):
            path.mkdir()
        self._warm = warm
        self.provider = provider
        self.collector = collector
        self._count = 0
        self._running: list[int] = []
        self.umask = 0o022

    def environment(self, **changes: str | None) -> dict[str, str]:
        environment: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.folder),
            "LLM_BASE_URL": self.provider.url,
            "LLM_API_KEY": "key-of-the-run",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=7",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "PADDOCK_AGENT_WORKSPACE": str(self.workspace),
            "PADDOCK_AGENT_STATE_DIR": str(self.state),
            "PADDOCK_AGENT_OUTPUT": "jsonl",
            "PADDOCK_AGENT_LLM_RETRY_WAIT": "0",
            "PYTHONPATH": f"{ROOT / 'agent'}",
            **changes,
        }
        return {name: value for name, value in environment.items() if value is not None}

    def start(
        self,
        *arguments: str,
        cold: bool = False,
        stdin: str = "",
        stdout: IO[str] | None = None,
        **environment: str | None,
    ) -> Running:
        """Starts a run. A cold one is a fresh process, as users start it; the others skip the imports."""
        self._count += 1
        out, err = (self.folder / f"run-{self._count}.{name}" for name in ("out", "err"))
        with out.open("w") as out_file, err.open("w") as err_file, TemporaryFile("w+") as in_file:
            in_file.write(stdin)
            in_file.seek(0)
            if cold:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "paddock_agent", *arguments],
                    env=self.environment(**environment),
                    cwd=self.workspace,
                    stdout=out_file,
                    stderr=err_file,
                    stdin=in_file,
                    start_new_session=True,
                )
                running = Running(process.pid, process.wait, out, err)
            else:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(self._warm))
                request = {
                    "arguments": list(arguments),
                    "environment": self.environment(**environment),
                    "umask": self.umask,
                }
                socket.send_fds(
                    connection,
                    [json.dumps(request).encode()],
                    [in_file.fileno(), (stdout or out_file).fileno(), err_file.fileno()],
                )
                answers = connection.makefile()
                pid = int(answers.readline())

                def wait(seconds: float) -> int:
                    connection.settimeout(seconds)
                    with connection, answers:
                        return int(answers.readline())

                running = Running(pid, wait, out, err)
        self._running.append(running.pid)
        return running

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Starts a run and waits for its end."""
        return self.start(*arguments, **options).end()

    def clean(self) -> None:
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # A killed run leaves its terminal's server behind; it is known by the workspace that it was started in.
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if command and command[0].endswith("tmux") and str(self.workspace) in command:
                with suppress(psutil.Error):
                    process.kill()


class Provider:
    """The demo model with this suite's scenarios."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/v1"
        self._calls = f"{url}/calls"

    def calls(self) -> list[dict[str, Any]]:
        """The recorded requests of the current test."""
        calls: list[dict[str, Any]] = httpx.get(self._calls).raise_for_status().json()
        return calls

    def forget(self) -> None:
        httpx.delete(self._calls).raise_for_status()


@pytest.fixture(scope="session")
def page() -> Iterator[str]:
    """A local web page."""

    class Page(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html><title>Paddock</title><body><h1>Seven horses</h1></body></html>"
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory, page: str) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("scenarios")
    with socket.socket() as probe, socket.socket() as other:
        for one in (probe, other):
            one.bind(("127.0.0.1", 0))
        port, kiosk_port = probe.getsockname()[1], other.getsockname()[1]
    for name, scenario in scenarios(page, kiosk_port).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(scenario))
    log = folder / "demo-model.log"
    with log.open("w") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "paddock_demo_model"],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT / "services" / "demo-model"),
                "DEMO_LISTEN_PORT": str(port),
                "DEMO_SCENARIOS": str(folder),
                "DEMO_RECORD": "1",
            },
            stdout=log_file,
            stderr=log_file,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _until(partial(_answers, f"{url}/healthz"), process, log)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def session_collector() -> Iterator[Received]:
    with receiver() as received:
        yield received


@pytest.fixture(scope="session")
def warm(
    tmp_path_factory: pytest.TempPathFactory, demo_model: str, session_collector: Received
) -> Iterator[Path]:
    """Socket of a process that has imported the SDK; its exporter sends to the session's collector."""
    folder = tmp_path_factory.mktemp("warm")
    path, log = folder / "socket", folder / "log"
    with log.open("w") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "warm.py"), str(path)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "PYTHONPATH": str(ROOT / "agent"),
                "LLM_BASE_URL": f"{demo_model}/v1",
                "OTEL_EXPORTER_OTLP_ENDPOINT": session_collector.url,
                "OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=7",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "PADDOCK_AGENT_STATE_DIR": str(folder),
            },
            stdout=log_file,
            stderr=log_file,
        )
    try:
        _until(path.exists, process, log)
        yield path
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def provider(demo_model: str) -> Provider:
    provider = Provider(demo_model)
    provider.forget()
    return provider


@pytest.fixture
def collector(session_collector: Received) -> Iterator[Received]:
    session_collector.spans.clear()
    session_collector.headers.clear()
    yield session_collector
    session_collector.status = 200


@pytest.fixture
def runner(tmp_path: Path, warm: Path, provider: Provider, collector: Received) -> Iterator[Runner]:
    runner = Runner(tmp_path, warm, provider, collector)
    yield runner
    runner.clean()


def chromium_path() -> str:
    """The machine's Chromium, or an empty text."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        "",
    )


@pytest.fixture(scope="session")
def chromium() -> str:
    if not (found := chromium_path()):
        pytest.skip("no Chromium on this machine; Debian's package is called chromium")
    return found


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"a part of the tests did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)
