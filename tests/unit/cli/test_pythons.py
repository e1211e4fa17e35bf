"""Looking for a Python of 3.12 or newer."""

import stat
from pathlib import Path

import pytest

from paddock_cli import pythons
from paddock_cli.errors import EnvironmentFailed


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Makes an interpreter of a version; nothing else is found. A version of None makes one without sqlite3."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))

    def make(version, path=None):
        target = tmp_path / (path or f"bin/python{version}")
        target.parent.mkdir(parents=True, exist_ok=True)
        answer = f"echo '{version}|{target}'" if version else "exit 1"
        target.write_text(f"#!/bin/sh\n{answer}\n")
        target.chmod(target.stat().st_mode | stat.S_IXUSR)
        return target

    return make


def test_the_version_that_the_locks_were_tried_with_is_preferred(python):
    python("3.12")
    wanted = python("3.13")
    python("3.14")

    assert pythons.find() == wanted


def test_pyenv_versions_are_looked_at_and_its_shims_are_not(python):
    python("3.13", "shims/python3.13")
    wanted = python("3.12", "pyenv/versions/3.12.1/bin/python3")

    assert pythons.find() == wanted


def test_folders_of_another_user_are_passed_over(python, monkeypatch, tmp_path):
    """As after `sudo`, which keeps PATH or PYENV_ROOT."""
    wanted = python("3.13")
    closed = tmp_path / "closed"
    monkeypatch.setenv("PATH", f"{closed}:{tmp_path / 'bin'}")
    monkeypatch.setenv("PYENV_ROOT", str(closed))
    stat_of = Path.stat

    def refuse(path, **options):
        if path.is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return stat_of(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([refuse(path)]))

    assert pythons.find() == wanted


def test_a_newer_version_will_do(python):
    wanted = python("3.15", "bin/python3")

    assert pythons.find() == wanted


def test_one_without_sqlite_is_passed_over(python):
    python(None, "bin/python3.13")
    wanted = python("3.12")

    assert pythons.find() == wanted


def test_uv_is_asked_last(python, tmp_path):
    wanted = python("3.13", "managed/python")
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho {wanted}\n")
    uv.chmod(0o755)

    assert pythons.find(Path(uv)) == wanted


def test_none_is_told_with_what_was_seen_and_what_to_do(python):
    python("3.11", "bin/python3")

    with pytest.raises(EnvironmentFailed, match=r"bin/python3 \(3\.11\)") as caught:
        pythons.find()
    assert "uv python install" in caught.value.remedy
