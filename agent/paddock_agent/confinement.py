"""The walls that the runner builds around itself and its tools from the inside, and what it can see of those around it.

Two Landlock domains, one in the other. The runner writes into the workspace, the state folder and temporary folders,
and nowhere else. Its tools (every process that it starts, and the file editor) run from a thread that has given up the
state folder as well, so an agent can't rewrite its own history; and that thread's domain keeps signals inside, so that
what an agent starts can neither kill, trace nor read the runner, although it has the same uid.
"""

from __future__ import annotations

import contextvars
import ctypes
import os
import queue
import resource
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from . import landlock
from .errors import UsageError

Wanted = Literal["auto", "require", "off"]
Result = TypeVar("Result")

_PR_SET_DUMPABLE = 4
# Terminals, /dev/null and the like.
_DEVICES = Path("/dev")
# Its owner may write it whatever the container looks like: a probe that needs no file of its own.
_PROBE = Path("/proc/self/comm")
_STATUS = Path("/proc/self/status")
_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}
# capabilities(7), by their numbers.
_CAPABILITIES = (
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
)


class Landlock(BaseModel):
    """Whether the kernel holds back writes, as a probe has shown, not as a call has promised."""

    applied: bool = False
    abi: int | None = None
    # Why not, or what this kernel's version leaves open.
    reason: str = ""
    # Folders that can be written; `tools` those that the agent's tools can write.
    writable: list[str] = []
    tools: list[str] = []
    handled: list[str] = []
    # Whether tools can't signal the runner, nor anything else outside.
    signals_held: bool = False


class Isolation(BaseModel):
    """What the process finds around itself, looked up from inside; `None` and `unknown` where it can't tell."""

    landlock: Landlock = Landlock()
    # gVisor names itself; runc and others that use the host's kernel can't be told apart from inside.
    runtime: Literal["runsc", "unknown"] = "unknown"
    container: bool = False
    seccomp: str = "unknown"
    no_new_privs: bool | None = None
    uid: int
    gid: int
    # Those in force, without `CAP_`.
    capabilities: list[str] | None = None
    read_only_root: bool | None = None
    # Whether a packet for an unknown address has somewhere to go.
    default_route: bool | None = None
    # Whether a process of the same uid may read this one's memory and environment.
    memory_readable: bool = True

    def summary(self) -> str:
        """One line without blanks around the equals signs, for a tag of the trace."""
        lock, held = self.landlock, self.capabilities
        if held is not None:
            # Root's forty are told by their number.
            held = [str(len(held))] if len(held) > 5 else held or ["none"]
        parts = {
            "landlock": f"abi{lock.abi}" if lock.applied else "none",
            "runtime": self.runtime,
            "container": _word(self.container),
            "seccomp": self.seccomp,
            "no_new_privs": _word(self.no_new_privs),
            "uid": str(self.uid),
            "capabilities": "unknown" if held is None else ",".join(held),
            "read_only_root": _word(self.read_only_root),
            "default_route": _word(self.default_route),
        }
        return " ".join(f"{name}={value}" for name, value in parts.items())


class Confinement:
    """The walls of one run. `apply` before any thread is started."""

    def __init__(self, wanted: Wanted, *, shared: Iterable[Path], own: Iterable[Path]) -> None:
        """`shared` folders are for runner and tools, `own` ones for the runner alone."""
        self._wanted = wanted
        # tmux has a variable of its own.
        temporary = (tempfile.gettempdir(), os.environ.get("TMUX_TMPDIR", "/tmp"), "/dev/shm")
        self._shared = _unique([*shared, *map(Path, temporary)])
        self._own = _unique(own)
        self._tools: _ToolThread | None = None
        self.isolation = Isolation(uid=os.getuid(), gid=os.getgid())

    def apply(self) -> None:
        """Builds the walls and looks at them.

        Raises:
            UsageError: Landlock is required and not to be had.
        """
        # A core file would hold the run's key and everything that the agent has read.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        off = Landlock(reason="switched off (landlock=off)")
        lock = off if self._wanted == "off" else self._lock()
        if self._wanted == "require" and not lock.applied:
            raise UsageError(
                f"expected Landlock, as PADDOCK_AGENT_LANDLOCK=require asks for, found: {lock.reason}; "
                "use a newer kernel or engine, or set it to auto"
            )
        memory_readable = ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0
        self.isolation = look(lock, memory_readable)

    def in_tools(self, work: Callable[..., Result]) -> Callable[..., Result]:
        """The function, made to run within the tools' walls."""

        def confined(*arguments: Any, **options: Any) -> Result:
            return (
                work(*arguments, **options)
                if self._tools is None
                else self._tools.run(work, *arguments, **options)
            )

        return confined

    def _lock(self) -> Landlock:
        try:
            version = landlock.abi()
        except landlock.Unavailable as error:
            return Landlock(reason=str(error.strerror))
        lock = Landlock(abi=version)
        if version < landlock.MINIMUM_ABI:
            lock.reason = (
                f"expected Landlock ABI {landlock.MINIMUM_ABI} (Linux 5.19) or newer, found {version}"
            )
            return lock
        could_before = _can_write_probe()
        try:
            landlock.restrict(version, self._rules(version, [*self._shared, *self._own]))
        except OSError as error:
            lock.reason = f"the kernel refused: {error.strerror}"
            return lock
        if not could_before or _can_write_probe():
            lock.reason = "the kernel took the rules, but a probe did not see them at work"
            return lock
        lock.applied = True
        lock.writable = [str(path) for path in [*self._shared, *self._own] if path.exists()]
        lock.tools = list(lock.writable)
        lock.handled = [str(right.name).lower() for right in landlock.rights(version)]
        if version < landlock.SIGNALS_ABI:
            lock.reason = f"ABI {version} can't hold signals back (6 can): a tool may end the runner or change its state"
            return lock
        tools = _ToolThread(
            lambda: landlock.restrict(version, self._rules(version, self._shared), landlock.scopes(version))
        )
        # Where the parent could not be signalled before either, a refusal shows nothing.
        parent = os.getppid()
        could_before = _can_signal(parent)
        try:
            lock.signals_held = not tools.run(_can_signal, parent) and could_before
        except OSError as error:
            lock.reason = f"the kernel refused the tools' own walls: {error.strerror}"
            return lock
        self._tools = tools
        _start_processes_from(tools)
        lock.tools = [str(path) for path in self._shared if path.exists()]
        return lock

    def _rules(self, version: int, folders: Iterable[Path]) -> list[tuple[Path, landlock.Right]]:
        every = landlock.rights(version)
        return [(path, every) for path in folders] + [(_DEVICES, landlock.DEVICES)]


