"""Background processes: found again, never mistaken, ended with all that they started."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from paddock_cli import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def daemons(tmp_path):
    made = processes.Daemons(tmp_path)
    yield made
    made.stop("one", grace_seconds=0.1)


def test_a_daemon_runs_in_its_own_session_and_its_output_is_kept(daemons):
    code = "import os, time; print(os.getsid(0) == os.getpid(), flush=True); time.sleep(60)"
    daemons.start("one", [sys.executable, "-c", code], dict(os.environ))

    assert processes.wait_until(lambda: "True" in daemons.tail("one"), 10)
    assert daemons.alive("one")
    assert daemons.memory("one") > 1_000_000


def test_a_daemon_that_ended_is_not_alive(daemons):
    daemons.start("one", [sys.executable, "-c", ""], dict(os.environ))

    assert processes.wait_until(lambda: not daemons.alive("one"), 10)


def test_a_pid_that_went_to_another_process_is_left_alone(daemons, tmp_path):
    other = subprocess.Popen(SLEEP)
    try:
        (tmp_path / "one.pid").write_text(json.dumps({"pid": other.pid, "started": time.time() - 3600}))

        assert not daemons.alive("one")
        assert daemons.stop("one") is False
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_broken_pid_file_counts_as_none(daemons, tmp_path, text):
    (tmp_path / "one.pid").write_text(text)

    assert not daemons.alive("one")


def test_stop_ends_what_ignores_it_and_what_it_started(daemons):
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen({SLEEP!r})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    daemons.start("one", [sys.executable, "-c", code], dict(os.environ))
    assert processes.wait_until(lambda: daemons.tail("one").strip().isdigit(), 60)
    child = psutil.Process(int(daemons.tail("one")))

    assert daemons.stop("one", grace_seconds=0.3) is True

    assert not daemons.alive("one")
    assert processes.wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30)


def test_end_tells_whether_the_process_went_by_itself():
    polite = subprocess.Popen(SLEEP)
    known = processes.Known(polite.pid, psutil.Process(polite.pid).create_time())

    assert processes.end(known, grace_seconds=10) is True
    assert not psutil.pid_exists(polite.pid)
    assert processes.end(known, grace_seconds=10) is True


def test_a_free_port_is_free():
    assert processes.port_is_free(processes.free_port())
