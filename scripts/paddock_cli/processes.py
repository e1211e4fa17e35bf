"""Background processes of the embedded way: started in sessions of their own, known by pid and start time."""

import json
import os
import secrets
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from paddock_cli.settings import write_private
from paddock_cli.stack import Ended, tail_of

START_TOLERANCE_SECONDS = 2.0
"""psutil counts a start from the boot time, which moves by this much when the clock is set."""
_MARK = "PADDOCK_APART"
"""Variable that tells what a command has started."""
_ROUNDS = 20


@dataclass(frozen=True)
class Known:
    """A process as its pid file names it; `started` is in seconds since the epoch."""

    pid: int
    started: float

    def process(self) -> psutil.Process | None:
        """The process itself, or None where it has ended or its pid went to another one."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) > START_TOLERANCE_SECONDS:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None


def note(path: Path, pid: int) -> Known:
    """Write the pid file of a process that runs."""
    known = Known(pid, psutil.Process(pid).create_time())
    write_private(path, json.dumps(asdict(known)))
    return known


def noted(path: Path) -> Known | None:
    """What a pid file names, if it can be read."""
    try:
        return Known(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def end(known: Known, grace_seconds: float) -> bool:
    """SIGTERM, and SIGKILL for whatever of its process tree is left after the grace time.

    Returns:
        Whether it ended by itself within the grace time.
    """
    process = known.process()
    if process is None:
        return True
    try:
        tree = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return True
    _, left = psutil.wait_procs([process], timeout=grace_seconds)
    _, orphans = psutil.wait_procs(tree, timeout=2)
    for straggler in [*left, *orphans]:
        try:
            straggler.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs([*left, *orphans], timeout=5)
    return not left


def run_to_end(command: list[str], folder: Path, variables: dict[str, str], seconds: float) -> Ended:
    """Run a command in a session of its own, and end all that it has started, at its end or after the time.

    What it has started is known by a variable of its environment. Who drops that one is not found: there is no fence.
    """
    began = time.monotonic()
    mark = secrets.token_hex(16)
    try:
        child = subprocess.Popen(
            command,
            env=variables | {_MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Ended(1, "", 0.0, failed=f"{command[0]}: {error.strerror}")
    assert child.stdout is not None
    told: list[str] = []
    reader = threading.Thread(target=lambda: told.append(tail_of(child.stdout)), daemon=True)
    reader.start()
    with suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    timed_out = child.poll() is None
    if timed_out:
        child.kill()
        child.wait()
    _end_marked(mark)
    reader.join(timeout=5)
    return Ended(child.returncode, "".join(told), time.monotonic() - began, timed_out)


def _end_marked(mark: str) -> None:
    """Kill every process of this user that has the mark, until none is found."""
    for _ in range(_ROUNDS):
        found = [one for one in psutil.process_iter() if _environment_of(one).get(_MARK) == mark]
        if not found:
            return
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=2)


def _environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


class Daemons:
    """The processes of one folder: `<name>.pid` and `logs/<name>.log` each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logs = folder / "logs"

    def start(self, name: str, command: list[str], variables: dict[str, str]) -> Known:
        """Start a process that outlives this one; its log begins anew."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with open(self.log(name), "wb") as log:
            child = subprocess.Popen(
                command,
                env=variables,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return note(self._pid_file(name), child.pid)

    def alive(self, name: str) -> bool:
        """Whether the process runs."""
        known = noted(self._pid_file(name))
        return known is not None and known.process() is not None

    def memory(self, name: str) -> int:
        """Resident memory of the process and its children, in bytes; pages that they share count once each."""
        known = noted(self._pid_file(name))
        process = known.process() if known else None
        if process is None:
            return 0
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.Error:
                continue
        return total

    def stop(self, name: str, grace_seconds: float = 20) -> bool:
        """End the process. Returns whether there was one."""
        path = self._pid_file(name)
        known = noted(path)
        was_alive = known is not None and known.process() is not None
        if known is not None:
            end(known, grace_seconds)
        path.unlink(missing_ok=True)
        return was_alive

    def log(self, name: str) -> Path:
        """The file with the process's output."""
        return self._logs / f"{name}.log"

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def _pid_file(self, name: str) -> Path:
        return self._folder / f"{name}.pid"


def free_port() -> int:
    """A loopback port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether something could listen on the loopback port."""
    import socket

    with socket.socket() as probe:
        # As servers do it: a connection that lingers from the last one is no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: object, seconds: float, interval: float = 0.1) -> bool:
    """Poll a callable until it is true. Returns whether it became so in time."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(interval)
    return bool(condition())


def owner_name() -> str:
    """The name of the user who calls, or their number where the system knows no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
