"""What the linters look at: files of the repository by kind, never by name; and how a linter is run."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ROOT / "suites" / "workspaces"
"""Projects that the suites' tasks are about: some of their files are wrong on purpose."""


def files() -> list[Path]:
    """Files that are, or are about to be, in the repository, but for the projects of the suites' tasks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_relative_to(FOREIGN)]


def name_of(path: Path) -> str:
    """A file's name within the repository, which names its test too."""
    return path.relative_to(ROOT).as_posix()


def lint(program: str, *arguments: object, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run a linter of the tests' own environment, by default in the repository's folder."""
    return subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def is_script(path: Path) -> bool:
    """Whether a file names a shell in its first line."""
    with path.open("rb") as file:
        first = file.readline(200)
    return first.startswith(b"#!") and any(first.rstrip().endswith(shell) for shell in (b"bash", b"/sh"))


def is_lock(path: Path) -> bool:
    """Whether this is what `uv pip compile` made of a list of the same name."""
    return path.suffix == ".txt" and path.with_suffix(".in").exists()
