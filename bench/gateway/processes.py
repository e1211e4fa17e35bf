"""Plain processes of the bench: started in a group of their own, ended by pid, their CPU time and memory counted."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

# What a server needs of the caller's environment; keys and proxies stay behind.
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def variables(more: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a server that is measured."""
    kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return kept | {"NO_PROXY": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1"} | (more or {})


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process tree that is measured.

    Args:
        name: for messages and for the log's name.
        folder: where the log goes, and the working folder.
        more: further options of `subprocess.Popen`.
    """

    def __init__(
        self, name: str, command: Sequence[object], environment: dict[str, str], folder: Path, **more: Any
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as file:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **more,
            )

    def tree(self) -> list[psutil.Process]:
        """The process and all that descend from it."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """User and system time of the tree so far, those of ended children included."""
        total = 0.0
        for process in self.tree():
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
        return total

    def memory(self) -> tuple[int, int]:
        """Bytes resident in the tree (RSS), and with shared pages counted once (PSS)."""
        rss = pss = 0
        for process in self.tree():
            try:
                found = process.memory_full_info()
            except psutil.NoSuchProcess:
                continue
            rss += found.rss
            pss += found.pss
        return rss, pss

    def wait(self, ready: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until it serves.

        Raises:
            SystemExit: it ended, or is not ready in time; the end of its log is shown.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                ended = self._process.poll()
                found = f"exit code {ended}" if ended is not None else f"no answer in {seconds:.0f} s"
                sys.exit(f"bench: expected {self.name} to serve, found {found}:\n{self.tail()}")
            time.sleep(0.1)

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def end(self, number: signal.Signals = signal.SIGTERM, grace: float = 15) -> None:
        """End it with its descendants, by force where it does not go by itself."""
        tree = self.tree()
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in tree[1:]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def once(name: str, command: Sequence[object], environment: dict[str, str], folder: Path) -> None:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; what it said is shown.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(
            f"bench: expected {name} to succeed, found exit code {done.returncode}:\n{done.stdout[-3000:]}"
        )
