"""Stand-ins for what the command line calls: programs on PATH and MLflow's REST API."""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock_cli import exposure
from paddock_cli.settings import PROVIDER_CHOICES, PROVIDER_KEYS, Paths
from paddock_cli.suites.results import SuiteRun


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine or of the user reaches a test."""
    for name in (*PROVIDER_KEYS, *PROVIDER_CHOICES, "MLFLOW_PORT", "NETWORK_MTU", "CA_BUNDLE", "BASE_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "GATEWAY_CONFIG",
        "EGRESS_CONFIG",
        "JUDGES_CONFIG",
        "JUDGES_CODE",
        "COMPOSE_PROFILES",
        "SOME_API_KEY",
        "AGENT_RUNTIME",
        "AGENT_CPUS",
        "SERVICE_CPUS",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "PADDOCK_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in (*exposure.NAMES, "HTTPS_PORT", "HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "GOPROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PADDOCK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def where(tmp_path: Path) -> Paths:
    """Folders of a checkout that has nothing but its place."""
    root = tmp_path / "check out"
    root.mkdir()
    paths = Paths(root=root, state=tmp_path / "state", cache=tmp_path / "cache")
    paths.make()
    return paths


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a Python program on PATH, in front of everything else; returns the file that lists its calls.

    The program's body sees `arguments` (without its own name); each call is a JSON line with `arguments` and `env`.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, body: str) -> Path:
        calls = tmp_path / f"{name}.calls"
        path = folder / name
        path.write_text(
            f"#!{sys.executable}\nimport json, os, sys, time\narguments = sys.argv[1:]\n"
            f"with open({str(calls)!r}, 'a') as file:\n"
            "    file.write(json.dumps({'arguments': arguments, 'env': dict(os.environ)}) + '\\n')\n" + body
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return calls

    return make


def calls_of(path: Path) -> list[dict]:
    """The calls that a stand-in has noted."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def calls() -> Callable[[Path], list[dict]]:
    """Reads the calls of a stand-in."""
    return calls_of


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: Paths
) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line in this process; returns exit code, standard output and standard error."""
    from paddock_cli import __main__ as entry

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["paddock", *arguments])
        code = entry.main()
        captured = capsys.readouterr()
        return int(code), captured.out, " ".join(captured.err.split())

    return run


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, SuiteRun], str]:
    """Writes suite runs to files, whose paths it returns, for a command line without a stack."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def write(name: str, run: SuiteRun) -> str:
        (tmp_path / name).write_text(run.model_dump_json())
        return str(tmp_path / name)

    return write
