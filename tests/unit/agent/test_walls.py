"""The runner's own walls, by real system calls: what holds is applied and seen, what is not to be had is said."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import Runner
from walled import walled

from paddock_agent import landlock

try:
    ABI = landlock.abi()
except landlock.Unavailable:
    ABI = 0
with_landlock = pytest.mark.skipif(
    ABI < landlock.MINIMUM_ABI, reason="this kernel, or the container around it, has no Landlock"
)
with_signals = pytest.mark.skipif(
    ABI < landlock.SIGNALS_ABI, reason="this kernel's Landlock can't hold signals back (Linux 6.12 can)"
)

_LOOK = """
import json, os, sys
from pathlib import Path
from paddock_agent.confinement import Confinement
shared, own, outside = map(Path, sys.argv[1:4])
walls = Confinement("auto", shared=[shared], own=[own])
walls.apply()
def write(folder):
    try:
        (folder / "new").write_text("x")
        return True
    except PermissionError:
        return False
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """For runner and tools, for the runner alone, for nobody. The temporary folder is one more."""
    made = tmp_path / "shared", tmp_path / "own", tmp_path / "outside"
    for folder in (*made, tmp_path / "tmp"):
        folder.mkdir()
    return made


def environment(folders: tuple[Path, Path, Path]) -> dict[str, str]:
    temporary = str(folders[0].parent / "tmp")
    return {"TMPDIR": temporary, "TMUX_TMPDIR": temporary, "HOME": temporary}


@with_landlock
def test_the_runner_writes_into_its_folders_alone(folders: tuple[Path, Path, Path]) -> None:
    code = (
        _LOOK + "print(json.dumps([write(shared), write(own), write(outside), walls.isolation.model_dump()]))"
    )
    shared, own, outside, seen = walled(code, *folders, env=environment(folders))
    assert (shared, own, outside) == (True, True, False)
    assert seen["landlock"]["applied"]
    assert seen["landlock"]["abi"] == ABI
    assert str(folders[1]) in seen["landlock"]["writable"]
    assert seen["no_new_privs"] is True


@with_landlock
def test_what_is_outside_is_neither_removed_nor_replaced_nor_cut_off(
    folders: tuple[Path, Path, Path],
) -> None:
    (folders[2] / "kept").write_text("kept")
    code = (
        _LOOK
        + """
tricks = {
    "remove": lambda: (outside / "kept").unlink(),
    "rename": lambda: (shared / "new").rename(outside / "kept"),
    "link": lambda: os.link(outside / "kept", shared / "hard link"),
    "symbolic link": lambda: os.symlink("/etc/passwd", outside / "link"),
    "folder": lambda: (outside / "folder").mkdir(),
    "by a link": lambda: ((shared / "way").symlink_to(outside), (shared / "way" / "new").write_text("x")),
    "truncate": lambda: os.truncate(outside / "kept", 0),
}
write(shared)
done = []
for name, trick in tricks.items():
    try:
        trick()
        done.append(name)
    except OSError:
        pass
print(json.dumps(done))
"""
    )
    done = walled(code, *folders, env=environment(folders))
    # ABI 2 leaves cutting off by name open.
    assert done == ([] if ABI >= 3 else ["truncate"])
    assert (folders[2] / "kept").exists()


@with_signals
def test_tools_can_not_touch_the_runner_or_its_state(folders: tuple[Path, Path, Path]) -> None:
    """By a process, and by a function that is sent to the tools' side, as the file editor is."""
    code = (
        _LOOK
        + """
import subprocess
script = 'echo x >"$1/new" 2>/dev/null; echo $?; echo x >"$2/new" 2>/dev/null; echo $?; kill -0 $3 2>/dev/null; echo $?'
ran = subprocess.run(["sh", "-c", script, "sh", shared, own, str(os.getpid())], capture_output=True, text=True)
print(json.dumps([ran.stdout.split(), walls.in_tools(write)(own), walls.in_tools(write)(shared), write(own),
                  walls.isolation.landlock.signals_held, walls.isolation.landlock.tools]))
"""
    )
    codes, editor_own, editor_shared, runner_own, held, tools = walled(
        code, *folders, env=environment(folders)
    )
    in_shared, in_own, signalled = map(int, codes)
    assert in_shared == 0
    assert in_own != 0
    assert signalled != 0
    assert (editor_own, editor_shared, runner_own) == (False, True, True)
    assert held
    assert str(folders[1]) not in tools


def test_errors_of_a_process_that_does_not_start_reach_the_caller(folders: tuple[Path, Path, Path]) -> None:
    code = (
        _LOOK
        + """
import subprocess
try:
    subprocess.run(["/nowhere/program"])
    print(json.dumps("started"))
except FileNotFoundError as error:
    print(json.dumps(error.filename))
"""
    )
    assert walled(code, *folders, env=environment(folders)) == "/nowhere/program"


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSYS, "no Landlock"), (errno.EPERM, "seccomp"), (errno.EOPNOTSUPP, "lsm=")],
)
def test_a_kernel_without_landlock_is_said_and_stops_nothing(
    folders: tuple[Path, Path, Path], number: int, reason: str
) -> None:
    code = (
        _LOOK + "print(json.dumps([write(outside), walls.isolation.model_dump(), walls.isolation.summary()]))"
    )
    outside, seen, summary = walled(code, *folders, without_landlock=number, env=environment(folders))
    assert outside
    assert not seen["landlock"]["applied"]
    assert reason in seen["landlock"]["reason"]
    assert "landlock=none" in summary
    # What else was checked was checked all the same.
    assert seen["seccomp"] == "filter"


