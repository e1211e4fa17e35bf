"""Keeps the surroundings of a run from changing it: `.env` files, telemetry, stray output, the agent's own shell.

python-dotenv is called at import by LiteLLM, browser-use and lmnr. lmnr even asks a `.env` in the working folder or
above it for each variable that is not set, so a workspace holding LMNR_PROJECT_API_KEY would send its traces to
another host. Three measures: load_dotenv is switched off while the libraries are imported, the process works in `/`,
which no agent writes, and what lmnr would look up is set.
"""

from __future__ import annotations

import os
import stat
import sys
import warnings
from pathlib import Path
from typing import TextIO

# Only while the libraries are imported: an agent's own programs may well want python-dotenv and debug output.
_WHILE_IMPORTING = {
    "PYTHON_DOTENV_DISABLED": "1",
    "LITELLM_MODE": "PRODUCTION",
    # Without it LiteLLM fetches its price list from the Internet at import.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LOG_TO_FILE": "false",
    "LOG_JSON": "true",
    "LOG_RICH_TRACEBACKS": "false",
    "BROWSER_USE_SETUP_LOGGING": "false",
}
_UNTIL_SET_UP = {
    "LMNR_LOG_LEVEL": "CRITICAL",
    "OPENHANDS_SUPPRESS_BANNER": "1",
    "LITELLM_TELEMETRY": "False",
}
# Read again in the run: the first with each span, the others when a browser starts.
_TO_THE_END = {
    "LMNR_DISABLE_TRACING": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "BROWSER_USE_CLOUD_SYNC": "false",
    # Ad blockers and the like, fetched from the Internet at each start.
    "BROWSER_USE_DISABLE_EXTENSIONS": "1",
    "DO_NOT_TRACK": "1",
    # The terminal tool exports a secret by a command, which a shell would keep.
    "HISTFILE": "/dev/null",
}
# Each would take the traces elsewhere, or make the SDK ask a question on standard input.
_UNWANTED = ("LMNR_PROJECT_API_KEY", "LMNR_BASE_URL", "LMNR_DEBUG", "LMNR_SPAN_CONTEXT", "DEBUG_LLM", "DEBUG")
# The agent's programs have no business with the run's key, and spans of theirs would end in the run's experiment.
_PRIVATE_PREFIXES = ("PADDOCK_AGENT_", "OTEL_", "LMNR_")
_PRIVATE = ("LLM_API_KEY", *_UNTIL_SET_UP)


def take_stdout() -> TextIO:
    """Standard output for the runner alone; what libraries and children print goes to standard error from now on."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
    os.dup2(2, 1)
    return own


class Surroundings:
    """The process's environment and folder: closed for the imports, then without what the agent's shell must not see."""

    def __init__(self, log_level: str, openhands_home: Path) -> None:
        """`openhands_home` stands for ~/.openhands, whose plugins, hooks and profiles would change a run."""
        self._own = dict(os.environ)
        self._openhands_home = openhands_home
        self._log_level = log_level

    def close(self) -> None:
        """Call before anything of the SDK is imported."""
        for name in _UNWANTED:
            os.environ.pop(name, None)
        os.environ.update(_WHILE_IMPORTING | _UNTIL_SET_UP | _TO_THE_END)
        os.environ["LOG_LEVEL"] = self._log_level
        os.environ["OH_PERSISTENCE_DIR"] = str(self._openhands_home)
        if "utf" not in _character_set():
            # tmux would print its field separators as `_`, and the terminal tool fails to start.
            os.environ["LC_ALL"] = "C.UTF-8"
        os.chdir("/")
        if self._log_level == "CRITICAL":
            # One a call otherwise, such as that the SDK knows no price for an endpoint's name.
            warnings.simplefilter("ignore")

    def hide_from_tools(self) -> None:
        """Call when everything is imported and the exporter has its settings, before the first tool starts."""
        for name in (*_WHILE_IMPORTING, "LOG_LEVEL", "DEBUG", "OH_PERSISTENCE_DIR"):
            os.environ.pop(name, None)
            if name in self._own:
                os.environ[name] = self._own[name]
        for name in list(os.environ):
            if name not in _TO_THE_END and (name.startswith(_PRIVATE_PREFIXES) or name in _PRIVATE):
                del os.environ[name]
        own_folder = str(Path(__file__).resolve().parents[1])
        if path := os.environ.pop("PYTHONPATH", None):
            others = [part for part in path.split(os.pathsep) if part != own_folder]
            if others:
                os.environ["PYTHONPATH"] = os.pathsep.join(others)


def _character_set() -> str:
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return next((name for name in names if name), "").lower()


def current_umask() -> int:
    """The process's umask. (POSIX has no call that only reads it.)"""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def give_user_mode(path: Path, umask: int) -> None:
    """Gives a file that the file editor has made the mode that any other program would have given it.

    The editor writes to a temporary file, which is 0600, and renames it. By a descriptor: the name may have become a link
    to another file meanwhile, and a file with a second name may be anybody's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.fchmod(descriptor, 0o666 & ~umask)
    finally:
        os.close(descriptor)
