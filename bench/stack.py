"""What the measurements share: running commands with a clock, and a table with the machine's name over it.

Standard library alone, so that `python3 bench/NAME.py` works on any machine that runs Paddock. Every bench works on a
Compose project of its own (`paddock-bench`) with its own volumes, port and state folder, and removes them at its end.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PADDOCK = ROOT / "paddock"
TASK = "Write 3 facts about the current project into FACTS.txt."


def machine() -> str:
    """One line: processor, cores, memory, system."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{model}, {os.cpu_count()} cores, {gib:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}"


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table, ready for the README."""
    print(f"\n### {title}\n\n{machine()}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "|".join(" --- " for _ in header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def seconds(value: float) -> str:
    """`1.2 s` or `3 min 20 s`."""
    if value < 60:
        return f"{value:.1f} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


@dataclass
class Project:
    """A stack of its own, driven by `./paddock`."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def paddock(self, *arguments: str, check: bool = True) -> dict[str, Any]:
        """Run a command with --json; returns its document.

        Raises:
            SystemExit: it failed; its own words were shown on standard error.
        """
        done = subprocess.run(
            [str(PADDOCK), *arguments, "--json"],
            env=self.variables,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if check and done.returncode:
            sys.exit(f"bench: `paddock {' '.join(arguments)}` ended with {done.returncode}")
        return json.loads(done.stdout)

    def timed(self, *arguments: str) -> tuple[float, dict[str, Any]]:
        """As `paddock`, with its wall-clock seconds before the document."""
        start = time.monotonic()
        document = self.paddock(*arguments)
        return time.monotonic() - start, document

    def containers(self) -> dict[str, str]:
        """Service → container id, of what runs."""
        project = f"label=com.docker.compose.project={self.variables['COMPOSE_PROJECT_NAME']}"
        shown = '{{.ID}} {{.Label "com.docker.compose.service"}}'
        rows = subprocess.run(
            ["docker", "ps", "--filter", project, "--format", shown],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.split("\n")
        return {service: container for container, _, service in (row.partition(" ") for row in rows if row)}

    def workspace(self) -> Path:
        """A new copy of the sample project."""
        target = Path(tempfile.mkdtemp(prefix="workspace-", dir=self.folder))
        shutil.copytree(ROOT / "scripts" / "paddock_cli" / "sample_project", target, dirs_exist_ok=True)
        return target


@contextmanager
def project(name: str = "paddock-bench") -> Iterator[Project]:
    """A project that is gone afterwards, with all that it wrote."""
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as folder:
        variables = os.environ | {
            "COMPOSE_PROJECT_NAME": name,
            "PADDOCK_STATE_DIR": f"{folder}/state",
            "MLFLOW_PORT": "0",
        }
        made = Project(Path(folder), variables)
        try:
            yield made
        finally:
            subprocess.run(
                [str(PADDOCK), "down", "--volumes", "--yes"],
                env=variables,
                stdout=subprocess.DEVNULL,
                check=False,
            )
