"""MLflow with the plugin, whole and in this process, on SQLite."""

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
# What is tested, and the modules beside the tests.
sys.path[:0] = [str(ROOT / "mlflow"), str(Path(__file__).parent)]

from endpoints_made import make_endpoint  # noqa: E402
from identities import ADMIN, SECRETS  # noqa: E402
from otlp_recordings import Recording  # noqa: E402
from postgres import postgres_server, postgres_url, sqlite_template, sqlite_url  # noqa: E402, F401
from stock import stock, stock_provider  # noqa: E402, F401


@dataclass
class Server:
    """The web application, and a client of it that has no network between."""

    # Typed loosely: MLflow reads its environment at import, so nothing may import it before the fixtures.
    http: Any
    client: Any
    store: Any


@pytest.fixture(scope="package")
def settings_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The environment of an embedded server, taken back after the last test of this folder."""
    folder = tmp_path_factory.mktemp("server")
    secrets = folder / "secrets"
    secrets.mkdir()
    for name, value in SECRETS.items():
        (secrets / name).write_text(value)
    before = dict(os.environ)
    os.environ |= {
        "SECRETS_DIR": str(secrets),
        "DATABASE_URL": f"sqlite:///{folder}/mlflow.db",
        "AUTH_DATABASE_URL": f"sqlite:///{folder}/auth.db",
        "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_URL": "http://127.0.0.1:5000",
        "DEMO_MODEL_URL": "http://demo-model:8000/v1",
    }
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="package")
def server(settings_environment: Path) -> Iterator[Server]:
    """The application as `python -m paddock_mlflow serve` makes it, with the endpoint `coder` on the demo model."""
    from paddock_mlflow import environment, settings
    from paddock_mlflow.migrate import migrate

    loaded = settings.load()
    environment.export(loaded)
    environment.export_web(loaded)
    migrate(loaded)

    from mlflow import MlflowClient
    from mlflow.server.handlers import _get_tracking_store
    from starlette.testclient import TestClient

    from paddock_mlflow import identity, logins
    from paddock_mlflow.server import create_app

    # Tests send more wrong passwords than anybody may; test_logins.py has attempts of its own.
    many = logins.Rate(1_000_000, 1.0)
    identity._ATTEMPTS = logins.Attempts(address=many, user=many, pair=many)

    app = create_app()
    with TestClient(app, base_url="http://127.0.0.1:5000", raise_server_exceptions=False) as http:
        made = Server(http, MlflowClient(os.environ["DATABASE_URL"]), _get_tracking_store())
        make_endpoint(made, "coder", "demo")
        user = {"username": "agent", "password": "a-password-that-nobody-uses"}
        assert http.post("/api/2.0/mlflow/users/create", json=user, auth=ADMIN).status_code == 200
        stack_key = {"endpoints": ["coder"], "experiments": []}
        assert http.put("/api/3.0/paddock/keys/stack", json=stack_key, auth=ADMIN).status_code == 200
        yield made


@pytest.fixture
def experiment(server: Server, request: pytest.FixtureRequest) -> str:
    """The id of an experiment of the test's own."""
    return server.client.create_experiment(f"{request.node.name}-{os.urandom(4).hex()}")


Deliver = Callable[[Recording], None]


@pytest.fixture
def deliver(server: Server, experiment: str) -> Deliver:
    """Send a recording as the SDK does: gzipped protobuf, one request after the other."""

    def send(recording: Recording) -> None:
        for request in recording.requests:
            answer = server.http.post(
                "/v1/traces",
                content=gzip.compress(request.SerializeToString()),
                headers={
                    "content-type": "application/x-protobuf",
                    "content-encoding": "gzip",
                    "x-mlflow-experiment-id": experiment,
                },
                auth=ADMIN,
            )
            assert answer.status_code == 200, answer.text

    return send
