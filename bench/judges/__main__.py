"""Verdicts a second: Paddock's judging beside stock `mlflow.genai.evaluate`, in one run, on an instant provider.

    python3 bench/judges              about three minutes
    python3 bench/judges --quick      under two: one round, for a look
    python3 bench/judges --help

Needs PostgreSQL's programs (Debian: postgresql), no Docker. Everything listens on loopback alone, is a plain process with
one worker, and is ended by its pid. Writes results.md, results.json and results.svg.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    # Not a __pycache__ in what is run from a checkout.
    sys.dont_write_bytecode = True
    from launch import become

    become(HERE / "measure.py", HERE.parent / "gateway")