def test_where_it_is_required_nothing_runs_without_it(folders: tuple[Path, Path, Path]) -> None:
    code = """
import json, sys
from pathlib import Path
from paddock_agent.confinement import Confinement
from paddock_agent.errors import UsageError
try:
    Confinement("require", shared=[Path(sys.argv[1])], own=[]).apply()
    print(json.dumps("ran"))
except UsageError as error:
    print(json.dumps(str(error)))
"""
    told = walled(code, *folders, without_landlock=errno.ENOSYS, env=environment(folders))
    assert "expected Landlock" in told
    assert "no Landlock" in told


@pytest.mark.parametrize("walls", [True, False])
def test_memory_and_environment_are_closed_to_the_same_user(
    folders: tuple[Path, Path, Path], walls: bool
) -> None:
    """Its tools run as the runner's user; without the walls they read all of it."""
    if os.getuid() == 0:
        # Root may read every process anyway.
        for folder in folders[0].parents:
            if folder.is_relative_to(folders[0].parents[2]):
                folder.chmod(0o755)
    code = """
import ctypes, json, os, subprocess, sys
from pathlib import Path
from paddock_agent.confinement import Confinement
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(4321)
    os.setuid(4321)
    # As every program begins; a change of the user takes it away.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
if sys.argv[4] == "True":
    Confinement("auto", shared=[Path(sys.argv[1])], own=[]).apply()
names = "environ mem maps fd/1 cwd/. auxv".split()
script = 'for name; do (exec 3<"/proc/$PPID/$name") 2>/dev/null && echo $name; done; true'
ran = subprocess.run(["sh", "-c", script, "sh", *names], capture_output=True, text=True, cwd="/")
print(json.dumps(ran.stdout.split()))
"""
    found = walled(code, *folders, walls, env=environment(folders))
    if walls:
        assert found == []
    else:
        assert {"environ", "mem", "maps"} <= set(found)


def test_no_core_file_can_hold_what_the_runner_knows(folders: tuple[Path, Path, Path]) -> None:
    code = _LOOK + "import resource; print(json.dumps(resource.getrlimit(resource.RLIMIT_CORE)))"
    assert walled(code, *folders, env=environment(folders)) == [0, 0]


@with_landlock
def test_a_run_tells_its_walls_first_and_its_tools_are_behind_them(
    runner: Runner, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = runner.folder / "outside"
    outside.mkdir()
    # The path of a socket has at most 107 bytes.
    temporary = tmp_path_factory.mktemp("t")
    (runner.workspace / "probe.sh").write_text(
        f"echo x >{outside}/new; echo x >{runner.state}/new; echo x >inside; echo x >$HOME/new\n"
    )
    ended = runner.run(
        "try it",
        "--endpoint",
        "scenario/probe",
        cold=True,
        TMPDIR=str(temporary),
        TMUX_TMPDIR=str(temporary),
    )
    assert ended.code == 0, ended.err + ended.out[-2000:]
    assert list(outside.iterdir()) == []
    assert not (runner.state / "new").exists() or ABI < landlock.SIGNALS_ABI
    assert (runner.workspace / "inside").exists()
    assert (runner.home / "new").exists()
    seen = ended.started["isolation"]
    assert seen["landlock"]["applied"]
    assert seen["uid"] == os.getuid()
    # The state was written all the same: by the runner.
    assert list((runner.state / "runs").glob("*/events/*.json"))
    tag = runner.collector.root(ended.result["trace_id"]).attributes["mlflow.traceTag.paddock.isolation"]
    assert f"landlock=abi{ABI}" in tag


def test_landlock_can_be_switched_off_and_that_is_said(runner: Runner) -> None:
    ended = runner.run("make it", "--endpoint", "scenario/short", "--landlock", "off")
    assert ended.code == 0
    lock = ended.started["isolation"]["landlock"]
    assert (lock["applied"], "switched off" in lock["reason"]) == (False, True)


@with_signals
def test_an_agent_can_not_kill_its_runner(runner: Runner) -> None:
    """Else the last spans, with what it has done, would be lost, and the trace would stay unfinished for ever."""
    (runner.workspace / "probe.sh").write_text(
        "until [ -s pid ]; do sleep 0.02; done; kill -9 $(cat pid); echo $?\n"
    )
    running = runner.start("try it", "--endpoint", "scenario/probe")
    (runner.workspace / "pid.new").write_text(str(running.pid))
    (runner.workspace / "pid.new").rename(runner.workspace / "pid")
    ended = running.end()
    assert (ended.code, ended.result["outcome"]) == (0, "finished"), ended.err
    assert "not permitted" in json.dumps(ended.events)


def test_git_is_never_run_by_the_runner(runner: Runner) -> None:
    """Hooks, fsmonitor and filters of a repository run where git does: in the agent's terminal, and nowhere else."""
    called = runner.folder / "git-called"
    programs = runner.folder / "bin"
    programs.mkdir()
    (programs / "git").write_text(f"#!/bin/sh\necho $* >>{called}\n")
    (programs / "git").chmod(0o755)
    subprocess.run(["git", "init", "-q", runner.workspace], check=True)
    ended = runner.run("make it", "--endpoint", "scenario/short", PATH=f"{programs}:{os.environ['PATH']}")
    assert ended.code == 0, ended.err
    assert not called.exists()
