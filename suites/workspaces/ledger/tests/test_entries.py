import unittest
from datetime import date

from ledger import amounts
from ledger.entries import Entry, line_of, read
from ledger.errors import LedgerError


class Amounts(unittest.TestCase):
    def test_they_are_cents(self):
        self.assertEqual([amounts.parse(text) for text in ("-23.40", "7", "0.5")], [-2340, 700, 50])

    def test_shown_as_they_are_written(self):
        for text in ("-0.05", "0.00", "1234.56"):
            self.assertEqual(amounts.show(amounts.parse(text)), text)

    def test_what_is_none(self):
        for text in ("", "1.234", "1,50", "--2"):
            with self.subTest(text), self.assertRaises(LedgerError):
                amounts.parse(text)


class Entries(unittest.TestCase):
    def test_comments_and_empty_lines_are_left_out(self):
        found = read(["# 2025", "", "2026-01-14  groceries  -23.40  Weekly shop"])
        self.assertEqual(found, [Entry(date(2026, 1, 14), "groceries", -2340, "Weekly shop")])

    def test_a_line_comes_back_as_it_was(self):
        entry = Entry(date(2026, 1, 15), "salary", 245000)
        self.assertEqual(read([line_of(entry)]), [entry])

    def test_a_mistake_names_its_line(self):
        with self.assertRaisesRegex(LedgerError, "line 2: not a date"):
            read(["2026-01-14 rent -780.00", "14.1.2026 rent -780.00"])
