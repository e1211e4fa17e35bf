import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from ledger.cli import main


class CommandLine(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.accounts = Path(folder.name) / "accounts.ledger"
        self.accounts.write_text("2026-01-02 rent -780.00 January\n")

    def call(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(self.accounts), *arguments])
        return code, out.getvalue(), err.getvalue()

    def test_an_entry_is_appended(self):
        code, _, _ = self.call("add", "2026-01-14", "groceries", "-23.40", "Weekly shop")
        self.assertEqual(code, 0)
        self.assertTrue(self.accounts.read_text().endswith("2026-01-14  groceries     -23.40  Weekly shop\n"))

    def test_a_report(self):
        code, out, _ = self.call("report", "--by", "category", "--style", "csv")
        self.assertEqual((code, out), (0, "category,EUR,entries\nrent,-780.00,1\n"))

    def test_a_mistake_is_told(self):
        self.accounts.write_text("nonsense\n")
        code, _, err = self.call("check")
        self.assertEqual(code, 1)
        self.assertIn("line 1", err)
