"""Folders that an agent has written: copied, listed and read without following where it points.

Links are copied as links, whatever they point to. Pipes, sockets and devices are never opened. What is too large or too
deep is refused, by what a file says of its size: one of holes counts in full.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from paddock_cli.errors import BadWorkspace

MAX_BYTES = 2 * 1024**3
MAX_ENTRIES = 100_000
MAX_DEPTH = 200
"""Of a workspace that is copied: bytes of its files, files and folders, folders in each other."""
AGENT_ID = 1000
"""User and group of agents, where nobody says otherwise; as docker-compose.yml has it."""
_BLOCK = 1024 * 1024
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = _OPEN | os.O_DIRECTORY
_CACHES = re.compile(r"(^|/)(__pycache__|\.pytest_cache|\.mypy_cache|\.ruff_cache)/|\.pyc$")


@dataclass(frozen=True)
class Entry:
    """What stands under a name: a `file` with the SHA-256 of its content, a `link` with its target, or a `special` one
    (pipe, socket, device, or what can't be read), which is not copied."""

    kind: str
    content: str = ""
    size: int = 0
    executable: bool = False


Tree = Mapping[str, Entry]
"""Names below a folder, with slashes, to what stands there. Empty folders are left out."""


def copy(source: Path, target: Path) -> Tree:
    """Copy a folder into a new one; what is copied belongs to the caller.

    Raises:
        BadWorkspace: it is beyond the limits, or the disk is full.
    """
    target.mkdir(mode=0o700)
    try:
        return _walk(source, target)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise BadWorkspace(
            f"to copy {source}", os.strerror(error.errno or errno.EIO), "free some space"
        ) from None
    except BadWorkspace:
        shutil.rmtree(target, ignore_errors=True)
        raise


def listed(source: Path) -> Tree:
    """What a folder holds. Raises BadWorkspace, as `copy`."""
    return _walk(source, None)


def lay_over(files: Path, target: Path) -> None:
    """Put the files of a trusted folder into a copy, in place of whatever has their names, links and folders included."""
    for folder, folders, names in os.walk(files):
        here = target / Path(folder).relative_to(files)
        for name in folders:
            place = here / name
            if (Path(folder) / name).is_symlink():
                _put_away(place)
                place.symlink_to((Path(folder) / name).readlink())
            elif place.is_symlink() or not place.is_dir():
                _put_away(place)
                place.mkdir()
        for name in names:
            _put_away(here / name)
            shutil.copy(Path(folder) / name, here / name, follow_symlinks=False)


def read(folder: Path, name: str, limit: int) -> bytes | None:
    """The beginning of a file below a folder; None where there is none, or a link on the way.

    Args:
        limit: bytes.
    """
    descriptors = [os.open(folder, _FOLDER)]
    try:
        *folders, last = PurePosixPath(name).parts
        for step in folders:
            descriptors.append(os.open(step, _FOLDER, dir_fd=descriptors[-1]))
        descriptors.append(os.open(last, _OPEN, dir_fd=descriptors[-1]))
        if not stat.S_ISREG(os.fstat(descriptors[-1]).st_mode):
            return None
        with os.fdopen(os.dup(descriptors[-1]), "rb") as file:
            return file.read(limit)
    except OSError:
        return None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def exists(tree: Tree, name: str) -> bool:
    """Whether something of that name, or below it, is there."""
    wanted = PurePosixPath(name).as_posix()
    return wanted in tree or any(one.startswith(f"{wanted}/") for one in tree)


def changed(before: Tree, after: Tree) -> list[str]:
    """The names that are new, gone or different, without a repository's own records and caches of interpreters."""
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name) and not _beside_the_work(name)]


def matcher(globs: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a name is one of these: `*` and `?` stay within a folder, `**` goes across."""
    patterns = [re.compile(_pattern(PurePosixPath(glob).as_posix()), re.DOTALL) for glob in globs]
    return lambda name: any(pattern.fullmatch(name) for pattern in patterns)


def shown(name: str) -> str:
    """A name of any bytes as text that every document can hold."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def give(folder: Path, uid: int, gid: int) -> None:
    """Hand a folder over, by descriptors: who has it may have put links there, and may do so now."""
    for _, folders, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        os.fchown(descriptor, uid, gid)
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)


