"""What is looked at before anything is changed."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from paddock_cli import preflight
from paddock_cli.errors import BadWorkspace, ComposeMissing, EngineMissing, NoSpace

ANSWERS = """
if arguments[:1] == ['version']:
    print('28.1')
elif arguments[:2] == ['compose', 'version']:
    print('{version}')
"""


def test_an_engine_with_compose_passes(program):
    program("docker", ANSWERS.format(version="2.26.1"))

    preflight.require_engine()


@pytest.mark.parametrize("version", ["v2.40.0", "2.20.0", "5.0.0-desktop.1"])
def test_versions_that_are_new_enough(program, version):
    program("docker", ANSWERS.format(version=version))

    preflight.require_engine()


@pytest.mark.parametrize("version", ["2.19.9", "1.29.2", "unknown"])
def test_an_old_compose_is_refused(program, version):
    program("docker", ANSWERS.format(version=version))

    with pytest.raises(ComposeMissing, match=r"2\.20"):
        preflight.require_engine()


def test_an_engine_without_compose_is_refused(program):
    program("docker", "sys.exit(0 if arguments[0] == 'version' and not print('28.1') else 1)")

    with pytest.raises(ComposeMissing, match="without it"):
        preflight.require_engine()


def test_an_engine_that_does_not_answer_is_named(program):
    program("docker", "sys.exit('Cannot connect to the Docker daemon at unix:///var/run/docker.sock.')")

    with pytest.raises(EngineMissing, match="Cannot connect") as caught:
        preflight.require_engine()
    assert "install-docker" in caught.value.remedy


def test_a_user_without_the_right_is_told_which(program):
    program("docker", "sys.exit('permission denied while trying to connect to the Docker daemon socket')")

    with pytest.raises(EngineMissing) as caught:
        preflight.require_engine()
    assert "usermod" in caught.value.remedy


def test_no_docker_at_all(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(EngineMissing, match="no docker on PATH"):
        preflight.require_engine()


def test_too_little_space_is_told_with_both_figures(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1024**3))

    with pytest.raises(NoSpace, match=r"8 GiB.*1\.0 GiB"):
        preflight.require_space(tmp_path / "not" / "yet", 8 * 1024**3)
    preflight.require_space(tmp_path, 1024**3)


def test_a_workspace_is_resolved(where, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "project")

    assert preflight.workspace(tmp_path / "link", where) == tmp_path / "project"


@pytest.mark.parametrize("name", ["missing", "file", "with:colon"])
def test_a_workspace_that_cannot_be_used_is_refused(where, tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "with:colon").mkdir()

    with pytest.raises(BadWorkspace, match=name):
        preflight.workspace(tmp_path / name, where)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_folder_of_somebody_else_is_refused(where, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)

    with pytest.raises(BadWorkspace, match="may not"):
        preflight.workspace(folder, where)


def test_the_whole_file_system_is_no_workspace(where):
    with pytest.raises(BadWorkspace, match="whole file system"):
        preflight.workspace(Path("/"), where)


def test_a_folder_that_the_user_may_not_write_is_refused(where, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)

    with pytest.raises(BadWorkspace, match="may not"):
        preflight.workspace(tmp_path, where)


def _is_refused(folder, where):
    folder.mkdir(parents=True, exist_ok=True)
    try:
        preflight.workspace(folder, where)
    except BadWorkspace as error:
        return "apart from Paddock's own folders" in error.expected
    return False


def test_a_workspace_with_keys_or_programs_of_ours_is_refused(where, tmp_path, monkeypatch):
    """An agent in there would read the provider's key, or write what runs outside of its fence the next time."""
    settings = tmp_path / "settings"
    settings.mkdir()
    monkeypatch.setenv("PADDOCK_ENV_FILE", str(settings / "mine.env"))
    (tmp_path / "link").symlink_to(where.root)

    refused = {
        "the checkout": where.root,
        "a part of it": where.root / "scripts" / "paddock_cli",
        "around it": tmp_path,
        "the state": where.state,
        "another run's state": where.runs / "some-run",
        "the programs": where.cache / "venvs",
        "around the settings file": settings,
        "by a link": tmp_path / "link",
    }
    assert [name for name, folder in refused.items() if not _is_refused(folder, where)] == []
    allowed = [tmp_path / "project", where.state / "demo" / "20260101-abc" / "tide-tables"]
    assert [folder for folder in allowed if _is_refused(folder, where)] == []


@pytest.mark.parametrize(("text", "told"), [("{", "JSON"), ("[]", "object"), (None, "No such file")])
def test_an_mcp_file_that_is_none_is_refused(tmp_path, text, told):
    path = tmp_path / "mcp.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(BadWorkspace, match=told):
        preflight.mcp_file(path)
