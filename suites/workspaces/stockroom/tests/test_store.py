import tempfile
import unittest
from pathlib import Path

from stockroom import db
from stockroom.store import Stock, StockError


class Stocked(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.connection = db.connect(self.folder / "stock.db")
        self.addCleanup(self.connection.close)
        db.migrate(self.connection)
        self.stock = Stock(self.connection)
        self.stock.add("M8-NUT", "Nut, M8", 10, ["A-03-12"])

    def test_a_reservation_takes_pieces(self):
        self.stock.reserve("M8-NUT", 4, "jonas")
        self.assertEqual(self.stock.quantity("M8-NUT"), 6)

    def test_no_more_than_there_are(self):
        with self.assertRaisesRegex(StockError, "only 10"):
            self.stock.reserve("M8-NUT", 11, "jonas")
        with self.assertRaises(StockError):
            self.stock.reserve("M9-NUT", 1, "jonas")
        with self.assertRaises(StockError):
            self.stock.reserve("M8-NUT", 0, "jonas")

    def test_pieces_go_back(self):
        self.stock.give_back(self.stock.reserve("M8-NUT", 4, "jonas"))
        self.assertEqual(self.stock.quantity("M8-NUT"), 10)

    def test_a_file_of_parts(self):
        file = self.folder / "parts.csv"
        file.write_text('number,name,quantity,locations\nM8-NUT,"Nut, M8",5,A-03-12;A-04-01\n')
        self.assertEqual(self.stock.load(file), 1)
        self.assertEqual(self.stock.quantity("M8-NUT"), 15)


class Migrations(unittest.TestCase):
    def test_each_runs_once(self):
        with tempfile.TemporaryDirectory() as folder:
            connection = db.connect(Path(folder) / "stock.db")
            self.assertEqual(db.migrate(connection)[:2], ["0001_items", "0002_places"])
            self.assertEqual(db.migrate(connection), [])
            connection.close()
