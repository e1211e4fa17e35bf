"""The command line."""

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ledger import amounts, report, settings
from ledger.entries import Entry, line_of, read
from ledger.errors import LedgerError


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ledger", description="Household accounts in a plain text file.")
    parser.add_argument("accounts", type=Path, help="the file with the entries")
    commands = parser.add_subparsers(dest="command", required=True)

    add = commands.add_parser("add", help="append an entry")
    add.add_argument("day", type=day_of, metavar="DATE")
    add.add_argument("category")
    add.add_argument("amount")
    add.add_argument("note", nargs="?", default="")

    reporting = commands.add_parser("report", help="sums by month or category")
    reporting.add_argument("--by", choices=("month", "category"))
    reporting.add_argument("--style", choices=("text", "markdown", "csv"))

    commands.add_parser("check", help="read the file, say how many entries it has")
    return parser


def day_of(text: str) -> date:
    """A date argument."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a date: {text!r} (write it like 2026-01-31)") from None


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        return run(options)
    except LedgerError as error:
        print(f"ledger: {error}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    entries = load(options.accounts)
    if options.command == "add":
        if not options.category or options.category.split() != [options.category]:
            raise LedgerError("a category is one word")
        entry = Entry(options.day, options.category, amounts.parse(options.amount), options.note)
        with options.accounts.open("a", encoding="utf-8") as file:
            file.write(line_of(entry) + "\n")
    elif options.command == "report":
        chosen = settings.load(settings.usual_files(options.accounts))
        by = options.by or chosen["report"]["by"]
        style = options.style or chosen["report"]["style"]
        print(report.render(entries, by, style, chosen["currency"]), end="")
    else:
        print(f"{options.accounts}: {len(entries)} entries")
    return 0


def load(accounts: Path) -> list[Entry]:
    try:
        with accounts.open(encoding="utf-8") as file:
            return read(file)
    except FileNotFoundError:
        raise LedgerError(f"no such file: {accounts}") from None
