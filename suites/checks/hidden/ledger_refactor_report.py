"""The same reports as before, out of short functions, and a fourth style by one entry of a table."""

import ast
import random
import unittest
from datetime import date
from pathlib import Path

from ledger import report
from ledger.entries import Entry
from ledger.errors import LedgerError

MAX_LINES = 25
CATEGORIES = ["rent", "food", "a,b", 'the "good" one', "pipe|line", "übung", "total"]


def money(cents):
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def expected(entries, by, style, currency):
    sums, counts = {}, {}
    for entry in entries:
        name = entry.day.strftime("%Y-%m") if by == "month" else entry.category
        sums[name] = sums.get(name, 0) + entry.cents
        counts[name] = counts.get(name, 0) + 1
    names = sorted(sums) if by == "month" else sorted(sums, key=lambda name: (sums[name], name))
    total, number = sum(sums.values()), len(entries)
    if style == "text":
        width = max(len(name) for name in [*names, "total"])
        lines = [f"{name:<{width}}  {money(sums[name]):>10}  {counts[name]:>4}" for name in names]
        lines += ["-" * (width + 18), f"{'total':<{width}}  {money(total):>10}  {number:>4}"]
    elif style == "markdown":
        lines = [f"| {by} | {currency} | entries |", "| --- | ---: | ---: |"]
        for name in names:
            shown = name.replace("|", "\\|")
            lines.append(f"| {shown} | {money(sums[name])} | {counts[name]} |")
        lines.append(f"| **total** | **{money(total)}** | **{number}** |")
    else:
        lines = [f"{by},{currency},entries"]
        for name in names:
            quoted = '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name
            lines.append(f"{quoted},{money(sums[name])},{counts[name]}")
    return "\n".join(lines) + "\n"


def some_entries(chance, number):
    return [
        Entry(
            date(chance.randint(2019, 2027), chance.randint(1, 12), chance.randint(1, 28)),
            chance.choice(CATEGORIES),
            chance.randint(-300000, 300000),
        )
        for _ in range(number)
    ]


class Behaviour(unittest.TestCase):
    def test_every_report_is_as_it_was(self):
        chance = random.Random(20260217)
        for number in (0, 1, 2, 5, 40, 200):
            entries = some_entries(chance, number)
            for by in ("month", "category"):
                for style in ("text", "markdown", "csv"):
                    with self.subTest(by=by, style=style, number=number):
                        found = report.render(entries, by, style, "CHF")
                        self.assertEqual(found, expected(entries, by, style, "CHF"))

    def test_equal_sums_are_in_the_order_of_names(self):
        entries = [Entry(date(2026, 1, 1), name, -100) for name in ("c", "a", "b")]
        self.assertEqual(
            report.render(entries, "category", "csv"), expected(entries, "category", "csv", "EUR")
        )

    def test_the_defaults(self):
        entries = some_entries(random.Random(3), 9)
        self.assertEqual(report.render(entries), expected(entries, "month", "text", "EUR"))

    def test_mistakes(self):
        with self.assertRaisesRegex(LedgerError, "no such grouping: 'year'"):
            report.render([], "year", "csv")
        with self.assertRaisesRegex(LedgerError, "no such style: 'pdf'"):
            report.render([], "month", "pdf")
        with self.assertRaisesRegex(LedgerError, "no such style"):
            report.render([], "year", "pdf")


class Structure(unittest.TestCase):
    def test_functions_are_short(self):
        tree = ast.parse(Path("src/ledger/report.py").read_text(encoding="utf-8"))
        functions = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        long = {
            one.name: one.end_lineno - one.lineno + 1
            for one in functions
            if one.end_lineno - one.lineno >= MAX_LINES
        }
        self.assertEqual(long, {})

    def test_a_style_is_one_entry_of_the_table(self):
        self.assertEqual(set(report.STYLES), {"text", "markdown", "csv"})

        def plain(title, currency, groups):
            rows = [f"{name}={cents}/{count}" for name, cents, count in groups]
            return f"{title} {currency} {' '.join(rows)}"

        report.STYLES["plain"] = plain
        self.addCleanup(report.STYLES.pop, "plain")
        entries = [
            Entry(date(2026, 1, 1), "b", -100),
            Entry(date(2025, 1, 1), "a", -300),
            Entry(date(2026, 1, 9), "b", 5),
        ]
        self.assertEqual(report.render(entries, "category", "plain", "NOK"), "category NOK a=-300/1 b=-95/2")
        self.assertEqual(report.render(entries, "month", "plain"), "month EUR 2025-01=-300/1 2026-01=-95/2")
