"""PostgreSQL as the stack runs it: its own image, one container for all tests, a database for each module.

The databases are copies of one that was migrated, so a module waits a fraction of a second for its own.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
IMAGE = f"paddock/postgres:{os.environ.get('PADDOCK_VERSION', '0.1.0')}"
READY_SECONDS = 180


@dataclass(frozen=True)
class PostgresServer:
    """A running container, and the role that owns what is made in it."""

    container: str
    port: int
    password: str

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg2://mlflow:{self.password}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str) -> str:
        """What a statement of the superuser answers."""
        return docker("exec", self.container, "psql", "-U", "postgres", "-qAtc", statement)

    def create(self, template: str) -> str:
        """A new database like `template`; returns its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name} OWNER mlflow TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.sql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def stop(self) -> None:
        """Take the server away as a crash would."""
        docker("kill", self.container)

    def start(self) -> None:
        """Bring it back, on the same port."""
        docker("start", self.container)
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        # Over TCP: the server that makes the cluster listens on its socket only.
        probe = ["docker", "exec", self.container, "pg_isready", "-q", "-h", "127.0.0.1", "-d", "mlflow"]
        while subprocess.run(probe, capture_output=True, check=False).returncode:
            running = docker("inspect", "--format", "{{.State.Running}}", self.container) == "true"
            if not running or time.monotonic() > deadline:
                logs = docker("logs", self.container)
                raise TimeoutError(f"PostgreSQL was not ready after {READY_SECONDS} s, or stopped:\n{logs}")
            time.sleep(0.2)


def docker(*arguments: str) -> str:
    """What a docker command prints; its error text where it fails."""
    answer = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"docker {' '.join(arguments[:2])} failed: {answer.stderr.strip()}")
    return answer.stdout.strip() or answer.stderr.strip()


def _missing() -> str:
    if not shutil.which("docker"):
        return "no docker program on PATH"
    answer = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=False
    )
    return (answer.stderr.strip() or "no engine answers") if answer.returncode else ""


def _make_image() -> None:
    """As `./paddock up` makes it: on a machine without a registry the base image comes first."""
    from paddock_cli import settings
    from paddock_cli.compose import ComposeStack

    where = settings.paths()
    ComposeStack(where, settings.load(where)).build("postgres")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(folder: Path) -> PostgresServer:
    password = secrets.token_hex(16)
    # Read by the container's own user.
    folder.chmod(0o755)
    for role in ("mlflow", "superuser"):
        (folder / f"postgres_{role}_password").write_text(password)
    # Chosen here: the engine would choose another one at each start.
    port = _free_port()
    container = docker(
        "run", "--detach", "--name", f"paddock-test-postgres-{secrets.token_hex(4)}",
        "--publish", f"127.0.0.1:{port}:5432", "--volume", f"{folder}:/run/secrets:ro",
        "--shm-size", "256m", IMAGE,
    )  # fmt: skip
    server = PostgresServer(container, port, password)
    try:
        server.wait()
    except BaseException:
        docker("rm", "--force", "--volumes", container)
        raise
    # The image lets the role into its two databases only.
    hba = "host all mlflow all scram-sha-256"
    docker("exec", container, "sh", "-c", f"echo '{hba}' >>$PGDATA/pg_hba.conf")
    # The machine's disk is no part of what is tested.
    server.sql("ALTER SYSTEM SET fsync = off")
    server.sql("SELECT pg_reload_conf()")
    return server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The container, with a migrated database `template_paddock`.

    Where no engine answers the tests that use it are skipped, unless `--require docker` says otherwise.
    """
    if reason := _missing():
        if "docker" in os.environ.get("PADDOCK_TEST_REQUIRE", "").split(","):
            pytest.fail(f"needs docker: {reason} (required by --require)", pytrace=False)
        pytest.skip(f"needs docker: {reason}")
    _make_image()
    folder = tmp_path_factory.mktemp("postgres")
    server = _run(folder)
    try:
        server.sql("CREATE DATABASE template_paddock OWNER mlflow")
        migrate(server.url("template_paddock"), folder)
        yield server
    finally:
        docker("rm", "--force", "--volumes", server.container)


@pytest.fixture(scope="module")
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy's URL of a database with all tables, of this module's own."""
    url = postgres_server.create("template_paddock")
    yield url
    postgres_server.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to copy."""
    folder = tmp_path_factory.mktemp("sqlite")
    migrate(f"sqlite:///{folder}/template.db", folder)
    return folder / "template.db"


@pytest.fixture(scope="module")
def sqlite_url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SQLAlchemy's URL of a file with all tables, of this module's own."""
    copy = tmp_path_factory.mktemp("sqlite") / "mlflow.db"
    shutil.copy(sqlite_template, copy)
    return f"sqlite:///{copy}"


def migrate(url: str, folder: Path) -> None:
    """Make MLflow's tables and ours, in a process of its own: this one may not have imported MLflow yet."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        "PYTHONPATH": str(ROOT / "mlflow"),
        "SECRETS_DIR": str(folder),
        "DATABASE_URL": url,
        "AUTH_DATABASE_URL": f"sqlite:///{folder}/auth-{secrets.token_hex(4)}.db",
    }
    answer = subprocess.run(
        [sys.executable, "-m", "paddock_mlflow", "migrate"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
