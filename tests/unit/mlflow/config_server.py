"""A server of its own for the declared configuration: a process on SQLite that tests may prune and restart."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from paddock_mlflow.config.errors import Refused

ROOT = Path(__file__).resolve().parents[3]
GENERATED = (
    "admin_password",
    "agent_key",
    "internal_token",
    "kek_passphrase",
    "flask_secret_key",
    "demo_api_key",
)
SET = {
    "OPENAI_API_KEY": "sk-openai-of-the-tests",
    "ANTHROPIC_API_KEY": "sk-anthropic-of-the-tests",
    "HOOK_SECRET": "hook-of-the-tests",
}


class ConfigServer:
    """The process, and what a set-up of it needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        (folder / "tmp").mkdir()
        for name in GENERATED:
            (self.secrets / name).write_text(secrets.token_urlsafe(24))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What a file may refer to."""
        return SET | {
            "DEMO_API_KEY": (self.secrets / "demo_api_key").read_text(),
            "DEMO_MODEL_URL": "http://127.0.0.1:8000/v1",
        }

    def command(self, name: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m paddock_mlflow NAME` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "paddock_mlflow", name],
            env=self._environment() | more,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, **more: str) -> None:
        """Start the server and wait until it answers."""
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paddock_mlflow", "serve"],
            env=self._environment() | more,
            stdout=log,
            stderr=log,
        )
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None

    def api(self) -> "CountingApi":
        return CountingApi(self.url, (self.secrets / "admin_password").read_text())

    @retry(
        retry=retry_if_exception_type((requests.ConnectionError, AssertionError)),
        stop=stop_after_delay(180),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    def _wait(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self.folder / "server.log").read_text()[-3000:])
        assert requests.get(f"{self.url}/health", timeout=5).status_code == 200

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {
            "PYTHONPATH": str(ROOT / "mlflow"),
            "TMPDIR": str(self.folder / "tmp"),
            "SECRETS_DIR": str(self.secrets),
            "DATABASE_URL": f"sqlite:///{self.folder}/mlflow.db",
            "AUTH_DATABASE_URL": f"sqlite:///{self.folder}/auth.db",
            "ARTIFACTS_DESTINATION": str(self.folder / "artifacts"),
            "LISTEN_HOST": "127.0.0.1",
            "LISTEN_PORT": str(self.port),
            "MLFLOW_URL": self.url,
            "RUN_KEYS_NEED_GATE": "false",
            "DEMO_MODEL_URL": "http://127.0.0.1:8000/v1",
            "HANDOVER_DIR": str(self.folder / "handover"),
        }


class CountingApi:
    """The server as its administrator. Counts requests that write, and can refuse one of them."""

    def __init__(self, url: str, password: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.auth = ("admin", password)
        self.writes: list[str] = []
        self.refuse_write: int | None = None
        """Which write, counted from 1, does not reach the server."""

    def call(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        if method != "GET" and not path.endswith("/search"):
            self.writes.append(f"{method} {path}")
            if len(self.writes) == self.refuse_write:
                raise Refused(method, path, 0, "the connection was cut off")
        answer = self._session.request(method, self._url + path, json=json, params=params, timeout=30)
        if answer.status_code >= 400:
            raise Refused(method, path, answer.status_code, answer.text[:500])
        return dict(answer.json()) if answer.content else {}