class _ToolThread:
    """A thread within walls of its own, which does work for others."""

    def __init__(self, enclose: Callable[[], None]) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=[enclose], daemon=True, name="tools")
        self._failed: OSError | None = None
        self._thread.start()

    def run(self, work: Callable[..., Result], /, *arguments: Any, **options: Any) -> Result:
        """Does the work there and waits for it; its exception is raised here."""
        if threading.current_thread() is self._thread:
            return work(*arguments, **options)
        if self._failed is not None:
            raise self._failed
        future: Future[Result] = Future()
        context = contextvars.copy_context()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(context.run(work, *arguments, **options))
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)

        self._work.put(task)
        return future.result()

    def _serve(self, enclose: Callable[[], None]) -> None:
        try:
            enclose()
        except OSError as error:
            self._failed = error
        while True:
            self._work.get()()


def _start_processes_from(tools: _ToolThread) -> None:
    """Every process that the runner starts from now on begins in that thread, and so within its walls.

    The SDK and the libraries of its tools start processes in many places, but all by this class. No `preexec_fn`: that
    would run Python between fork and exec of a process with many threads.
    """
    original = subprocess.Popen.__init__

    def start(self: subprocess.Popen[Any], *arguments: Any, **options: Any) -> None:
        tools.run(original, self, *arguments, **options)

    subprocess.Popen.__init__ = start  # type: ignore[method-assign]


def look(lock: Landlock, memory_readable: bool) -> Isolation:
    """What can be seen from inside."""
    status = _status()
    return Isolation(
        landlock=lock,
        runtime="runsc" if _is_gvisor() else "unknown",
        container=any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")),
        seccomp=_SECCOMP.get(status.get("Seccomp", ""), "unknown"),
        no_new_privs={"0": False, "1": True}.get(status.get("NoNewPrivs", "")),
        uid=os.getuid(),
        gid=os.getgid(),
        capabilities=_capabilities(status.get("CapEff")),
        read_only_root=_read_only_root(),
        default_route=_default_route(),
        memory_readable=memory_readable,
    )


def _status() -> dict[str, str]:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _capabilities(mask: str | None) -> list[str] | None:
    if mask is None:
        return None
    bits = int(mask, 16)
    names = dict(enumerate(_CAPABILITIES))
    return [names.get(number, str(number)) for number in range(bits.bit_length()) if bits >> number & 1]


def _read_only_root() -> bool | None:
    try:
        return bool(os.statvfs("/").f_flag & os.ST_RDONLY)
    except OSError:
        return None


def _default_route() -> bool | None:
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return None
    if any((fields := line.split())[1] == "00000000" and fields[7] == "00000000" for line in lines):
        return True
    try:
        lines = Path("/proc/net/ipv6_route").read_text().splitlines()
    except OSError:
        # No IPv6 at all.
        return False
    return any(
        (fields := line.split())[0].strip("0") == "" and fields[1] == "00" and fields[9] != "lo"
        for line in lines
    )


def _is_gvisor() -> bool:
    """gVisor's kernel log is made up by gVisor and says so; no real kernel's would."""
    try:
        if "gvisor" in f"{os.uname().release} {os.uname().version}".lower():
            return True
        buffer = ctypes.create_string_buffer(64 * 1024)
        # SYSLOG_ACTION_READ_ALL; other kernels refuse it to who has no privileges.
        length = ctypes.CDLL(None).klogctl(3, buffer, len(buffer))
    except (OSError, AttributeError):
        return False
    return length > 0 and b"Starting gVisor" in buffer.raw[:length]


def _can_write_probe() -> bool:
    try:
        os.close(os.open(_PROBE, os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _can_signal(process: int) -> bool:
    """Whether a process could be signalled; 0 is a parent outside of this PID namespace."""
    try:
        if process:
            os.kill(process, 0)
    except OSError:
        return False
    return bool(process)


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(path.resolve() for path in paths))


def _word(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]
