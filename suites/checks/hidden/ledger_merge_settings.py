"""Settings of several files, table by table."""

import copy
import tempfile
import unittest
from pathlib import Path

from ledger import settings
from ledger.errors import LedgerError


class Merged(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.defaults = copy.deepcopy(settings.DEFAULTS)

    def load(self, *texts):
        files = []
        for number, text in enumerate(texts):
            files.append(self.folder / f"file{number}.toml")
            files[-1].write_text(text)
        return settings.load(files)

    def test_a_table_keeps_what_the_later_file_does_not_name(self):
        found = self.load('[report]\nstyle = "csv"\n', '[report]\nby = "category"\n')
        self.assertEqual((found["report"]["style"], found["report"]["by"]), ("csv", "category"))
        self.assertEqual(found["report"]["colours"], {"enabled": True, "negative": "red"})

    def test_at_any_depth(self):
        found = self.load(
            "[report.colours.more.deep]\na = 1\nb = 2\n",
            "[report.colours.more.deep]\nb = 3\n[report.colours]\nenabled = false\n",
        )
        self.assertEqual(found["report"]["colours"]["more"], {"deep": {"a": 1, "b": 3}})
        self.assertEqual(found["report"]["colours"]["negative"], "red")
        self.assertIs(found["report"]["colours"]["enabled"], False)

    def test_empty_values_count_as_values(self):
        found = self.load(
            'currency = "SEK"\n[import]\nskip = ["A", "B"]\n', 'currency = ""\n[import]\nskip = []\n'
        )
        self.assertEqual((found["currency"], found["import"]["skip"]), ("", []))

    def test_lists_are_replaced(self):
        found = self.load('[import]\nskip = ["A", "B"]\n', '[import]\nskip = ["C"]\n')
        self.assertEqual(found["import"]["skip"], ["C"])

    def test_nothing_is_changed_underway(self):
        first = self.load('[report.colours]\nnegative = "blue"\n[import]\nskip = ["A"]\n')
        first["report"]["colours"]["negative"] = "green"
        first["import"]["skip"].append("B")
        self.assertEqual(settings.DEFAULTS, self.defaults)
        self.assertEqual(self.load()["report"]["colours"]["negative"], "red")
        below, above = {"t": {"a": [1], "b": {"c": 1}}}, {"t": {"b": {"d": [2]}}}
        kept = copy.deepcopy((below, above))
        merged = settings.merge(below, above, "x")
        merged["t"]["a"].append(9)
        merged["t"]["b"]["d"].append(9)
        self.assertEqual((below, above), kept)

    def test_defaults_are_the_callers_own(self):
        self.load()["import"]["skip"].append("A")
        self.load()["report"]["by"] = "category"
        self.assertEqual(settings.DEFAULTS, self.defaults)

    def test_a_value_in_place_of_a_table(self):
        with self.assertRaises(LedgerError) as caught:
            self.load("", '[report]\ncolours = "none"\n')
        self.assertIn("file1.toml", str(caught.exception))
        self.assertIn("report.colours", str(caught.exception))

    def test_a_table_in_place_of_a_value(self):
        with self.assertRaises(LedgerError) as caught:
            self.load("[report.by]\nmonth = true\n")
        self.assertIn("file0.toml", str(caught.exception))
        self.assertIn("report.by", str(caught.exception))

    def test_new_names_are_kept(self):
        self.assertEqual(self.load("[printer]\ntray = 2\n")["printer"], {"tray": 2})
