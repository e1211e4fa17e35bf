"""Text in columns."""

import textwrap
from collections.abc import Sequence

from textkit.strings import shorten

_ALIGN = {"left": str.ljust, "right": str.rjust, "centre": str.center}


def table(rows: Sequence[Sequence[str]], align: str = "left", gap: int = 2, limit: int | None = None) -> str:
    """Rows in columns of equal width; a row may be shorter than others."""
    shown = [[shorten(cell, limit) if limit else cell for cell in row] for row in rows]
    columns = max((len(row) for row in shown), default=0)
    widths = [max(len(row[i]) for row in shown if i < len(row)) for i in range(columns)]
    place = _ALIGN[align]
    return "".join(
        (" " * gap).join(place(cell, width) for cell, width in zip(row, widths)).rstrip() + "\n" for row in shown
    )


def wrap(text: str, width: int = 72, indent: int = 0) -> str:
    """Paragraphs, apart by empty lines, broken at `width` columns."""
    space = " " * indent
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    return "\n\n".join(
        textwrap.fill(" ".join(part.split()), width, initial_indent=space, subsequent_indent=space)
        for part in paragraphs
    )
