"""The hidden tests of one task: `python3 -I hidden/run.py NAME`, from the finished workspace.

They run in a process of their own, which has to say at its end how many tests ran: code under test that ends the
process early has passed nothing, whatever its exit code. `-I` keeps modules of the workspace from taking the place of
Python's own.
"""

import importlib.util
import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = Path.cwd() / "src"


def main() -> int:
    """0 where every test of the module ran to its end and passed."""
    name = sys.argv[1]
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-I", str(HERE / "run.py"), name, str(writing)], pass_fds=(writing,)
    )
    os.close(writing)
    with open(reading, encoding="utf-8") as said:
        told = said.read()
    code = child.wait()
    try:
        result = json.loads(told)
    except ValueError:
        print(f"hidden tests: the process ended early, with exit code {code}", file=sys.stderr)
        return 1
    return 0 if result["passed"] and result["ran"] else 1


def run_here(name: str, descriptor: int) -> None:
    """Runs the module's tests in this process, and tells of them by the descriptor."""
    # At the end: nothing that the workspace holds is imported in place of Python's own.
    sys.path.append(str(SOURCE))
    spec = importlib.util.spec_from_file_location(f"hidden_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = unittest.defaultTestLoader.loadTestsFromModule(module)
    result = unittest.TextTestRunner(verbosity=1).run(tests)
    with open(descriptor, "w", encoding="utf-8") as said:
        json.dump({"ran": result.testsRun, "passed": result.wasSuccessful() and not result.skipped}, said)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run_here(sys.argv[1], int(sys.argv.pop()))
    else:
        sys.exit(main())
