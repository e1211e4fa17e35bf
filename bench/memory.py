"""Memory of every service: idle, and at the peak of a judged run.

    python3 bench/memory.py [SECONDS]      idle is taken after 60 s of rest by default

As `docker stats` counts it: without the page cache that the kernel can take back.
"""

import re
import subprocess
import sys
import threading
import time

from stack import TASK, Project, project, table

_FACTOR = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def sample(stack: Project) -> dict[str, int]:
    """Service → bytes, of what runs now; a running agent included."""
    containers = stack.containers()
    if not containers:
        return {}
    told = subprocess.run(
        ["docker", "stats", "--no-stream", "--format", "{{.ID}} {{.MemUsage}}", *containers.values()],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout
    names = {container[:12]: service for service, container in containers.items()}
    found = {}
    for line in told.splitlines():
        if match := re.match(r"(\w+) ([\d.]+)(\w+)", line):
            found[names[match[1][:12]]] = int(float(match[2]) * _FACTOR[match[3]])
    return found


def main() -> None:
    rest = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    with project() as stack:
        stack.paddock("up", "--no-build")
        time.sleep(rest)
        idle = sample(stack)
        peak: dict[str, int] = dict(idle)
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                for service, size in sample(stack).items():
                    peak[service] = max(peak.get(service, 0), size)

        watcher = threading.Thread(target=watch)
        watcher.start()
        stack.paddock(
            "run", TASK, "--workspace", str(stack.workspace()), "--expect", "FACTS.txt holds three facts"
        )
        stop.set()
        watcher.join()

    def mib(size: int | None) -> str:
        return f"{size / 1024**2:.0f} MiB" if size else ""

    rows = [[service, mib(idle.get(service)), mib(peak[service])] for service in sorted(peak)]
    table("Memory", ["service", "idle", "peak"], [*rows, ["**sum**", f"**{mib(sum(idle.values()))}**", ""]])


if __name__ == "__main__":
    main()
