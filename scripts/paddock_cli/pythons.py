"""Finding a Python for the parts that run without Docker: they need 3.12 or newer."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from paddock_cli.errors import EnvironmentFailed

MINIMUM = (3, 12)
PREFERRED = ((3, 13), (3, 12), (3, 14))
"""Versions that the locks were tried with come first."""

# A Python built without one of these imports neither MLflow nor OpenHands.
_PROBE = (
    "import sys, sqlite3, ssl, ctypes, bz2, lzma, zlib, venv;"
    "print('%d.%d|%s' % (*sys.version_info[:2], sys.executable))"
)


def find(uv: Path | None = None) -> Path:
    """The best Python of 3.12 or newer: on PATH, of pyenv, or known to uv.

    Raises:
        EnvironmentFailed: there is none; the text tells what was looked at.
    """
    usable: dict[tuple[int, int], Path] = {}
    seen: list[str] = []
    for candidate in dict.fromkeys(_candidates(uv)):
        version = _probe(candidate)
        seen.append(f"{candidate} ({'.'.join(map(str, version)) if version else 'not usable'})")
        if version and version >= MINIMUM:
            usable.setdefault(version, candidate)
            if version == PREFERRED[0]:
                break
    for version in (*PREFERRED, *sorted(usable)):
        if version in usable:
            return usable[version]
    raise EnvironmentFailed(
        "a Python 3.12 or newer with sqlite3 and ssl, on PATH, of pyenv, or of uv",
        ", ".join(seen) or "no Python at all",
        "install one (Debian 13: apt-get install python3-venv; anywhere: `uv python install 3.13` or `pyenv install"
        " 3.13`), or install Docker and run without --embedded",
    )


def _candidates(uv: Path | None) -> Iterator[Path]:
    yield Path(sys.executable).resolve()
    names = [f"python{major}.{minor}" for major, minor in PREFERRED] + ["python3"]
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    for name in names:
        # pyenv's shims start whatever version the current folder asks for: the versions themselves follow.
        yield from (
            path for folder in folders if os.access(path := folder / name, os.X_OK) and folder.name != "shims"
        )
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    try:
        versions = sorted(pyenv.iterdir(), reverse=True)
    except OSError:
        # There is none, or it is another user's, as after `sudo`.
        versions = []
    yield from (path / "bin" / "python3" for path in versions)
    if uv is not None:
        found = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", ">=3.12"],
            capture_output=True,
            text=True,
            check=False,
            # A workspace's own .venv is not a Python to run: an agent may have put it there.
            cwd="/",
        )
        if found.returncode == 0 and found.stdout.strip():
            yield Path(found.stdout.strip())


def _probe(python: Path) -> tuple[int, int] | None:
    if not os.access(python, os.X_OK):
        return None
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return None
    major, minor = answer.stdout.partition("|")[0].split(".")
    return int(major), int(minor)
