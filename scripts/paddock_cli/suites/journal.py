"""What a suite run has begun and what came of it, a line each, on the disk before the thing itself happens.

A runner that is killed at any moment leaves enough to go on: which attempts have ended, and which run, with which key, an
attempt had begun as.

    {"type": "plan", "plan": {...}}                      once, first
    {"type": "begun", "key": [task, endpoint, repeat], "run_id": ...}
    {"type": "started", "run_id": ..., "key_id": ...}    its workspace is ready, and its agent starts now
    {"type": "ended", "run_id": ..., "spent_usd": ..., "attempt": {...}}
    {"type": "recorded", "run_id": ..., "mlflow_run_id": ...}
    {"type": "judged", "run_id": ..., "judges": {...}}
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from paddock_cli.errors import NotFound, UsageFailed
from paddock_cli.suites.results import Attempt, JudgeResult

NAME = "journal.jsonl"
Key = tuple[str, str, int]
"""Task, endpoint, and repetition from 1."""


class Plan(BaseModel):
    """What a suite run was asked for."""

    model_config = ConfigDict(frozen=True)

    id: str
    suite: str
    file: str
    sha256: str
    tasks: tuple[str, ...]
    endpoints: tuple[str, ...]
    repeat: int
    parallel: int
    budget_usd: str | None
    label: str | None
    created: str
    stack: str
    user: str

    def attempts(self) -> list[Key]:
        """Every attempt; repetitions last, so that a run that is cut off has seen every task."""
        return [
            (task, endpoint, repeat)
            for repeat in range(1, self.repeat + 1)
            for task in self.tasks
            for endpoint in self.endpoints
        ]


@dataclass
class Begun:
    """An attempt that has begun. Its agent was started, or was about to be, as often as there are keys."""

    key: Key
    run_id: str
    key_ids: list[str] = field(default_factory=list)
    attempt: Attempt | None = None
    spent: Decimal = Decimal(0)
    """USD, once it has ended."""


@dataclass
class Known:
    """What a journal tells."""

    plan: Plan
    begun: dict[str, Begun] = field(default_factory=dict)
    """By run id, in the order in which they began."""

    def newest(self) -> dict[Key, Begun]:
        """The last that was begun of each attempt."""
        return {one.key: one for one in self.begun.values()}

    def spent(self) -> Decimal:
        """USD, of all attempts that have ended."""
        return sum((one.spent for one in self.begun.values()), Decimal(0))


class Journal:
    """A journal that is written; lines of several threads don't mix, and each is on the disk when `note` returns."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def planned(self, plan: Plan) -> None:
        self._write({"type": "plan", "plan": plan.model_dump(mode="json")})

    def begun(self, key: Key, run_id: str) -> None:
        self._write({"type": "begun", "key": list(key), "run_id": run_id})

    def started(self, run_id: str, key_id: str) -> None:
        self._write({"type": "started", "run_id": run_id, "key_id": key_id})

    def ended(self, run_id: str, attempt: Attempt, spent: Decimal) -> None:
        line = {"type": "ended", "run_id": run_id, "spent_usd": f"{spent:f}"}
        self._write(line | {"attempt": attempt.model_dump(mode="json")})

    def recorded(self, run_id: str, mlflow_run_id: str) -> None:
        self._write({"type": "recorded", "run_id": run_id, "mlflow_run_id": mlflow_run_id})

    def judged(self, run_id: str, judges: Mapping[str, JudgeResult]) -> None:
        told = {name: one.model_dump(mode="json") for name, one in judges.items()}
        self._write({"type": "judged", "run_id": run_id, "judges": told})

    def _write(self, line: dict[str, Any]) -> None:
        # ASCII: what an agent wrote may hold halves of surrogate pairs.
        text = (json.dumps(line) + "\n").encode()
        with self._lock:
            while text:
                text = text[os.write(self._descriptor, text) :]
            os.fsync(self._descriptor)


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """The journal of a suite run, for one runner at a time.

    Raises:
        UsageFailed: another runner has it.
    """
    path = folder / NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageFailed(
                f"nobody else to run {folder.name}",
                "another ./paddock suite run that does",
                "wait for its end",
            ) from None
        _drop_torn_line(path, descriptor)
        yield Journal(descriptor)
    finally:
        os.close(descriptor)


def is_running(folder: Path) -> bool:
    """Whether a runner has the journal now."""
    try:
        with (folder / NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def read(folder: Path) -> Known:
    """What is known of a suite run.

    Raises:
        NotFound: there is no journal with a plan.
    """
    known: Known | None = None
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            # The last one of a machine that lost its power.
            continue
        if entry["type"] == "plan":
            known = Known(Plan.model_validate(entry["plan"]))
        elif known is not None:
            _apply(known, entry)
    if known is None:
        raise NotFound(
            f"the suite run {folder.name} in {folder.parent}",
            "none that was begun here",
            "list them: ./paddock suite status",
        )
    return known


def _apply(known: Known, entry: dict[str, Any]) -> None:
    run_id = entry["run_id"]
    if entry["type"] == "begun":
        task, endpoint, repeat = entry["key"]
        known.begun[run_id] = Begun((task, endpoint, repeat), run_id)
    elif entry["type"] == "started":
        known.begun[run_id].key_ids.append(entry["key_id"])
    elif entry["type"] == "ended":
        known.begun[run_id].attempt = Attempt.model_validate(entry["attempt"])
        known.begun[run_id].spent = Decimal(entry["spent_usd"])
    elif (attempt := known.begun[run_id].attempt) is not None:
        changed = {name: entry[name] for name in ("mlflow_run_id", "judges") if name in entry}
        known.begun[run_id].attempt = Attempt.model_validate(attempt.model_dump() | changed)


def _drop_torn_line(path: Path, descriptor: int) -> None:
    """Cut what a killed runner has written half, so that the next line stands alone."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.ftruncate(descriptor, whole)
