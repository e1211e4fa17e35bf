"""The gateway side by side with its peers, in one run: direct, stock MLflow, Paddock, LiteLLM proxy, Portkey.

    python3 bench/gateway              about six minutes
    python3 bench/gateway --quick      under two: one round, for a look
    python3 bench/gateway --help

Needs Go, Node with npm, and PostgreSQL's programs (Debian: golang nodejs npm postgresql), no Docker. Everything listens
on loopback alone, is a plain process with one worker, and is ended by its pid. Writes results.md, results.json and
results.svg.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    # Not a __pycache__ in what is run from a checkout.
    sys.dont_write_bytecode = True
    from launch import become

    become(HERE / "measure.py")
