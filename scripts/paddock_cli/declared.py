"""What the commands over a declared file (`./paddock config`, `./paddock judges`) have in common: their last words."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from paddock_cli import console
from paddock_cli.errors import Declined

if TYPE_CHECKING:
    from paddock_mlflow.config.plan import Change, Plan


def tell_valid(file: Path, notes: list[str], *, as_json: bool) -> None:
    """That a file has no mistake, and what is to be known of it."""
    if as_json:
        console.document({"file": str(file), "valid": True, "notes": notes})
        return
    for note in notes:
        console.say(note)
    console.out.print(f"{file} is valid", style="green", soft_wrap=True)


def tell_applied(
    file: Path,
    planned: "Plan",
    done: "list[Change]",
    *,
    prune: bool,
    as_json: bool,
    plan_command: str,
    agreed: str,
) -> None:
    """What was changed, and what was left alone.

    Args:
        plan_command: where to read more of the latter.
        agreed: what to say where nothing differed.
    """
    left = () if prune else planned.unmanaged
    if as_json:
        console.document(
            {
                "file": str(file),
                "changed": [change.as_json() for change in done],
                "unmanaged": [change.as_json() for change in left],
                "notes": list(planned.notes),
            }
        )
        return
    for note in planned.notes:
        console.say(note)
    if left:
        console.say(f"{len(left)} not in the file, left alone ({plan_command})")
    console.out.print(f"{len(done)} changed" if done else agreed, style="green")


def write_export(
    file: Path | None, exported: Callable[[], tuple[str, list[str]]], *, yes: bool, as_json: bool
) -> None:
    """Write what the stack has to a file, or to standard output where none is named.

    Args:
        exported: asks the stack for the text, and for what the text can't say; called after the question.

    Raises:
        Declined: the file is there and is not to be overwritten.
    """
    if file is not None and file.exists() and not yes and not typer.confirm(f"Overwrite {file}?", err=True):
        raise Declined("a confirmation", "none", "nothing was written; add --yes to overwrite")
    text, left_out = exported()
    for one in left_out:
        console.warn(f"left out: {one}")
    if file is not None:
        file.write_text(text)
        console.say(f"written to {file}")
    if as_json:
        console.document({"file": str(file) if file else None, "yaml": text, "left_out": left_out})
    elif file is None:
        console.out.file.write(text)
