import tempfile
import unittest
from pathlib import Path

from ledger import settings
from ledger.errors import LedgerError


class Settings(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def test_defaults_where_there_is_no_file(self):
        self.assertEqual(settings.load([self.folder / "none.toml"])["report"]["by"], "month")

    def test_the_later_file_counts(self):
        files = [self.file("a.toml", 'currency = "CHF"'), self.file("b.toml", 'currency = "NOK"')]
        self.assertEqual(settings.load(files)["currency"], "NOK")

    def test_a_broken_file_is_named(self):
        with self.assertRaisesRegex(LedgerError, "broken.toml"):
            settings.load([self.file("broken.toml", "currency =")])
