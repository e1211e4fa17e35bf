"""Probes that use things up: run by the tests alone, bounded, in containers whose limits are smaller than the bound.

Shipped into containers like `paddock_probes`, so on the standard library alone.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from paddock_probes.gate import exchange
from paddock_probes.registry import Attempt, NothingToAimAt, Targets, probe

TASKS, FORKS = 1400, 100
"""More than an agent may have (`pids_limit: 1024`), less than its control may; so many of them are processes."""
HELD_SECONDS = 1
MEMORY = 400 * 2**20
"""Bytes; the tests give the agent 256 MiB, its control 1 GiB."""
DISK = 1280 * 2**20
"""Bytes; /tmp holds 1 GiB, the control's 1.5 GiB."""
REQUESTS = 260
"""More than the collector takes at once from one container (COLLECTOR_REQUESTS_PER_SECOND, and 40 times that at once)."""
WORKSPACE = 24 * 2**20
"""Bytes; the tests' workspace for this is a tmpfs of 32 MiB."""
_PIECE = 16 * 2**20


@probe(
    "fork-bomb",
    attempt="processes and threads without end",
    wall="`pids_limit`, which counts both",
    marks=("LLM10", "ASI08", "CIS 5.28"),
    alone=True,
)
def fork_bomb(targets: Targets) -> Iterator[Attempt]:
    ended = threading.Event()
    reading, writing = os.pipe()
    children: list[int] = []
    threads: list[threading.Thread] = []
    refused = ""
    threading.stack_size(64 * 1024)
    try:
        while len(children) < FORKS and not refused:
            try:
                child = os.fork()
            except OSError as error:
                refused = error.strerror or str(error)
                break
            if child == 0:
                # Until the parent lets go of the pipe, or dies.
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            children.append(child)
        # The rest are threads: the kernel counts them alike, and they cost the machine less.
        while len(threads) < TASKS - FORKS and not refused:
            thread = threading.Thread(target=ended.wait, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                refused = os.strerror(errno.EAGAIN)
            else:
                threads.append(thread)
        # As long as others who share the limit would notice.
        time.sleep(HELD_SECONDS)
    finally:
        ended.set()
        os.close(writing)
        for child in children:
            os.waitpid(child, 0)
        for thread in threads:
            thread.join()
    total = len(children) + len(threads)
    yield Attempt("tasks", not refused, refused or f"{total} processes and threads")


@probe(
    "memory-bomb",
    attempt="memory without end",
    wall="`mem_limit`, with no swap beside it: the kernel kills the process in the container",
    marks=("LLM10", "ASI08", "CIS 5.10"),
    alone=True,
)
def memory_bomb(targets: Targets) -> Iterator[Attempt]:
    child = os.fork()
    if child == 0:
        kept = []
        while len(kept) * _PIECE < MEMORY:
            # Written to, or the kernel would only promise it.
            kept.append(b"x" * _PIECE)
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL
    yield Attempt("memory", not killed, "killed by the kernel" if killed else f"had {MEMORY // 2**20} MiB")


@probe(
    "disk-temporary",
    attempt="to fill /tmp",
    wall="`tmpfs` with a size, which also counts as the container's memory",
    marks=("LLM10", "ASI08", "CIS 5.10"),
    alone=True,
)
def disk_temporary(targets: Targets) -> Iterator[Attempt]:
    yield _fill("/tmp", DISK)


@probe(
    "disk-workspace",
    attempt="to fill the workspace",
    wall="none of ours: a folder of yours is as large as its file system",
    marks=("LLM10", "ASI08"),
    stands_open="an agent may write what its user may. Give the workspace a file system, or a project quota, of its own",
    alone=True,
)
def disk_workspace(targets: Targets) -> Iterator[Attempt]:
    yield _fill("/workspace", WORKSPACE)


@probe(
    "span-flood",
    attempt="spans without end, to fill MLflow's database and to hold up the spans of others",
    wall="the collector takes so many requests, spans and bytes a second from each container",
    marks=("LLM10", "ASI08", "LLM04"),
)
def span_flood(targets: Targets) -> Iterator[Attempt]:
    trace, taken, seen = os.urandom(16), 0, ""
    for _ in range(REQUESTS):
        body = _span(trace)
        head = (
            "POST /v1/traces HTTP/1.1",
            f"Host: {targets.collector[0]}",
            "Content-Type: application/x-protobuf",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        answer = exchange(targets.collector, ("\r\n".join(head) + "\r\n\r\n").encode() + body, seconds=20)
        code = int(answer.split(b" ", 2)[1])
        if code != 200:
            seen = f"HTTP {code}"
            break
        taken += 1
    if not taken:
        raise NothingToAimAt(f"the collector takes no spans: {seen}")
    yield Attempt("spans", not seen, seen or f"all {taken} requests were taken")


def _span(trace: bytes) -> bytes:
    """An OTLP request with one span, by protobuf's wire format: resource_spans 1 > scope_spans 2 > span 2."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def fixed(number: int, value: int) -> bytes:
        return bytes([number << 3 | 1]) + value.to_bytes(8, "little")

    now = time.time_ns()
    span = field(1, trace) + field(2, os.urandom(8)) + field(4, os.urandom(8)) + field(5, b"flood")
    return field(1, field(2, field(2, span + fixed(7, now) + fixed(8, now + 1000))))


def _fill(folder: str, size: int) -> Attempt:
    path = Path(folder, ".paddock-fill")
    written, refused = 0, ""
    number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        while written < size and not refused:
            try:
                os.posix_fallocate(number, written, min(_PIECE, size - written))
                written += _PIECE
            except OSError as error:
                refused = error.strerror or str(error)
    finally:
        os.close(number)
        path.unlink()
    return Attempt(folder, not refused, refused or f"{size // 2**20} MiB written")
