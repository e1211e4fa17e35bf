"""A demo model in this process, and one behind a real socket."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "services" / "demo-model"), str(Path(__file__).parent)]

from sockets import served  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402
from workbench import SCENARIOS, STANDARD, Workbench  # noqa: E402

from paddock_demo_model.recording import Recorder  # noqa: E402
from paddock_demo_model.scenarios import load_scenarios  # noqa: E402
from paddock_demo_model.server import DemoModel  # noqa: E402


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
    with served(DemoModel(load_scenarios(SCENARIOS)).app()) as url:
        yield url
