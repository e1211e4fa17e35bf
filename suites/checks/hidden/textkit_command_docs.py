"""docs/commands.md against the program's own parser."""

import argparse
import re
import unittest
from pathlib import Path

from textkit.cli import make_parser


def documented():
    rows = []
    for line in Path("docs/commands.md").read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            rows.append(cells)
    return rows[0], rows[2:]


def expected():
    parser = make_parser()
    commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    found = []
    for name, command in commands.choices.items():
        found.append((name, "", ""))
        for action in command._actions:
            if action.option_strings and action.dest != "help":
                default = "" if action.default is None or action.default is False else str(action.default)
                found.append((name, action.option_strings[-1], default))
    return found


class Documented(unittest.TestCase):
    def test_the_columns_are_as_they_were(self):
        self.assertEqual(documented()[0], ["command", "option", "default", "what it does"])

    def test_every_command_and_option_and_no_other(self):
        rows = [tuple(cell.strip("`") for cell in row[:3]) for row in documented()[1]]
        self.assertEqual(sorted(rows), sorted(expected()))

    def test_each_says_what_it_does(self):
        for row in documented()[1]:
            self.assertEqual(len(row), 4, row)
            self.assertTrue(row[3], row)
