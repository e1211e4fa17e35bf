"""A database of before, after the migration."""

import sqlite3
import tempfile
import unittest
from pathlib import Path

from stockroom import db, report
from stockroom.store import Stock

PLACES = [
    ("NUT", "A-03-12"),
    ("NUT", "AB-4-007"),
    ("NUT", "window sill"),
    ("BOLT", "B-01-7"),
    ("BOLT", "B-1-07"),
    ("BOLT", "B-01-8"),
    ("OIL", "a-01-02"),
    ("OIL", "A-01"),
    ("OIL", "A-01-02-03"),
    ("OIL", "A-x1-02"),
    ("OIL", "A--02"),
    ("OIL", "-01-02"),
    ("OIL", "ABC-01-02"),
    ("OIL", "A1-01-02"),
    ("OIL", "A-01-"),
    ("OIL", ""),
    ("OIL", "Z-100-250"),
]
SPLIT = {
    ("BOLT", "B", 1, 7, None),
    ("BOLT", "B", 1, 8, None),
    ("NUT", "A", 3, 12, None),
    ("NUT", "AB", 4, 7, None),
    ("OIL", "Z", 100, 250, None),
}


class Migration(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.connection = db.connect(Path(folder.name) / "stock.db")
        self.addCleanup(self.connection.close)
        released = Path(folder.name) / "released"
        released.mkdir()
        for file in db.MIGRATIONS.glob("000[12]_*.sql"):
            (released / file.name).write_text(file.read_text())
        self.assertEqual(db.migrate(self.connection, released), ["0001_items", "0002_places"])

    def old_rows(self):
        with self.connection:
            for number in ("NUT", "BOLT", "OIL"):
                self.connection.execute("INSERT INTO items VALUES (?, ?, 50)", (number, number.lower()))
            self.connection.execute("INSERT INTO reservations VALUES (7, 'NUT', 2, 'rosa', '2026-01-01')")
            self.connection.executemany("INSERT INTO places (number, location) VALUES (?, ?)", PLACES)

    def rows(self):
        found = self.connection.execute("SELECT number, aisle, shelf, bin, note FROM places").fetchall()
        return [tuple(row) for row in found]

    def test_rows_are_split(self):
        self.old_rows()
        self.assertEqual(len(db.migrate(self.connection)), 1)
        found = self.rows()
        self.assertEqual({row for row in found if row[1] is not None}, SPLIT)
        notes = sorted((row[0], row[4]) for row in found if row[1] is None)
        split = {"A-03-12", "AB-4-007", "B-01-7", "B-1-07", "B-01-8", "Z-100-250"}
        self.assertEqual(notes, sorted((number, text) for number, text in PLACES if text not in split))
        self.assertEqual(len(found), len(SPLIT) + len(notes))
        self.assertTrue(all(row[2] is None and row[3] is None for row in found if row[1] is None))
        kinds = self.connection.execute(
            "SELECT DISTINCT typeof(shelf), typeof(bin) FROM places WHERE aisle IS NOT NULL"
        )
        self.assertEqual([tuple(row) for row in kinds], [("integer", "integer")])

    def test_the_rest_stays(self):
        self.old_rows()
        db.migrate(self.connection)
        reservations = [tuple(row) for row in self.connection.execute("SELECT * FROM reservations")]
        self.assertEqual(reservations, [(7, "NUT", 2, "rosa", "2026-01-01")])
        columns = {row["name"] for row in self.connection.execute("PRAGMA table_info(places)")}
        self.assertEqual(columns, {"id", "number", "aisle", "shelf", "bin", "note"})
        self.assertEqual(self.connection.execute("PRAGMA foreign_key_check").fetchall(), [])
        with self.assertRaises(sqlite3.IntegrityError), self.connection:
            self.connection.execute("INSERT INTO places (number, note) VALUES ('NONE', 'x')")

    def test_it_runs_once_and_on_an_empty_database(self):
        self.assertEqual(len(db.migrate(self.connection)), 1)
        self.assertEqual(db.migrate(self.connection), [])

    def test_the_program_goes_on_with_texts(self):
        db.migrate(self.connection)
        stock = Stock(self.connection)
        stock.add("NUT", "Nut", 5, ["AB-4-7", "A-03-12", "window sill"])
        stock.add("NUT", "Nut", 5, ["A-3-12", "window sill", "A-10-1"])
        stock.add("BOLT", "Bolt", 1, [])
        self.assertEqual(
            {row for row in self.rows() if row[1]},
            {("NUT", "AB", 4, 7, None), ("NUT", "A", 3, 12, None), ("NUT", "A", 10, 1, None)},
        )
        self.assertEqual(len(self.rows()), 4)
        found = {line.number: line.locations for line in report.lines(self.connection)}
        self.assertEqual(found, {"NUT": ["A-03-12", "A-10-01", "AB-04-07", "window sill"], "BOLT": []})

    def test_places_are_in_the_order_of_the_room(self):
        db.migrate(self.connection)
        Stock(self.connection).add(
            "NUT", "Nut", 5, ["A-100-1", "A-20-1", "B-1-1", "A-20-0", "AA-1-1", "bench"]
        )
        found = report.lines(self.connection)[0].locations
        self.assertEqual(found, ["A-20-00", "A-20-01", "A-100-01", "AA-01-01", "B-01-01", "bench"])
