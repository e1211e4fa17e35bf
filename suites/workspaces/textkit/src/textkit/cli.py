"""The command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from textkit import strings
from textkit.tables import table, wrap


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="textkit", description="Small tools for text.")
    commands = parser.add_subparsers(dest="command", required=True)

    slugging = commands.add_parser("slug", help="a text as part of an address")
    slugging.add_argument("text")
    slugging.add_argument("--separator", default="-", help="between words")
    slugging.add_argument("--limit", type=int, help="characters at most")

    wrapping = commands.add_parser("wrap", help="break lines")
    wrapping.add_argument("file", type=Path)
    wrapping.add_argument("--width", type=int, default=72, help="columns")
    wrapping.add_argument("--indent", type=int, default=0, help="spaces before each line")

    tabling = commands.add_parser("table", help="columns out of a file with tabs")
    tabling.add_argument("file", type=Path)
    tabling.add_argument("--align", choices=("left", "right", "centre"), default="left", help="of all columns")
    tabling.add_argument("--gap", type=int, default=2, help="spaces between columns")
    tabling.add_argument("--limit", type=int, help="characters of a cell at most")

    counting = commands.add_parser("count", help="lines, words or characters of a file")
    counting.add_argument("file", type=Path)
    what = counting.add_mutually_exclusive_group()
    what.add_argument("--lines", action="store_true", help="lines (the default)")
    what.add_argument("--words", action="store_true", help="words apart by white space")
    what.add_argument("--characters", action="store_true", help="characters, not bytes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    if options.command == "slug":
        print(strings.slug(options.text, options.separator, options.limit))
        return 0
    try:
        text = options.file.read_text(encoding="utf-8")
    except OSError as error:
        print(f"textkit: {options.file}: {error.strerror}", file=sys.stderr)
        return 1
    if options.command == "wrap":
        print(wrap(text, options.width, options.indent))
    elif options.command == "table":
        rows = [line.split("\t") for line in text.splitlines()]
        print(table(rows, options.align, options.gap, options.limit), end="")
    elif options.words:
        print(len(text.split()))
    elif options.characters:
        print(len(text))
    else:
        print(len(text.splitlines()))
    return 0
