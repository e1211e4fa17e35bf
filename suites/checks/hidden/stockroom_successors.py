"""What the supplier's catalogue says, as it was written down."""

import csv
import unittest
from pathlib import Path

EXPECTED = [
    {"number": "BRG-6204", "successor": "BRG-6204-2RSH", "cents": "389", "pack": "2"},
    {"number": "BELT-A38", "successor": "BELT-A38-C", "cents": "1145", "pack": "1"},
    {"number": "SEAL-25-40", "successor": "", "cents": "", "pack": ""},
    {"number": "FLT-OIL-3", "successor": "", "cents": "", "pack": ""},
]


class Successors(unittest.TestCase):
    def test_each_chain_is_followed_to_its_end(self):
        with Path("data/successors.csv").open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            rows = list(reader)
        self.assertEqual(reader.fieldnames, ["number", "successor", "cents", "pack"])
        self.assertEqual(rows, EXPECTED)
