"""Runs probes by name, or all; `--list` prints what there are."""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from paddock_probes import files, gate, identity, kernel, network  # noqa: F401  (each registers its probes)
from paddock_probes.registry import PROBES, Finding, Probe, Targets, find

SECONDS = 60
"""For one probe in a process of its own."""


def main() -> int:
    """Exit code 0 where every probe could be run, whatever it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("probes", nargs="*", help="names; all if none is given")
    parser.add_argument("--targets", default="{}", help="JSON: where to aim; - reads it from standard input")
    parser.add_argument("--list", action="store_true")
    parser.add_argument(
        "--harmless", action="store_true", help="all of this package, none of a module beside it"
    )
    parser.add_argument("--out", help="a file to append the lines to as well")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(PROBES))
        return 0
    names = arguments.probes or [
        name for name, one in PROBES.items() if _is_harmless(one) or not arguments.harmless
    ]
    if unknown := [name for name in names if name not in PROBES]:
        parser.error(f"expected probes of --list, found {', '.join(unknown)}")
    if arguments.targets == "-":
        arguments.targets = sys.stdin.read()
    targets = Targets.of(arguments.targets)
    if len(names) == 1:
        _tell(find(names[0], targets), arguments.out)
        return 0
    # What changes its process comes first, one after the other; what waits for answers, all at once.
    failed = [name for name in names if PROBES[name].alone and not _apart(name, arguments)]
    waiting = [name for name in names if not PROBES[name].alone]
    with ThreadPoolExecutor(32) as pool:
        for found in pool.map(lambda name: find(name, targets), waiting):
            _tell(found, arguments.out)
    return 1 if failed else 0


def _is_harmless(one: Probe) -> bool:
    return one.run.__module__.partition(".")[0] == __name__.partition(".")[0]


def _tell(found: Finding, out: str | None) -> None:
    print(found.as_json(), flush=True)
    if out:
        with open(out, "a", encoding="utf-8") as file:
            file.write(found.as_json() + "\n")


def _apart(name: str, arguments: argparse.Namespace) -> bool:
    """Run one probe in a process of its own: this very archive, called again."""
    archive = str(Path(__file__).parents[1])
    # By standard input: arguments can be seen, and there are keys among the targets.
    command = [sys.executable, "-I", archive, "--targets", "-", name]
    command += ["--out", arguments.out] if arguments.out else []
    try:
        done = subprocess.run(command, input=arguments.targets.encode(), timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
