"""Folders that an agent has written: nothing in them leads a copy, a listing or a reader out of them."""

import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest

from paddock_cli import trees
from paddock_cli.errors import BadWorkspace


@pytest.fixture
def hostile(tmp_path):
    """What an agent could leave: links out, a pipe, a socket, a name of any bytes, a program."""
    folder = tmp_path / "work"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "a.py").write_text("print(1)\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "etc").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
        # A short path: that of a socket has at most 107 bytes.
        listener.bind("socket")
    (folder / os.fsdecode(b"na\xffme\n")).write_text("x")
    return folder


def test_a_copy_has_links_as_links_and_opens_no_pipe(hostile, tmp_path):
    tree = trees.copy(hostile, tmp_path / "copy")
    assert {name: entry.kind for name, entry in tree.items()} == {
        "etc": "link",
        "out": "link",
        "pipe": "special",
        "socket": "special",
        "run.sh": "file",
        "src/a.py": "file",
        os.fsdecode(b"na\xffme\n"): "file",
    }
    copied = tmp_path / "copy"
    assert (copied / "out").readlink().as_posix() == "/etc/passwd"
    assert not os.path.lexists(copied / "pipe")
    assert stat.S_IMODE((copied / "run.sh").stat().st_mode) & 0o111
    assert not stat.S_IMODE((copied / "src" / "a.py").stat().st_mode) & 0o111
    assert trees.listed(hostile) == tree


def test_set_id_bits_and_owners_are_not_copied(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "tool").write_text("x")
    (folder / "tool").chmod(0o6755)
    trees.copy(folder, tmp_path / "copy")
    assert stat.S_IMODE((tmp_path / "copy" / "tool").stat().st_mode) & 0o7000 == 0


def test_what_is_too_large_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    with (folder / "holes").open("wb") as file:
        file.truncate(trees.MAX_BYTES + 1)
    with pytest.raises(BadWorkspace, match="2048 MiB"):
        trees.copy(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    (folder / "holes").unlink()
    monkeypatch.setattr(trees, "MAX_ENTRIES", 3)
    for number in range(4):
        (folder / f"{number}").write_text("")
    with pytest.raises(BadWorkspace, match="3 files and folders"):
        trees.listed(folder)


def test_folders_without_end_are_refused(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    with contextlib.chdir(folder):
        # Deeper than a path may be long.
        for _ in range(trees.MAX_DEPTH + 2):
            Path("d" * 30).mkdir()
            os.chdir("d" * 30)
    with pytest.raises(BadWorkspace, match="200 deep"):
        trees.copy(folder, tmp_path / "copy")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_what_cant_be_read_is_left_out(tmp_path):
    folder = tmp_path / "work"
    (folder / "closed").mkdir(parents=True)
    (folder / "closed").chmod(0)
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0)
    assert {entry.kind for entry in trees.copy(folder, tmp_path / "copy").values()} == {"special"}


def test_files_laid_over_a_copy_take_the_place_of_links(hostile, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (hostile / "tests").symlink_to(outside)
    (hostile / "conftest.py").symlink_to(outside / "new.py")
    (hostile / "data.txt").mkdir()
    copied = tmp_path / "copy"
    trees.copy(hostile, copied)
    hidden = tmp_path / "hidden"
    (hidden / "tests").mkdir(parents=True)
    for name in ("tests/test_a.py", "conftest.py", "data.txt", "pipe"):
        (hidden / name).write_text(f"hidden {name}")
    trees.lay_over(hidden, copied)
    assert (copied / "tests" / "test_a.py").read_text() == "hidden tests/test_a.py"
    assert not (copied / "tests").is_symlink()
    assert (copied / "conftest.py").read_text() == "hidden conftest.py"
    assert (copied / "data.txt").read_text() == "hidden data.txt"
    assert list(outside.iterdir()) == []


def test_a_file_is_read_without_following_a_link(hostile, tmp_path):
    assert trees.read(hostile, "src/a.py", 5) == b"print"
    for name in ("out", "etc/passwd", "pipe", "src", "missing", "src/a.py/x", "socket"):
        assert trees.read(hostile, name, 5) is None


def test_what_changed(tmp_path):
    before = {
        "same": trees.Entry("file", "1"),
        "gone": trees.Entry("file", "2"),
        "other": trees.Entry("file", "3"),
        "mode": trees.Entry("file", "4"),
    }
    after = {
        "same": trees.Entry("file", "1"),
        "other": trees.Entry("file", "33"),
        "mode": trees.Entry("file", "4", executable=True),
        "new": trees.Entry("link", "same"),
        ".git/index": trees.Entry("file", "5"),
        "a/__pycache__/x.pyc": trees.Entry("file", "6"),
        "sub/.git/config": trees.Entry("file", "7"),
    }
    assert trees.changed(before, after) == ["gone", "mode", "new", "other", "sub/.git/config"]


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("src/**", ["src/a", "src/b/c"], ["src", "srcs/a", "a/src/b"]),
        ("*.py", ["a.py"], ["b/a.py", "a.pyc"]),
        ("**/*.py", ["a.py", "b/c/a.py"], ["a.txt"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("docs/[x].md", ["docs/[x].md"], ["docs/x.md"]),
    ],
)
def test_globs(glob, matching, others):
    within = trees.matcher((glob,))
    assert all(within(name) for name in matching)
    assert not any(within(name) for name in others)


def test_a_name_of_any_bytes_can_be_shown():
    assert trees.shown(os.fsdecode(b"na\xffme")) == "na\\xffme"


def test_existence_counts_folders_with_something_in_them(hostile):
    tree = trees.listed(hostile)
    assert trees.exists(tree, "src")
    assert trees.exists(tree, "./src/a.py")
    assert trees.exists(tree, "pipe")
    assert not trees.exists(tree, "sr")
