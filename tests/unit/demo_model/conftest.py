"""A demo model in this process, and one behind a real socket."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "services" / "demo-model"), str(Path(__file__).parent)]

import uvicorn  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402
from workbench import SCENARIOS, STANDARD, Workbench  # noqa: E402

from paddock_demo_model.recording import Recorder  # noqa: E402
from paddock_demo_model.scenarios import load_scenarios  # noqa: E402
from paddock_demo_model.server import DemoModel  # noqa: E402
from paddock_demo_model.transport import ResettableProtocol  # noqa: E402


@pytest.fixture
def client() -> TestClient:
    """A client of a fresh demo model with the scenarios of tests/scenarios."""
    model = DemoModel(load_scenarios(SCENARIOS), recorder=Recorder())
    return TestClient(model.app(), raise_server_exceptions=False)


@pytest.fixture
def workbench(client: TestClient, tmp_path: Path) -> Callable[..., Workbench]:
    """Makes a workbench in an empty folder "project"."""

    def make(tools: tuple[str, ...] = STANDARD) -> Workbench:
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        return Workbench(client, folder, tools)

    return make


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Base URL of a demo model behind a socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = DemoModel(load_scenarios(SCENARIOS)).app()
    config = uvicorn.Config(app, http=ResettableProtocol, ws="none", lifespan="off", log_config=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not running.started:
        assert time.monotonic() < deadline, "the server did not start within 10 s"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)
