"""Where an attempt's workspace comes from: a folder, an archive, or a git repository at a commit.

Each is made anew for every attempt. What an archive or a repository holds is a stranger's: neither writes outside of the
workspace, and nothing in it is run while it is made.
"""

import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from paddock_cli import processes, trees
from paddock_cli.errors import BadWorkspace
from paddock_cli.suites.changes import git_variables
from paddock_cli.suites.model import Workspace

CLONE_SECONDS = 300
_GIT_OPTIONS = {
    # Hooks, filters and watchers that a template or a configuration would bring.
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "protocol.allow": "never",
    "protocol.https.allow": "always",
    "protocol.http.allow": "always",
    "protocol.ssh.allow": "always",
    "protocol.file.allow": "always",
    "credential.helper": "",
    "core.askPass": "true",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "advice.detachedHead": "false",
}
_PASSED = (
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "GIT_SSL_CAINFO"),
    "SSH_AUTH_SOCK",
)
"""What of the caller's environment leads to a server."""
_SSH = "ssh -oBatchMode=yes -oConnectTimeout=20"
"""Asks for no password and no host's key."""


def make(source: Workspace, files: Path, target: Path) -> None:
    """Make a new folder with a workspace's files.

    Args:
        files: the folder that folders and archives are named from.

    Raises:
        BadWorkspace: it can't be made; nothing is left of it.
    """
    try:
        if source.folder is not None:
            trees.copy(files / source.folder, target)
        elif source.archive is not None:
            _unpack(files / source.archive, target)
        else:
            assert source.git is not None
            assert source.commit is not None
            _clone(source.git, source.commit, target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


# Archives


def _unpack(archive: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    try:
        if archive.suffix == ".zip":
            _unzip(archive, target)
        else:
            _untar(archive, target)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadWorkspace(
            f"the archive {archive} to unpack below the workspace",
            reason,
            "pack it anew, without such entries",
        ) from None


def _untar(archive: Path, target: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise BadWorkspace(
            "a Python that unpacks strangers' archives safely, 3.11.4 or newer",
            "an older one",
            "pack the workspace as .zip, or put a newer python3 first on PATH",
        )
    bounds = _Bounds(archive)
    with tarfile.open(archive) as packed:
        for member in packed:
            bounds.count(member.name, member.size)
            # Refuses absolute names, `..`, links out of the folder, and devices; drops owners and set-id bits.
            packed.extract(member, target, filter="data")


def _unzip(archive: Path, target: Path) -> None:
    bounds = _Bounds(archive)
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            bounds.count(member.filename, member.file_size)
            path = PurePosixPath(member.filename)
            # `extract` would drop `..` silently, and put the file somewhere else than it says.
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                raise ValueError(f"{member.filename!r} leads out of the workspace")
            place = Path(packed.extract(member, target))
            mode = member.external_attr >> 16
            if not member.is_dir() and mode & 0o111:
                place.chmod(0o755)


class _Bounds:
    """What an archive says that it holds, before it is unpacked: neither library writes more than that."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._entries = 0
        self._bytes = 0

    def count(self, name: str, size: int) -> None:
        self._entries += 1
        self._bytes += size
        if self._entries > trees.MAX_ENTRIES or self._bytes > trees.MAX_BYTES:
            raise BadWorkspace(
                f"an archive of at most {trees.MAX_ENTRIES} entries and {trees.MAX_BYTES // 1024**2} MiB",
                f"more in {self._archive}, at {name!r}",
                "pack less",
            )


# Repositories


def _clone(address: str, commit: str, target: Path) -> None:
    target.mkdir(mode=0o700)
    _git(target, address, "init", "--quiet", "--template=")
    # The one commit alone; servers that don't give a commit by its id give all that they have.
    if _git(target, address, "fetch", "--quiet", "--depth=1", "--no-tags", address, commit, may_fail=True):
        _git(target, address, "fetch", "--quiet", "--no-tags", address, "+refs/*:refs/paddock/*")
    _git(target, address, "checkout", "--quiet", "--detach", commit)
    # Neither the address, which may hold a password, nor the server's branches are for the agent.
    for name in ("FETCH_HEAD", "logs"):
        place = target / ".git" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    trees.listed(target)


def _git(target: Path, address: str, *arguments: str, may_fail: bool = False) -> bool:
    """Run git in the new repository. Returns whether it failed, where it may."""
    options = [word for name, value in _GIT_OPTIONS.items() for word in ("-c", f"{name}={value}")]
    remedy = "mend address or commit; a repository that asks for a password can't be cloned here"
    variables = git_variables(*_PASSED) | {
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS": "true",
        "GIT_SSH_COMMAND": _SSH,
    }
    # With its helpers, which speak to the server: they would outlive it.
    ended = processes.run_to_end(["git", *options, *arguments], target, variables, CLONE_SECONDS)
    if ended.failed:
        raise BadWorkspace("git on this machine", ended.failed, "install git")
    if ended.timed_out:
        raise BadWorkspace(f"{address} to be cloned within {CLONE_SECONDS} s", "no end", remedy)
    if ended.code and not may_fail:
        told = ended.output.strip()[-400:] or f"exit code {ended.code}"
        raise BadWorkspace(f"to clone {address}", told, remedy)
    return bool(ended.code)
