"""Ways into the kernel and into other processes: capabilities, system calls, namespaces, devices, limits."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paddock_probes.registry import Attempt, NothingToAimAt, Targets, probe

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "process": 0x20000000,
    "cgroup": 0x02000000,
}
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
# Of the two architectures that the images are built for; from the kernel's own tables.
_NUMBERS = {
    "x86_64": {
        "add_key": 248, "keyctl": 250, "unshare": 272, "setns": 308, "pivot_root": 155, "syslog": 103, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "open_by_handle_at": 304,
        "kexec_load": 246, "init_module": 175, "delete_module": 176, "swapon": 167, "fsopen": 430, "quotactl": 179,
    },
    "aarch64": {
        "add_key": 217, "keyctl": 219, "unshare": 97, "setns": 268, "pivot_root": 41, "syslog": 116, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "open_by_handle_at": 265,
        "kexec_load": 104, "init_module": 105, "delete_module": 106, "swapon": 224, "fsopen": 430, "quotactl": 60,
    },
}  # fmt: skip


def call(name: str, *arguments: int | bytes | None) -> tuple[bool, str]:
    """A system call by its number: whether the kernel took it up, and its answer.

    With senseless arguments a call that is let through answers EFAULT or EINVAL, one that is not EPERM or ENOSYS.

    Raises:
        NothingToAimAt: the machine is of another architecture.
    """
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise NothingToAimAt(f"system calls of {platform.machine()} are not known")
    _LIBC.syscall.restype = ctypes.c_long
    answer = _LIBC.syscall(numbers[name], *arguments)
    number = ctypes.get_errno()
    if answer >= 0:
        # A descriptor of a userfaultfd, a ring or a file system; it ends with this process.
        return True, f"answered {answer}"
    return number not in (errno.EPERM, errno.EACCES, errno.ENOSYS), os.strerror(number)


def status(pid: int | str = "self") -> dict[str, str]:
    """`/proc/PID/status` as a mapping."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@probe(
    "root-user",
    attempt="to be root",
    wall="`user:`: the agent runs as the user whose files it works on, 1000 by default",
    marks=("ASI03", "CIS 4.1", "CIS 5.23"),
)
def root_user(targets: Targets) -> list[Attempt]:
    ids = status()["Uid"].split()
    return [Attempt("uid", "0" in ids, f"uid {ids[1]}")]


@probe(
    "capabilities",
    attempt="any of root's powers: effective, permitted, inheritable, ambient, or to be had by a program's file",
    wall="`cap_drop: ALL`",
    marks=("ASI03", "ASI05", "CIS 5.3"),
)
def capabilities(targets: Targets) -> list[Attempt]:
    known = status()
    names = ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")
    return [Attempt(name, int(known[name], 16) != 0, f"Cap… {known[name]}") for name in names]


@probe(
    "setuid-programs",
    attempt="a program that runs as its owner (setuid, setgid)",
    wall="no such file in the image, and `no-new-privileges`",
    marks=("ASI05", "CIS 4.8", "CIS 5.25"),
)
def setuid_programs(targets: Targets) -> list[Attempt]:
    found = []
    device = Path("/").stat().st_dev
    folders = ["/", *(path for path in ("/mnt", *targets.writable) if Path(path).is_dir())]
    for top in folders:
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if _on(Path(folder, name), (device, Path(top).stat().st_dev))]
            for file in files:
                with contextlib.suppress(OSError):
                    mode = Path(folder, file).lstat().st_mode
                    if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                        found.append(str(Path(folder, file)))
    held = status().get("NoNewPrivs") == "1"
    return [
        Attempt("no-new-privileges", not held, "NoNewPrivs: 1" if held else "NoNewPrivs: 0"),
        Attempt("files", bool(found), ", ".join(sorted(set(found))[:4]) or "no setuid or setgid file"),
    ]


@probe(
    "user-namespace",
    attempt="namespaces of one's own, in which an ordinary user is root and reaches more of the kernel",
    wall="the engine's seccomp profile",
    marks=("ASI05", "CIS 5.21"),
    alone=True,
)
def user_namespace(targets: Targets) -> Iterator[Attempt]:
    for name, flag in _CLONE.items():
        yield Attempt(f"unshare {name}", *call("unshare", flag))
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    yield Attempt("setns", *call("setns", own, 0))


