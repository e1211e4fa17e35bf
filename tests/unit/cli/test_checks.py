"""Checks of a finished workspace, with what a hostile one would do to them, and the patch of what changed."""

import os
import subprocess
import time

import psutil
import pytest

from paddock_cli import processes, trees
from paddock_cli.stack import Ended
from paddock_cli.suites import changes, checks
from paddock_cli.suites.checks import Finished
from paddock_cli.suites.model import Check


class Stack:
    """Runs commands as plain processes, as the embedded one does."""

    kind = "embedded"

    def __init__(self, ended=None):
        self.folders = []
        self._ended = ended

    def run_apart(self, command, folder, seconds):
        self.folders.append(folder)
        return self._ended or processes.run_to_end(
            ["bash", "-c", command], folder, {"PATH": os.environ["PATH"]}, seconds
        )


@pytest.fixture
def finished(tmp_path):
    """A workspace before and after an agent."""
    start, work = tmp_path / "start", tmp_path / "work"
    (start / "src").mkdir(parents=True)
    (start / "src" / "a.py").write_text("one\n")
    (start / "README.md").write_text("read\n")
    before = trees.copy(start, work)
    (work / "src" / "a.py").write_text("two\n")
    (work / "link").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    after = trees.copy(work, tmp_path / "finished")
    return Finished(tmp_path / "finished", before, after)


def made(finished, *wanted, stack=None, files=None):
    results = checks.run_all(stack or Stack(), [Check(**one) for one in wanted], finished, files)
    return {result.name: result for result in results}


def test_commands_pass_by_their_exit_code_on_a_copy_each(finished):
    stack = Stack()
    told = made(
        finished,
        {"name": "good", "run": "cat src/a.py; echo x > src/a.py"},
        {"name": "bad", "run": "cat src/a.py >&2; exit 3"},
        stack=stack,
    )
    assert told["good"].passed
    assert told["good"].output == "two"
    assert not told["bad"].passed
    # What the first one did is gone.
    assert told["bad"].output == "two\n(exit code 3)"
    assert (finished.folder / "src" / "a.py").read_text() == "two\n"
    assert not any(folder.exists() for folder in stack.folders)


def test_a_check_that_hangs_is_ended_with_all_that_it_started_and_others_still_run(finished):
    began = time.monotonic()
    told = made(
        finished,
        {"name": "hangs", "run": "sleep 300.7 & (setsid sleep 301.7 &) ; sleep 302.7", "timeout": 1},
        {"name": "after", "run": "true"},
    )
    assert time.monotonic() - began < 60
    assert not told["hangs"].passed
    assert told["hangs"].error == "no end within 1 s, so it was ended"
    assert told["after"].passed
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in left if command and command[-1] in ("300.7", "301.7", "302.7")]


def test_a_background_process_that_holds_the_output_does_not_hold_up_a_check(finished):
    began = time.monotonic()
    told = made(finished, {"name": "quick", "run": "sleep 303 & echo done"})
    assert told["quick"].passed
    assert told["quick"].output == "done"
    assert time.monotonic() - began < 30


def test_endless_output_is_cut_to_its_end(finished):
    told = made(finished, {"name": "loud", "run": "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo end"})
    assert told["loud"].passed
    assert told["loud"].output.endswith("\nend")
    assert len(told["loud"].output) <= 16 * 1024


def test_a_container_that_cant_be_made_is_no_verdict(finished):
    told = made(
        finished, {"name": "x", "run": "true"}, stack=Stack(Ended(1, "", 0.1, failed="no container: x"))
    )
    assert not told["x"].passed
    assert told["x"].error == "no container: x"


def test_hidden_files_are_laid_over_the_copy_alone(finished, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "test.txt").write_text("hidden\n")
    told = made(
        finished,
        {"name": "with", "run": "cat test.txt", "files": "hidden"},
        {"name": "without", "run": "test ! -e test.txt"},
        files=tmp_path,
    )
    assert told["with"].output == "hidden"
    assert told["without"].passed


def test_commands_of_a_run_are_checks_with_names():
    texts = ["python3 -m unittest -q", "test -s x && grep y x", "'", "python3 -m unittest -q", "x" * 200]
    assert [(one.name, one.run) for one in checks.commands(texts)] == [
        ("python3 -m unittest -q", texts[0]),
        ("test -s x grep y x", texts[1]),
        ("command 3", texts[2]),
        ("command 4", texts[3]),
        ("x" * 60, texts[4]),
    ]


