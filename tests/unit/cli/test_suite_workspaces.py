"""Workspaces from folders, archives and repositories: nothing of them writes elsewhere, runs, or asks for a password."""

import io
import os
import subprocess
import tarfile
import zipfile

import pytest

from paddock_cli import trees
from paddock_cli.errors import BadWorkspace
from paddock_cli.suites import workspaces
from paddock_cli.suites.model import Workspace


@pytest.fixture
def make(tmp_path):
    """Makes a workspace beside the given files; returns its folder."""

    def call(**source):
        workspaces.make(Workspace(**source), tmp_path, tmp_path / "work")
        return tmp_path / "work"

    return call


def tar(path, *members, mode="w:gz"):
    """An archive of (name, content) or of TarInfo."""
    with tarfile.open(path, mode) as packed:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                packed.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                info.mode = 0o6755
                packed.addfile(info, io.BytesIO(member[1]))


def linked(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_folder_is_copied(make, tmp_path):
    (tmp_path / "project" / "src").mkdir(parents=True)
    (tmp_path / "project" / "src" / "a.py").write_text("1")
    work = make(folder="project")
    (work / "src" / "a.py").write_text("2")
    assert (tmp_path / "project" / "src" / "a.py").read_text() == "1"


def test_archives_are_unpacked(make, tmp_path):
    tar(tmp_path / "x.tar.gz", ("src/a.py", b"1"), linked("link", "src/a.py"))
    work = make(archive="x.tar.gz")
    assert (work / "src" / "a.py").read_text() == "1"
    assert (work / "link").read_text() == "1"
    assert (work / "src" / "a.py").stat().st_mode & 0o7000 == 0


def test_zip_archives_are_unpacked(make, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("src/a.py", "1")
        tool = zipfile.ZipInfo("run.sh")
        tool.external_attr = 0o100755 << 16
        packed.writestr(tool, "#!/bin/sh\n")
    work = make(archive="x.zip")
    assert (work / "src" / "a.py").read_text() == "1"
    assert os.access(work / "run.sh", os.X_OK)


@pytest.mark.parametrize(
    "member",
    [
        ("../evil.txt", b"x"),
        linked("out", "/etc/passwd"),
        linked("out", "../../evil"),
        linked("hard", "../evil", tarfile.LNKTYPE),
        linked("device", "", tarfile.CHRTYPE),
    ],
    ids=["dots", "absolute link", "link out", "hard link out", "device"],
)
def test_what_leads_out_of_an_archive_is_refused(make, tmp_path, member):
    tar(tmp_path / "x.tar", ("good.txt", b"x"), member, mode="w")
    with pytest.raises(BadWorkspace, match=r"x\.tar to unpack below the workspace"):
        make(archive="x.tar")
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "evil.txt").exists()


def test_a_file_through_a_link_of_the_archive_stays_inside(make, tmp_path):
    (tmp_path / "outside").mkdir()
    tar(tmp_path / "x.tar", linked("door", "../outside"), ("door/evil.txt", b"x"), mode="w")
    with pytest.raises(BadWorkspace):
        make(archive="x.tar")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_what_leads_out_of_a_zip_is_refused(make, tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(name, "x")
    with pytest.raises(BadWorkspace, match="leads out of the workspace"):
        make(archive="x.zip")
    assert not (tmp_path / "work").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(make, tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", b"\0" * 100_000)
    with pytest.raises(BadWorkspace, match="more in"):
        make(archive="x.zip")
    tar(tmp_path / "x.tar.gz", ("zeros", b"\0" * 100_000))
    with pytest.raises(BadWorkspace, match="more in"):
        make(archive="x.tar.gz")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_what_is_no_archive(make, tmp_path, name):
    (tmp_path / name).write_bytes(b"this is none")
    with pytest.raises(BadWorkspace, match="to unpack"):
        make(archive=name)


@pytest.fixture
def repository(tmp_path):
    """A git repository with two commits, hooks, and a submodule; returns the first commit's id."""
    place = tmp_path / "repository"
    variables = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words):
        named = ["-c", "user.name=a", "-c", "user.email=a@example.invalid", *words]
        done = subprocess.run(
            ["git", *named], cwd=place, env=variables, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    place.mkdir()
    git("init", "-q")
    (place / "a.txt").write_text("first\n")
    (place / ".gitmodules").write_text('[submodule "x"]\npath = x\nurl = ext::touch ran\n')
    git("add", ".")
    git("commit", "-qm", "first")
    first = git("rev-parse", "HEAD")
    (place / "a.txt").write_text("second\n")
    git("commit", "-qam", "second")
    return first


def test_a_repository_is_cloned_at_its_commit(make, tmp_path, repository, monkeypatch):
    # A template of the user's, whose hook would run at the checkout.
    hook = tmp_path / "home" / "template" / "hooks" / "post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    (tmp_path / "home" / ".gitconfig").write_text(
        f"[init]\ntemplateDir = {tmp_path}/home/template\n[core]\nhooksPath = {hook.parent}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = make(git=f"file://{tmp_path}/repository", commit=repository)
    assert (work / "a.txt").read_text() == "first\n"
    assert not (tmp_path / "ran").exists()
    assert not (work / ".git" / "FETCH_HEAD").exists()
    assert str(tmp_path) not in (work / ".git" / "config").read_text()


def test_a_repository_that_cant_be_cloned(make, tmp_path, repository):
    with pytest.raises(BadWorkspace, match=r"to clone file:///nonexistent/x\.git"):
        make(git="file:///nonexistent/x.git", commit=repository)
    assert not (tmp_path / "work").exists()
    with pytest.raises(BadWorkspace, match="to clone"):
        make(git=f"file://{tmp_path}/repository", commit="0" * 40)


def test_a_server_that_says_nothing_is_given_up(make, monkeypatch):
    import socket

    monkeypatch.setattr(workspaces, "CLONE_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BadWorkspace, match="within 1 s"):
            make(git=f"http://127.0.0.1:{port}/x.git", commit="0" * 40)
