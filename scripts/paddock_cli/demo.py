"""`./paddock demo`: the first task on a sample project."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from paddock_cli.settings import Paths
from paddock_cli.task import Order

TASK = "Write 3 facts about the current project into FACTS.txt."
EXPECTATION = "Three facts about the project were written into FACTS.txt."
SAMPLE = Path(__file__).with_name("sample_project")


ORDINARY_USER = 1000


def order(where: Paths, workspace: Path | None, stack_kind: str) -> Order:
    """The first task, on the given folder or on a fresh copy of the sample project."""
    if workspace is None:
        workspace = _copy(where)
        if stack_kind == "compose" and os.getuid() == 0:
            # The agent runs as the owner of its workspace, which need not be root for a sample.
            for path in (workspace, *workspace.rglob("*")):
                os.chown(path, ORDINARY_USER, ORDINARY_USER)
    return Order(task=TASK, workspace=workspace, expectations=[EXPECTATION])


def _copy(where: Paths) -> Path:
    """A copy that keeps the project's name: the agent tells of the folder that it is in."""
    parent = where.state / "demo"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=parent))
    target = folder / "tide-tables"
    shutil.copytree(SAMPLE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target
