"""Suites as they stand on disk: which there are, and one with the files that it names."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock_cli.errors import NotFound, UsageFailed
from paddock_cli.settings import Paths
from paddock_cli.suites import validation
from paddock_cli.suites.model import Limits, SuiteFile, Task

SUFFIXES = (".yaml", ".yml")
_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Suite:
    """A valid suite; what its tasks name lies below `folder`."""

    path: Path
    folder: Path
    file: SuiteFile

    def limits(self, task: Task) -> Limits:
        """What one attempt at the task may take."""
        return task.limits.over(self.file.defaults.limits)

    def tools(self, task: Task) -> tuple[str, ...] | None:
        """The agent's tools, or None for the usual ones."""
        return task.tools or self.file.defaults.tools

    def chosen(self, ids: list[str], tags: list[str]) -> tuple[Task, ...]:
        """The tasks of these ids that have one of these tags; where a list is empty, all.

        Raises:
            UsageFailed: there is no such task, or none is left.
        """
        known = [task.id for task in self.file.tasks]
        if missing := [one for one in ids if one not in known]:
            raise UsageFailed(
                f"--task of {self.path}: {', '.join(known)}", ", ".join(map(repr, missing)), "mend --task"
            )
        found = tuple(
            task
            for task in self.file.tasks
            if (not ids or task.id in ids) and (not tags or set(tags) & set(task.tags))
        )
        if not found:
            there = sorted({tag for task in self.file.tasks for tag in task.tags})
            raise UsageFailed(
                "tasks with these tags",
                f"none with {', '.join(tags)}",
                f"tags of {self.path}: {', '.join(there) or 'none'}",
            )
        return found

    def sha256(self) -> str:
        """Of the suite's file and everything it names: paths, contents, links' targets, who may execute."""
        digest = hashlib.sha256(self.path.read_bytes())
        for path in sorted({path for name in self._named() for path in _below(self.folder / name)}):
            digest.update(f"\0{path.relative_to(self.folder)}\0".encode(errors="surrogateescape"))
            digest.update(_fingerprint(path))
        return digest.hexdigest()

    def _named(self) -> Iterator[str]:
        for task in self.file.tasks:
            named = (task.workspace.folder, task.workspace.archive, task.mcp, task.solution)
            yield from (name for name in (*named, *(one.files for one in task.checks)) if name)


def shipped(where: Paths) -> list[Path]:
    """The files of the suites that come with this checkout."""
    return in_folder(where.root / "suites")


def in_folder(folder: Path) -> list[Path]:
    """The suite files of a folder, by name."""
    return sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and path.is_file())


def locate(where: Paths, reference: str) -> Path:
    """The file of a suite: a path, or the name of a shipped one.

    Raises:
        NotFound: there is none.
    """
    path = Path(reference).expanduser()
    # A bare name is never looked for in the current folder, which is mostly a workspace that agents write.
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        if path.is_file():
            return path
        raise NotFound(
            f"a suite at {path}", "no file there", "name a suite's file, or one of ./paddock suite list"
        )
    known = {one.stem: one for one in shipped(where)}
    if reference not in known:
        raise NotFound(
            f"a shipped suite: {', '.join(known) or 'there is none'}",
            repr(reference),
            "name one of them, or the path of your own, like ./suites/mine.yaml",
        )
    return known[reference]


def load(path: Path) -> Suite:
    """Read and check a suite.

    Raises:
        BadConfiguration: it has mistakes.
    """
    file = validation.load(path)
    resolved = path.resolve()
    return Suite(resolved, resolved.parent, file)


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir() or path.is_symlink():
        yield path
        return
    for folder, folders, files in os.walk(path):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in (*files, *links))


def _fingerprint(path: Path) -> bytes:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return b"l" + os.fsencode(path.readlink())
    if not stat.S_ISREG(status.st_mode):
        return b"?"
    digest = hashlib.sha256(b"x" if status.st_mode & 0o111 else b"-")
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()
