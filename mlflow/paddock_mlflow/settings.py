"""What the stack tells the plugin: environment variables, and files for what is secret.

A file named like a setting, in the folder that SECRETS_DIR names (default /run/secrets), counts as that setting.
Nothing else in this package reads the environment.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url

from paddock_mlflow.errors import SettingsError


class Settings(BaseSettings):
    """Settings of every command. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(extra="ignore", frozen=False)

    # Where to listen (serve) and where the server is (jobs, setup)
    listen_host: str = "0.0.0.0"
    listen_port: int = 5000
    workers: int = 1
    mlflow_url: str = "http://mlflow:5000"
    allowed_hosts: str = ""
    """Further Host headers to accept, comma-separated; those of the stack itself and of loopback always pass."""
    bind_address: str = "127.0.0.1"
    """Where the port of plain HTTP is published on the host."""
    allow_plain_http: bool = False
    site_address: str = ""
    """The name or address by which browsers reach the TLS proxy; empty where there is none."""
    https_port: int = 443

    runtime_dir: Path | None = None
    """Where generated configuration goes, with a database password in it; in memory where there is a tmpfs."""

    # Databases: either whole URLs or the parts of PostgreSQL
    database_url: SecretStr | None = None
    auth_database_url: SecretStr | None = None
    postgres_host: str = "postgres"
    postgres_user: str = "mlflow"
    postgres_database: str = "mlflow"
    postgres_auth_database: str = "mlflow_auth"
    postgres_mlflow_password: SecretStr | None = None

    # Artifacts
    artifacts_destination: str = ""
    s3_endpoint_url: str = ""
    s3_bucket: str = "mlflow"
    s3_store: Literal["minio", "seaweedfs"] = "minio"
    """Which of the stack's own stores there is."""
    s3_region: str = "us-east-1"
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    s3_root_user: SecretStr | None = None
    s3_root_password: SecretStr | None = None

    # Identity
    admin_user: str = "admin"
    admin_password: SecretStr | None = None
    agent_user: str = "agent"
    agent_key: SecretStr | None = None
    collector_key: SecretStr | None = None
    """Where it is missing, nobody is believed to be the collector."""
    judge_user: str = "judge"
    run_keys_need_gate: bool = True
    """Whether a run's key counts only in what the gate passes on. False where there is no gate: the embedded stack."""
    internal_token: SecretStr | None = None
    egress_token: SecretStr | None = None
    """What the egress proxy asks with; without it nobody may."""
    flask_secret_key: SecretStr | None = None
    kek_passphrase: SecretStr | None = None

    # Providers
    demo_model_url: str = ""
    demo_api_key: SecretStr | None = None
    openai_api_key: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None
    gemini_api_key: SecretStr | None = None
    llm_base_url: str = ""
    llm_api_key: SecretStr | None = None
    coder_model: str = ""
    judge_model: str = ""

    # The declared configuration of the gateway
    gateway_config: Path = Path(__file__).resolve().parent.parent / "gateway.yaml"
    # The declared judges, and the folder of their code
    judges_config: Path = Path(__file__).resolve().parent.parent / "judges.yaml"
    judges_code: Path = Path(__file__).resolve().parent.parent / "scorers"

    # Judges
    judge_parallelism: int = Field(default=8, ge=1, le=64)
    """Judges side by side an endpoint, in one process."""
    judge_session_idle_seconds: float = Field(default=300, ge=1)
    """A session is judged when its last trace ended so long ago."""
    judge_max_trace_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Spans of a trace or session, as they are stored, that a judge may be given."""
    judge_lease_seconds: float = Field(default=30, ge=1)
    """A judgment of a process that died is taken up by another one after this time."""
    judge_call_seconds: float = Field(default=120, ge=1)
    """One call of a judge's model."""

    # Traces
    experiment: str = "agents"
    handover_dir: Path | None = None
    max_trace_body_bytes: int = 32 * 1024 * 1024

    @cached_property
    def tracking_database(self) -> str:
        """SQLAlchemy URL of MLflow's database, password included."""
        return self._database(self.database_url, self.postgres_database)

    @cached_property
    def auth_database(self) -> str:
        """SQLAlchemy URL of the users' database, password included."""
        return self._database(self.auth_database_url, self.postgres_auth_database)

    @property
    def artifacts(self) -> str:
        """Where the server keeps artifacts: `s3://bucket` unless a destination is set."""
        return self.artifacts_destination or f"s3://{self.s3_bucket}"

    @property
    def private_upstreams(self) -> frozenset[tuple[str, int]]:
        """Host and port of model providers that may have a private address: the operator named them."""
        parts = [urlparse(url) for url in (self.demo_model_url, self.llm_base_url) if url]
        return frozenset(
            (part.hostname, part.port or (443 if part.scheme == "https" else 80))
            for part in parts
            if part.hostname
        )

    def secret(self, name: str) -> str:
        """The value of a secret setting.

        Raises:
            SettingsError: it is not set, or empty.
        """
        value: SecretStr | None = getattr(self, name)
        if value is None or not value.get_secret_value():
            raise SettingsError(
                f"expected the secret {name}, found none; put it into the file {secrets_folder()}/{name}"
                f" or into the variable {name.upper()}"
            )
        return value.get_secret_value()

    def secret_file(self, name: str) -> Path:
        """Where the file of a secret is that is read anew when it changes; it may be missing."""
        return secrets_folder() / name

    def optional_secret(self, name: str) -> str:
        """The value of a secret setting, or an empty text."""
        value: SecretStr | None = getattr(self, name)
        return value.get_secret_value() if value else ""

    def _database(self, url: SecretStr | None, database: str) -> str:
        if url is not None:
            given = make_url(url.get_secret_value())
            # SQLAlchemy 2.1 takes psycopg 3 for a bare postgresql://, which is not installed.
            if given.drivername == "postgresql":
                given = given.set(drivername="postgresql+psycopg2")
            return given.render_as_string(hide_password=False)
        return URL.create(
            "postgresql+psycopg2",
            username=self.postgres_user,
            password=self.secret("postgres_mlflow_password"),
            host=self.postgres_host,
            database=database,
        ).render_as_string(hide_password=False)


class Variables(Mapping[str, str]):
    """What the declared configuration may refer to, by the names of .env: a variable, or a file of the same name in small
    letters in the folder of secrets."""

    def __getitem__(self, name: str) -> str:
        if value := os.environ.get(name):
            return value
        try:
            return (secrets_folder() / name.lower()).read_text()
        except FileNotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        files = secrets_folder().iterdir() if secrets_folder().is_dir() else ()
        return iter({*os.environ, *(path.name.upper() for path in files if path.is_file())})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def secrets_folder() -> Path:
    """Where secrets are, one a file."""
    return Path(os.environ.get("SECRETS_DIR", "/run/secrets"))


def load() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: a value is of the wrong kind; the text names it.
    """
    folder = secrets_folder()
    try:
        return Settings(_secrets_dir=folder if folder.is_dir() else None)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = [
            f"expected {'.'.join(map(str, e['loc'])).upper()} to be valid, found: {e['msg']}"
            for e in error.errors(include_input=False)
        ]
        raise SettingsError("; ".join(lines) + "; mend the variable and start again") from None