@probe(
    "mount",
    attempt="to mount something: a tmpfs, the root once more, a file system by the newer calls",
    wall="no capability: SYS_ADMIN is missing; and the engine's seccomp profile",
    marks=("ASI05", "CIS 5.3", "CIS 5.21"),
    alone=True,
)
def mount(targets: Targets) -> Iterator[Attempt]:
    folder = tempfile.mkdtemp().encode()
    for what, source, kind, flags in (
        ("tmpfs", b"none", b"tmpfs", 0),
        ("bind of /", b"/", None, 4096),
        ("proc", b"proc", b"proc", 0),
    ):
        done = _LIBC.mount(source, folder, kind, flags, None)
        number = ctypes.get_errno()
        if done == 0:
            _LIBC.umount2(folder, 2)
        yield Attempt(what, done == 0, "mounted" if done == 0 else os.strerror(number))
    yield Attempt("fsopen", *call("fsopen", b"tmpfs", 0))
    yield Attempt("pivot_root", *call("pivot_root", None, None))
    Path(os.fsdecode(folder)).rmdir()


@probe(
    "kernel-calls",
    attempt="system calls that past ways out began with: bpf, perf, io_uring, userfaultfd, keyrings, modules, kexec, "
    "file handles, the kernel's log",
    wall="the engine's seccomp profile, and no capability",
    marks=("ASI05", "CIS 5.21", "CIS 5.3"),
    alone=True,
)
def kernel_calls(targets: Targets) -> Iterator[Attempt]:
    yield Attempt("bpf", *call("bpf", 0, None, 0))
    yield Attempt("perf_event_open", *call("perf_event_open", None, 0, -1, -1, 0))
    yield Attempt("io_uring_setup", *call("io_uring_setup", 1, None))
    yield Attempt("userfaultfd", *call("userfaultfd", 0))
    yield Attempt("add_key", *call("add_key", None, None, None, 0, 0))
    yield Attempt("keyctl", *call("keyctl", 0, -3, 0))
    yield Attempt("open_by_handle_at", *call("open_by_handle_at", -100, None, 0))
    yield Attempt("init_module", *call("init_module", None, 0, b""))
    yield Attempt("delete_module", *call("delete_module", b"paddock-probe", 0))
    yield Attempt("kexec_load", *call("kexec_load", 0, 0, None, 0))
    yield Attempt("quotactl", *call("quotactl", 0, None, 0, None))
    yield Attempt("swapon", *call("swapon", None, 0))
    yield Attempt("syslog", *call("syslog", 10, None, 0))


