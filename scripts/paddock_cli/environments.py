"""Python environments in the user's cache, one for each hash-locked list and interpreter, shared by all checkouts."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from paddock_cli import console, pythons
from paddock_cli.errors import EnvironmentFailed

_READY = "paddock-ready"
_MISLEADING = {
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "UV_PROJECT_ENVIRONMENT",
    "UV_SYSTEM_PYTHON",
}


class Environments:
    """Makes environments on demand.

    Args:
        cache: the folder that keeps them.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "venvs"
        self._python: Path | None = None

    def python(self, name: str, lock: Path) -> Path:
        """The interpreter of the environment that holds a lock's packages, made where it is missing.

        Args:
            name: what the environment is for, shown to the user.
            lock: a requirements file with hashes.

        Raises:
            EnvironmentFailed: no Python of 3.12 or newer, no package index, or no space.
        """
        try:
            text = lock.read_bytes()
        except OSError as error:
            raise EnvironmentFailed(
                f"the lock {lock}", str(error.strerror), "restore it from the repository"
            ) from None
        base = self._base_python()
        digest = hashlib.sha256(str(base).encode() + b"|" + text).hexdigest()[:16]
        target = self._folder / f"{name}-{digest}"
        python = target / "bin" / "python"
        if self._usable(target):
            return python
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / f"{target.name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Another call may have made it while this one waited.
            if not self._usable(target):
                with console.step(f"installing the packages of {name}"):
                    self._make(target, lock, base)
        return python

    @staticmethod
    def _usable(target: Path) -> bool:
        return (target / _READY).exists() and (target / "bin" / "python").exists()

    def _base_python(self) -> Path:
        if self._python is None:
            self._python = pythons.find(uv())
        return self._python

    def _make(self, target: Path, lock: Path, base: Path) -> None:
        """Build beside the target and rename, so that a call cut off leaves nothing that looks finished."""
        shutil.rmtree(target, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        variables = installer_variables()
        try:
            _run(
                [uv(), "venv", "--quiet", "--relocatable", "--allow-existing", "--python", base, partial],
                variables,
            )
            python = partial / "bin" / "python"
            _run(
                [uv(), "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock],
                variables,
            )
            (partial / _READY).touch()
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def uv() -> Path:
    """The uv that the command line's own lock pins."""
    from uv import find_uv_bin

    return Path(find_uv_bin())


def installer_variables() -> dict[str, str]:
    """The caller's environment, with what pip is set to on this machine in the names that uv reads."""
    variables = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    pip = _pip_settings()
    if not variables.keys() & {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} and (index := pip.get("index-url")):
        variables["UV_DEFAULT_INDEX"] = index
    if not variables.keys() & {"UV_INDEX", "UV_EXTRA_INDEX_URL"} and (extra := pip.get("extra-index-url")):
        variables["UV_INDEX"] = " ".join(extra.split())
    if "SSL_CERT_FILE" not in variables and (certificate := pip.get("cert")):
        variables["SSL_CERT_FILE"] = certificate
    return variables


def _pip_settings() -> dict[str, str]:
    """pip's own settings, from its files and variables, by option name."""
    answer = subprocess.run(
        [sys.executable, "-I", "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    found: dict[str, str] = {}
    for line in answer.stdout.splitlines() if answer.returncode == 0 else []:
        name, _, value = line.partition("=")
        # Variables (":env:.name") come last in pip's own order of precedence, and in this list.
        found[name.rpartition(".")[2]] = value.strip().strip("'\"").replace("\\n", " ")
    return found


def _run(command: list[object], variables: dict[str, str]) -> None:
    result = subprocess.run(
        [str(part) for part in command],
        env=variables,
        # Not where the user is: uv.toml, pyproject.toml or .python-version of a workspace are not ours to obey.
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        told = (result.stderr or result.stdout).strip()[-1500:]
        raise EnvironmentFailed(
            f"`uv {' '.join(str(part) for part in command[1:3])}` to succeed",
            f"exit code {result.returncode}:\n{told}\n",
            "mend what it names (pip's or uv's own settings give the package index) and try again",
        )