def let_agents_have(kind: str, folder: Path) -> None:
    """Where root made a folder for a container, give it to the user that agents have: none needs to be root for it."""
    if kind == "compose" and os.getuid() == 0:
        give(folder, AGENT_ID, AGENT_ID)


def _beside_the_work(name: str) -> bool:
    return name == ".git" or name.startswith(".git/") or bool(_CACHES.search(name))


def _pattern(glob: str) -> str:
    text = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", glob):
        text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return text


def _put_away(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _walk(source: Path, target: Path | None) -> Tree:
    walk = _Walk(source)
    descriptors = [os.open(source, _FOLDER)]
    if target is not None:
        descriptors.append(os.open(target, _FOLDER))
    try:
        walk.folder(descriptors[0], descriptors[1] if target is not None else None, "", 0)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return walk.tree


class _Walk:
    """One pass over a folder; where it has a target, what it finds is copied there."""

    def __init__(self, source: Path) -> None:
        self.tree: dict[str, Entry] = {}
        self._source = source
        self._entries = 0
        self._bytes = 0

    def folder(self, here: int, there: int | None, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._beyond(f"folders {MAX_DEPTH} deep at most", "deeper ones")
        for name in sorted(os.listdir(here)):
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise self._beyond(f"at most {MAX_ENTRIES} files and folders", "more")
            self._one(here, there, name, prefix + name, depth)

    def _one(self, here: int, there: int | None, name: str, path: str, depth: int) -> None:
        try:
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            self._down(here, there, name, path, depth)
        elif stat.S_ISLNK(status.st_mode):
            to = os.readlink(name, dir_fd=here)
            self.tree[path] = Entry("link", to)
            if there is not None:
                os.symlink(to, name, dir_fd=there)
        elif stat.S_ISREG(status.st_mode):
            self.tree[path] = self._file(here, there, name)
        else:
            self.tree[path] = Entry("special")

    def _down(self, here: int, there: int | None, name: str, path: str, depth: int) -> None:
        try:
            below = os.open(name, _FOLDER, dir_fd=here)
        except PermissionError:
            self.tree[path] = Entry("special")
            return
        copied = None
        try:
            if there is not None:
                os.mkdir(name, 0o755, dir_fd=there)
                copied = os.open(name, _FOLDER, dir_fd=there)
            self.folder(below, copied, f"{path}/", depth + 1)
        finally:
            os.close(below)
            if copied is not None:
                os.close(copied)

    def _file(self, here: int, there: int | None, name: str) -> Entry:
        try:
            descriptor = os.open(name, _OPEN, dir_fd=here)
        except PermissionError:
            return Entry("special")
        with os.fdopen(descriptor, "rb") as file:
            # Looked at again: what was a file may be something else by now.
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Entry("special")
            self._bytes += status.st_size
            if self._bytes > MAX_BYTES:
                raise self._beyond(f"at most {MAX_BYTES // 1024**2} MiB in its files", "more")
            executable = bool(status.st_mode & 0o111)
            digest, size = hashlib.sha256(), 0
            out = None
            if there is not None:
                mode = 0o755 if executable else 0o644
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                out = os.open(name, flags, mode, dir_fd=there)
            try:
                for block in _blocks(file, status.st_size):
                    digest.update(block)
                    size += len(block)
                    if out is not None:
                        _write(out, block)
            finally:
                if out is not None:
                    os.close(out)
        return Entry("file", digest.hexdigest(), size, executable)

    def _beyond(self, expected: str, found: str) -> BadWorkspace:
        return BadWorkspace(
            f"a workspace with {expected}",
            f"{found} in {self._source}",
            "start from a smaller one, or clean it up",
        )


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """A file's content, no more than it said it has: one that grows meanwhile must not fill the disk."""
    left = size
    while left and (block := file.read(min(_BLOCK, left))):
        left -= len(block)
        yield block


def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
