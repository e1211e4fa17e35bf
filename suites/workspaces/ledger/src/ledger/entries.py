"""Entries, and the text file that holds them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from ledger import amounts
from ledger.errors import LedgerError


@dataclass(frozen=True)
class Entry:
    day: date
    category: str
    cents: int
    note: str = ""


def read(lines: Iterable[str]) -> list[Entry]:
    """The entries of a file, in its order. Empty lines and lines that begin with # are left out."""
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        fields = text.split(maxsplit=3)
        if len(fields) < 3:
            raise LedgerError(f"line {number}: expected date, category and amount")
        try:
            day = date.fromisoformat(fields[0])
        except ValueError:
            raise LedgerError(f"line {number}: not a date: {fields[0]!r}") from None
        try:
            cents = amounts.parse(fields[2])
        except LedgerError as error:
            raise LedgerError(f"line {number}: {error}") from None
        found.append(Entry(day, fields[1], cents, fields[3] if len(fields) > 3 else ""))
    return found


def line_of(entry: Entry) -> str:
    """The line of one entry."""
    text = f"{entry.day.isoformat()}  {entry.category:<10} {amounts.show(entry.cents):>9}"
    return f"{text}  {entry.note}" if entry.note else text
