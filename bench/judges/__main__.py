"""Verdicts a second: Paddock's judging beside stock `mlflow.genai.evaluate`, in one run, on an instant provider.

    python3 bench/judges              about three minutes
    python3 bench/judges --quick      under two: one round, for a look
    python3 bench/judges --help

Needs PostgreSQL's programs (Debian: postgresql), no Docker. Everything listens on loopback alone, is a plain process with
one worker, and is ended by its pid. Writes results.md, results.json and results.svg.
"""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> None:
    """Become measure.py in the environment of the command line, which has what it imports."""
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
    variables = os.environ | {
        "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT / 'bench'}:{ROOT / 'bench' / 'gateway'}"
    }
    os.execve(python, [str(python), str(HERE / "measure.py"), *sys.argv[1:]], variables)


if __name__ == "__main__":
    main()
