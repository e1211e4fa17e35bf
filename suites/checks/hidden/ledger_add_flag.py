"""`report --since`, by the command line alone."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENTRIES = """2025-10-31 rent -700.00
2025-11-01 food -10.00
2026-03-05 food -20.50
2026-03-05 rent -700.00
"""


class Since(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "a.ledger").write_text(ENTRIES)

    def report(self, *arguments):
        environment = os.environ | {"PYTHONPATH": str(Path.cwd() / "src"), "HOME": str(self.folder)}
        command = [sys.executable, "-m", "ledger", "a.ledger", "report", "--style", "csv", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def test_the_day_itself_counts(self):
        answer = self.report("--since", "2025-11-01")
        self.assertEqual(answer.stdout, "month,EUR,entries\n2025-11,-10.00,1\n2026-03,-720.50,2\n")

    def test_with_another_grouping(self):
        answer = self.report("--by", "category", "--since", "2025-11-02")
        self.assertEqual(answer.stdout, "category,EUR,entries\nrent,-700.00,1\nfood,-20.50,1\n")

    def test_without_it_all_is_reported(self):
        self.assertIn("2025-10,-700.00,1", self.report().stdout)

    def test_where_nothing_is_left(self):
        answer = self.report("--since", "2027-01-01")
        self.assertEqual((answer.returncode, answer.stdout), (0, "month,EUR,entries\n"))

    def test_what_is_no_date(self):
        for text in ("yesterday", "2025-02-30", ""):
            answer = self.report("--since", text)
            self.assertEqual(answer.returncode, 2, text)
            self.assertIn("--since", answer.stderr)
            self.assertNotIn("Traceback", answer.stderr)

    def test_help_tells_of_it(self):
        self.assertIn("--since", self.report("--help").stdout)
