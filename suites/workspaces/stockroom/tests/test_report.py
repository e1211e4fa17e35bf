import tempfile
import unittest
from pathlib import Path

from stockroom import db, report
from stockroom.store import Stock


class Report(unittest.TestCase):
    def test_a_line_of_each_item(self):
        with tempfile.TemporaryDirectory() as folder:
            connection = db.connect(Path(folder) / "stock.db")
            db.migrate(connection)
            stock = Stock(connection)
            stock.add("M8-NUT", "Nut, M8", 10, ["A-03-13", "A-03-12"])
            stock.add("BRG-6204", "Bearing 6204", 6, [])
            stock.reserve("M8-NUT", 2, "rosa")
            stock.reserve("M8-NUT", 2, "jonas")
            found = report.lines(connection)
            connection.close()
        self.assertEqual([line.number for line in found], ["BRG-6204", "M8-NUT"])
        self.assertEqual((found[0].reserved, found[0].mostly_for, found[0].locations), (0, None, []))
        self.assertEqual((found[1].quantity, found[1].reserved, found[1].mostly_for), (6, 4, "jonas"))
        self.assertEqual(found[1].locations, ["A-03-12", "A-03-13"])