def test_diff_only(finished):
    told = made(
        finished,
        {"name": "all", "diff_only": ["src/**", "link", "pipe"]},
        {"name": "source", "diff_only": ["src/**"]},
    )
    assert told["all"].passed
    assert not told["source"].passed
    assert told["source"].output == "changed beside it:\nlink\npipe"


def test_files(finished):
    told = made(
        finished,
        {"name": "matches", "file": "README.md", "matches": "^re.d$"},
        {"name": "differs", "file": "README.md", "matches": "write"},
        {"name": "link", "file": "link", "matches": "root"},
        {"name": "pipe", "file": "pipe", "matches": "."},
        {"name": "missing", "file": "no.txt", "matches": "."},
        {"name": "absent", "file": "no.txt", "absent": True},
        {"name": "there", "file": "pipe", "absent": True},
    )
    assert {name: one.passed for name, one in told.items()} == {
        "matches": True,
        "differs": False,
        "link": False,
        "pipe": False,
        "missing": False,
        "absent": True,
        "there": False,
    }
    assert told["link"].output == "link: no file, but a link one"


def test_a_pattern_without_an_end_is_ended(finished, monkeypatch):
    monkeypatch.setattr(checks, "MATCH_SECONDS", 0.5)
    (finished.folder / "evil.txt").write_text("a" * 60)
    told = made(finished, {"name": "evil", "file": "evil.txt", "matches": "(a+)+$(?!a)b"})
    assert not told["evil"].passed
    assert "no end" in told["evil"].error


def patched(tmp_path, change):
    start, work = tmp_path / "s", tmp_path / "w"
    start.mkdir()
    (start / "a.txt").write_text("one\n")
    (start / "b.bin").write_bytes(b"\0\1")
    old = trees.copy(start, work)
    change(work)
    new = trees.copy(work, tmp_path / "f")
    return changes.patch(start, tmp_path / "f", old, new)


def test_a_patch_applies(tmp_path):
    def change(work):
        (work / "a.txt").write_text("two\n")
        (work / "new").mkdir()
        (work / "new" / "c.txt").write_text("c\n")

    text = patched(tmp_path, change)
    subprocess.run(["git", "init", "-q", tmp_path / "s"], check=True)
    subprocess.run(["git", "apply", "-"], input=text, cwd=tmp_path / "s", text=True, check=True)
    assert (tmp_path / "s" / "a.txt").read_text() == "two\n"
    assert (tmp_path / "s" / "new" / "c.txt").read_text() == "c\n"


def test_the_workspaces_own_git_runs_nothing(tmp_path):
    ran = tmp_path / "ran"

    def change(work):
        subprocess.run(["git", "init", "-q", work], check=True)
        with (work / ".git" / "config").open("a") as file:
            file.write(f'[core]\nfsmonitor = "touch {ran}"\n[diff "x"]\ncommand = "touch {ran}"\n')
            file.write(f'textconv = "touch {ran}"\n[filter "x"]\nclean = "touch {ran}"\n')
        (work / ".gitattributes").write_text("* diff=x filter=x\n")
        hook = work / ".git" / "hooks" / "post-index-change"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
        hook.chmod(0o755)
        (work / "a.txt").write_text("two\n")

    text = patched(tmp_path, change)
    assert "+two" in text
    assert ".git/" not in text
    assert not ran.exists()


def test_a_patch_follows_no_link_and_leaves_large_files_out(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("topsecret\n")

    def change(work):
        (work / "out").symlink_to(secret)
        (work / "big").write_bytes(b"x" * (changes.MAX_FILE_BYTES + 1))
        os.mkfifo(work / "pipe")

    text = patched(tmp_path, change)
    assert "topsecret" not in text
    assert f"+{secret}" in text
    assert "# changed, not shown: big\n" in text
    assert "# changed, not shown: pipe\n" in text


def test_a_patch_without_git_names_what_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(changes.shutil, "which", lambda _: None)
    assert patched(tmp_path, lambda work: (work / "a.txt").write_text("2")) == "# changed, not shown: a.txt\n"
