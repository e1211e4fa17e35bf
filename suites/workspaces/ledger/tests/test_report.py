import unittest

from ledger import report
from ledger.entries import read
from ledger.errors import LedgerError

ENTRIES = read(
    ["2026-01-02 rent -780.00", "2026-01-28 salary 2450.00", "2025-12-19 gifts -64.95", "2025-12-02 rent -780.00"]
)


class Report(unittest.TestCase):
    def test_by_month(self):
        self.assertEqual(
            report.render(ENTRIES, "month", "text"),
            "2025-12     -844.95     2\n2026-01     1670.00     2\n-------------------------\ntotal        825.05     4\n",
        )

    def test_by_category_as_a_table(self):
        lines = report.render(ENTRIES, "category", "markdown").splitlines()
        self.assertEqual(lines[0], "| category | EUR | entries |")
        self.assertEqual(lines[2], "| rent | -1560.00 | 2 |")

    def test_a_spreadsheet_has_no_total(self):
        self.assertEqual(report.render([], "month", "csv"), "month,EUR,entries\n")

    def test_an_unknown_style(self):
        with self.assertRaises(LedgerError):
            report.render(ENTRIES, "month", "pdf")