@probe(
    "kernel-files",
    attempt="to open for writing what steers the kernel: /proc/sys, sysrq, cgroups and their release agent; to read its "
    "memory and keys",
    wall="/proc and /sys are read-only or masked by the engine, and the user is not root",
    marks=("ASI05", "CIS 5.3", "CIS 5.24"),
)
def kernel_files(targets: Targets) -> Iterator[Attempt]:
    patterns = (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sysrq-trigger",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/*/release_agent",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/*/cgroup.procs",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/pids/pids.max",
        "/sys/fs/cgroup/pids.max",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    )
    for path in sorted({str(path) for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))}):
        try:
            # Opened, never written: on a machine without this wall a probe must not change anything.
            os.close(os.open(path, os.O_WRONLY))
            yield Attempt(path, True, "opened for writing")
        except OSError as error:
            yield Attempt(path, False, error.strerror or str(error))
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware/acpi", "/dev/kmsg"):
        yield _read(path)


@probe(
    "devices",
    attempt="the machine's devices: disks, memory, KVM, FUSE, TUN, or a device file made by oneself",
    wall="the container's device list has none of them, and no capability: MKNOD is missing",
    marks=("ASI05", "CIS 5.17"),
)
def devices(targets: Targets) -> Iterator[Attempt]:
    blocks = []
    for folder, _, names in os.walk("/dev"):
        with contextlib.suppress(OSError):
            blocks += [name for name in names if stat.S_ISBLK(Path(folder, name).stat().st_mode)]
    yield Attempt("block devices", bool(blocks), ", ".join(blocks[:3]) or "no block device")
    for path in ("/dev/mem", "/dev/port", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/vsock"):
        try:
            os.close(os.open(path, os.O_RDWR))
            yield Attempt(path, True, "opened")
        except OSError as error:
            yield Attempt(path, False, error.strerror or str(error))
    path = Path(tempfile.mkdtemp(), "disk")
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))
        yield Attempt("mknod", True, "made a block device")
        path.unlink()
    except OSError as error:
        yield Attempt("mknod", False, error.strerror or str(error))
    path.parent.rmdir()


@probe(
    "other-processes",
    attempt="processes of other containers and of the host: to see them, to stop them, to read their memory (ptrace)",
    wall="a process namespace of the container's own",
    marks=("ASI05", "ASI07", "CIS 5.15"),
)
def other_processes(targets: Targets) -> Iterator[Attempt]:
    seen = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "comm").read_text().strip()
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        seen += 1
        if name in ("kthreadd", "dockerd", "containerd"):
            yield Attempt(path.name, True, f"{name} of the host is seen")
        # What the tests' other container runs; ours never carry this text as an argument of their own.
        if b"paddock-neighbour\0" in line + b"\0":
            traced = _traced(int(path.name))
            yield Attempt(path.name, True, f"seen; {traced.seen}")
    yield Attempt("processes", False, "only the container's own" if seen else "none")


@probe(
    "runner",
    attempt="the runner, which has the same uid: to signal it, stop it (ptrace), read its memory, environment and open "
    "files, rewrite the run's history",
    wall="tools are in a Landlock domain of their own, and the runner's memory is closed to its own user",
    marks=("ASI03", "ASI06", "ASI10"),
    alone=True,
)
def runner(targets: Targets) -> Iterator[Attempt]:
    pid = next((int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_runner(path)), 0)
    if not pid:
        raise NothingToAimAt("no runner in this container")
    try:
        # Number 0 arrives nowhere; it asks whether one may.
        os.kill(pid, 0)
        yield Attempt("signal", True, "may be signalled")
    except OSError as error:
        yield Attempt("signal", False, error.strerror or str(error))
    yield _traced(pid)
    for name in ("environ", "mem", "fd"):
        yield _opened(f"/proc/{pid}/{name}")
    history = Path("/state/.paddock-probe")
    try:
        os.close(os.open(history, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        history.unlink()
        yield Attempt("/state", True, "a file was made")
    except OSError as error:
        yield Attempt("/state", False, error.strerror or str(error))


@probe(
    "limits",
    attempt="to use up the machine: no limit on processes or memory, temporary folders without a size",
    wall="`pids_limit`, `mem_limit` without swap, `tmpfs` with sizes",
    marks=("LLM10", "ASI08", "CIS 5.10", "CIS 5.28"),
)
def limits(targets: Targets) -> Iterator[Attempt]:
    for what, names, most in (
        ("processes", ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"), 100_000),
        ("memory", ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"), 2**50),
    ):
        held = next((text for name in names if (text := _text(name))), "")
        if not held:
            raise NothingToAimAt("the container does not see its limits")
        bounded = held.isdigit() and int(held) < most
        yield Attempt(what, not bounded, f"{what} limited" if bounded else f"{what}: {held}")
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            path, options = before.split()[4], after.split()[2]
            if after.startswith("tmpfs") and path in targets.writable and not path.startswith("/dev"):
                sized = "size=" in options
                yield Attempt(
                    path, not sized, "temporary folders sized" if sized else "a tmpfs without a size"
                )


def _is_runner(process: Path) -> bool:
    try:
        return b"paddock_agent" in (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _traced(pid: int) -> Attempt:
    """Whether a process can be stopped and looked at; it goes on at once."""
    done = _LIBC.ptrace(_PTRACE_ATTACH, pid, None, None)
    number = ctypes.get_errno()
    if done:
        return Attempt("ptrace", False, os.strerror(number))
    os.waitpid(pid, 0)
    _LIBC.ptrace(_PTRACE_DETACH, pid, None, None)
    return Attempt("ptrace", True, "stopped by ptrace")


def _opened(path: str) -> Attempt:
    """Whether something can be opened for reading."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return Attempt(path, False, error.strerror or str(error))
    return Attempt(path, True, "opened")


def _on(path: Path, devices: tuple[int, ...]) -> bool:
    try:
        return not path.is_symlink() and path.lstat().st_dev in devices
    except OSError:
        return False


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _read(path: str) -> Attempt:
    """Whether a file of the kernel's, or something in a folder of its, can be read."""
    try:
        if Path(path).is_dir():
            found = any(Path(path).iterdir())
        else:
            number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                found = bool(os.read(number, 64))
            finally:
                os.close(number)
    except OSError as error:
        return Attempt(path, False, error.strerror or str(error))
    return Attempt(path, found, "read" if found else "empty")
