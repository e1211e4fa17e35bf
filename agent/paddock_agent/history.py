"""The runs kept in the state folder, so that one that was cut short can go on.

Layout: <state>/runs/<id hex>/ is OpenHands' own persistence of the conversation; `paddock.json` in it holds what the
runner must know to build the same agent again. One process at a time works on a run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ValidationError

from .errors import UsageError
from .settings import RunSettings

_RECORD = "paddock.json"
_LOCK = "paddock.lock"
# What a resumed run takes from its record unless a flag or the environment says otherwise.
_KEPT = ("task", "endpoint", "workspace", "tools", "mcp", "user", "tags")


class RunRecord(BaseModel):
    """What a run was started with."""

    task: str
    endpoint: str
    workspace: Path
    tools: tuple[str, ...]
    mcp: Path | None = None
    user: str | None = None
    tags: dict[str, str] = {}


class History:
    """The runs in one state folder."""

    def __init__(self, state_dir: Path) -> None:
        """
        Raises:
            UsageError: the folder can't be made or written.
        """
        self.runs = state_dir / "runs"
        try:
            self.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"expected a folder for the state of runs at {state_dir}, found {error.strerror}; "
                "name another with --state-dir"
            ) from None
        if not os.access(self.runs, os.W_OK | os.X_OK):
            raise UsageError(
                f"expected a folder that uid {os.getuid()} can write at {self.runs}, found permission denied; "
                "name another with --state-dir, or change its owner"
            )

    def folder(self, run_id: uuid.UUID) -> Path:
        """Where the SDK keeps the conversation of this id."""
        return self.runs / run_id.hex

    def begin(self, settings: RunSettings) -> IO[str]:
        """Takes the run's lock and writes its record; the lock is held until the returned file is closed.

        Raises:
            UsageError: a run of this id is there already.
        """
        folder = self.folder(settings.id)
        if (folder / _RECORD).exists():
            raise UsageError(
                f"expected a new id in --run-id, found one that is in use: {settings.id}; leave it out, "
                f"or go on with --resume {settings.id}"
            )
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = self._lock(settings.id)
        record = RunRecord(**{name: getattr(settings, name) for name in _KEPT})
        (folder / _RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return lock

    def forget(self, run_id: uuid.UUID) -> None:
        """Removes what `begin` left of a run that could not start."""
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def resume(self, settings: RunSettings) -> tuple[RunSettings, str, IO[str]]:
        """Settings completed from the run's record, the original task, and the held lock.

        Raises:
            UsageError: there is no such run, its record can't be read, or a process is working on it.
        """
        try:
            record = RunRecord.model_validate_json((self.folder(settings.id) / _RECORD).read_bytes())
        except FileNotFoundError:
            raise UsageError(
                f"expected the run {settings.id} in {self.runs}, found none; "
                f"{self._known()}; check the id and --state-dir"
            ) from None
        except (OSError, ValidationError) as error:
            raise UsageError(f"expected a readable record of the run {settings.id}, found {error}") from None
        kept = {
            name: getattr(record, name)
            for name in _KEPT
            if name not in settings.model_fields_set and name != "task"
        }
        return settings.model_copy(update=kept), record.task, self._lock(settings.id)

    def _lock(self, run_id: uuid.UUID) -> IO[str]:
        lock = (self.folder(run_id) / _LOCK).open("w", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise UsageError(
                f"expected nobody at work on the run {run_id}, found another process; wait for its end, or stop it first"
            ) from None
        return lock

    def _known(self) -> str:
        records = sorted(self.runs.glob(f"*/{_RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
        ids = [str(uuid.UUID(path.parent.name)) for path in records[:3]]
        return f"the latest there: {', '.join(ids)}" if ids else "no run is kept there"
