"""Settings out of two files, over defaults; docs/settings.md."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger.errors import LedgerError

DEFAULTS: dict[str, Any] = {
    "currency": "EUR",
    "report": {"by": "month", "style": "text", "colours": {"enabled": True, "negative": "red"}},
    "import": {"skip": []},
}


def load(files: Sequence[Path]) -> dict[str, Any]:
    """The settings of the files that exist, later ones over earlier ones, all over the defaults."""
    settings = DEFAULTS
    for file in files:
        if file.exists():
            settings = merge(settings, _read(file), str(file))
    return settings


def merge(below: dict[str, Any], above: dict[str, Any], source: str) -> dict[str, Any]:
    """`above`, which comes from `source`, over `below`."""
    return {**below, **above}


def usual_files(accounts: Path) -> list[Path]:
    return [Path.home() / ".config" / "ledger.toml", accounts.parent / "ledger.toml"]


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise LedgerError(f"{file}: {error}") from None
