"""What an attempt changed, as a patch, made without a word of what the workspace itself says of git."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from paddock_cli import trees
from paddock_cli.trees import Tree

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 1000
MAX_PATCH_BYTES = 4 * 1024 * 1024
_SECONDS = 60
_DIFF = (
    *(
        "-c",
        "core.attributesFile=/dev/null",
        "-c",
        "core.quotePath=true",
        "diff",
        "--no-index",
        "--no-ext-diff",
    ),
    *("--no-textconv", "--no-color", "--no-prefix", "--no-renames", "--"),
)


def patch(before: Path, after: Path, old: Tree, new: Tree) -> str:
    """The difference of two copied folders, in git's form, for `git apply`.

    What is too large for it (a file of more than a MiB, more than 1000 files, a patch of more than 4 MiB) is named at its
    end, as is everything where this machine has no git.
    """
    names = trees.changed(old, new)
    taken = [name for name in names if _fits(old, name) and _fits(new, name)][:MAX_FILES]
    left = [name for name in names if name not in set(taken)]
    git = shutil.which("git")
    text = ""
    if git is None:
        left = names
    elif taken:
        with tempfile.TemporaryDirectory(prefix=".changes-", dir=after.parent) as scratch:
            text = _compared(git, Path(scratch), before, after, taken)
    notes = [f"# changed, not shown: {trees.shown(name).splitlines()[0]}\n" for name in left[:MAX_FILES]]
    return text + "".join(notes)


def git_variables(*passed: str) -> dict[str, str]:
    """The environment of a git that obeys no configuration of this user or of this machine.

    Args:
        passed: further variables of the caller's.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", *passed) if name in os.environ}
    return kept | {
        "HOME": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


def _fits(tree: Tree, name: str) -> bool:
    entry = tree.get(name)
    return entry is None or entry.kind == "link" or (entry.kind == "file" and entry.size <= MAX_FILE_BYTES)


def _compared(git: str, scratch: Path, before: Path, after: Path, names: list[str]) -> str:
    for side, source in (("a", before), ("b", after)):
        (scratch / side).mkdir()
        for name in names:
            if os.path.lexists(source / name):
                place = scratch / side / name
                place.parent.mkdir(parents=True, exist_ok=True)
                # The copies are ours: nobody else has put a link on the way.
                os.link(source / name, place, follow_symlinks=False)
    with (scratch / "patch").open("w+b") as out:
        process = subprocess.Popen(
            # What a file's name makes of it (attributes, filters, another program to compare) is not asked.
            [git, *_DIFF, "a", "b"],
            cwd=scratch,
            env=git_variables() | {"GIT_CEILING_DIRECTORIES": str(scratch.parent)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        out.seek(0)
        text = out.read(MAX_PATCH_BYTES).decode(errors="replace")
        cut = out.read(1)
    return text + ("\n# the patch goes on\n" if cut else "")
