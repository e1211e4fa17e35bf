"""Environments in the cache: made once, whole or not at all."""

import os
import sys
from pathlib import Path

import pytest

from paddock_cli import environments, pythons
from paddock_cli.environments import Environments
from paddock_cli.errors import EnvironmentFailed

UV = """
if arguments[0] == 'venv':
    os.makedirs(arguments[-1] + '/bin', exist_ok=True)
    os.symlink(sys.executable, arguments[-1] + '/bin/python')
elif os.environ.get('FAIL_UV'):
    sys.exit('no such index')
"""


@pytest.fixture
def uv(program, monkeypatch, tmp_path):
    calls = program("uv", UV)
    monkeypatch.setattr(environments, "uv", lambda: tmp_path / "bin" / "uv")
    monkeypatch.setattr(pythons, "find", lambda _: Path(sys.executable))
    return calls


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("a==1\n")
    return path


def test_it_is_made_once(tmp_path, uv, lock, calls):
    made = Environments(tmp_path / "cache")

    first = made.python("part", lock)
    second = Environments(tmp_path / "cache").python("part", lock)

    assert first == second
    assert os.access(first, os.X_OK)
    assert [call["arguments"][0] for call in calls(uv)] == ["venv", "pip"]
    assert "--require-hashes" in calls(uv)[1]["arguments"]


def test_another_lock_is_another_environment(tmp_path, uv, lock):
    made = Environments(tmp_path / "cache")
    first = made.python("part", lock)
    lock.write_text("a==2\n")

    assert made.python("part", lock) != first


def test_a_failure_leaves_nothing(tmp_path, uv, lock, monkeypatch):
    monkeypatch.setenv("FAIL_UV", "1")

    with pytest.raises(EnvironmentFailed, match="no such index"):
        Environments(tmp_path / "cache").python("part", lock)
    assert [p.name for p in (tmp_path / "cache" / "venvs").iterdir() if not p.name.endswith(".lock")] == []


def test_a_missing_lock_is_named(tmp_path, uv):
    with pytest.raises(EnvironmentFailed, match=r"nowhere\.txt"):
        Environments(tmp_path / "cache").python("part", tmp_path / "nowhere.txt")


def test_what_pip_is_set_to_reaches_uv(monkeypatch):
    monkeypatch.setattr(
        environments,
        "_pip_settings",
        lambda: {"index-url": "https://a/simple", "extra-index-url": "https://b https://c", "cert": "/ca"},
    )
    variables = environments.installer_variables()
    assert (variables["UV_DEFAULT_INDEX"], variables["UV_INDEX"]) == (
        "https://a/simple",
        "https://b https://c",
    )
    assert variables["SSL_CERT_FILE"] == "/ca"

    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own/simple")
    assert environments.installer_variables()["UV_DEFAULT_INDEX"] == "https://own/simple"
