"""Runs a bench in the environment of the command line, which has what it imports; itself needs Python alone."""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent


def become(script: Path, *modules: Path) -> None:
    """Go on as this script, with the caller's arguments; `modules` are folders that it imports from, beside bench/."""
    loader = importlib.machinery.SourceFileLoader("paddock_launcher", str(ROOT / "paddock"))
    spec = importlib.util.spec_from_loader("paddock_launcher", loader)
    assert spec
    launcher = importlib.util.module_from_spec(spec)
    # The launcher has no suffix: without this a __pycache__ would appear beside it.
    sys.dont_write_bytecode = True
    loader.exec_module(launcher)
    try:
        python = launcher.environment()
    except launcher.LauncherError as error:
        sys.exit(f"bench: {error}")
    path = os.pathsep.join(map(str, (ROOT / "scripts", BENCH, *modules)))
    os.execve(python, [str(python), str(script), *sys.argv[1:]], os.environ | {"PYTHONPATH": path})
