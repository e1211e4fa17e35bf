"""Two programs that reserve at the same moment, on one database."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from datetime import UTC, datetime
from pathlib import Path

from stockroom import db
from stockroom.store import Stock, StockError

# Its clock waits, for a moment at most, until the other program looks at its own: between the two steps of a reservation
# that is not one, both have then read the same number of pieces.
PROGRAM = """
import sys, time
from datetime import datetime, timezone
from pathlib import Path

source, database, here, there, quantity = sys.argv[1:]
sys.path.append(source)
from stockroom import db
from stockroom.store import Stock, StockError

def clock():
    Path(here).touch()
    deadline = time.monotonic() + 1.5
    while not Path(there).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return datetime(2026, 3, 1, tzinfo=timezone.utc)

connection = db.connect(Path(database))
try:
    Stock(connection, clock).reserve("NUT", int(quantity), Path(here).name)
    print("reserved", end="")
except StockError as error:
    print(f"refused: {error}", end="")
"""


class Reservations(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.connection = db.connect(self.folder / "stock.db")
        self.addCleanup(self.connection.close)
        db.migrate(self.connection)

    def both(self, pieces, *quantities):
        Stock(self.connection).add("NUT", "Nut", pieces, [])
        names = [str(self.folder / "jonas"), str(self.folder / "rosa")]
        programs = [
            subprocess.Popen(
                [sys.executable, "-I", "-c", PROGRAM, str(Path("src").resolve()), str(self.folder / "stock.db"),
                 mine, other, str(quantity)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
            )
            for (mine, other), quantity in zip([names, names[::-1]], quantities, strict=True)
        ]  # fmt: skip
        said = [program.communicate(timeout=40) for program in programs]
        self.assertEqual([program.returncode for program in programs], [0, 0], said)
        return sorted(out for out, _ in said)

    def reserved(self):
        return self.connection.execute("SELECT COALESCE(SUM(quantity), 0) FROM reservations").fetchone()[0]

    def test_the_last_piece_goes_once(self):
        said = self.both(1, 1, 1)
        self.assertEqual((said[0], said[1]), ("refused: only 0 of NUT left", "reserved"))
        self.assertEqual((Stock(self.connection).quantity("NUT"), self.reserved()), (0, 1))

    def test_no_piece_is_forgotten(self):
        self.assertEqual(self.both(10, 3, 4), ["reserved", "reserved"])
        self.assertEqual((Stock(self.connection).quantity("NUT"), self.reserved()), (3, 7))


class Alone(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "stock.db"
        self.connection = db.connect(self.path)
        self.addCleanup(self.connection.close)
        db.migrate(self.connection)
        self.stock = Stock(self.connection, lambda: datetime(2026, 3, 1, tzinfo=UTC))
        self.stock.add("NUT", "Nut", 5, [])

    def test_a_refusal_leaves_nothing_open(self):
        refused = [
            ("NUT", 6, "only 5 of NUT left"),
            ("BOLT", 1, "no such item: BOLT"),
            ("NUT", 0, "at least one"),
        ]
        for number, quantity, message in refused:
            with self.assertRaisesRegex(StockError, message):
                self.stock.reserve(number, quantity, "rosa")
            self.assertFalse(self.connection.in_transaction)
        other = db.connect(self.path)
        Stock(other).reserve("NUT", 5, "jonas")
        other.close()
        self.assertEqual(self.stock.quantity("NUT"), 0)

    def test_a_failure_underway_takes_nothing(self):
        def broken():
            raise OSError("no clock")

        with self.assertRaises(OSError):
            Stock(self.connection, broken).reserve("NUT", 1, "rosa")
        self.assertFalse(self.connection.in_transaction)
        self.assertEqual(self.stock.quantity("NUT"), 5)

    def test_what_is_written_is_as_before(self):
        number = self.stock.reserve("NUT", 2, "rosa")
        row = tuple(self.connection.execute("SELECT * FROM reservations WHERE id = ?", (number,)).fetchone())
        self.assertEqual(json.dumps(row), json.dumps([number, "NUT", 2, "rosa", "2026-03-01T00:00:00+00:00"]))
        self.stock.give_back(number)
        self.assertEqual(self.stock.quantity("NUT"), 5)

    def test_going_back_twice_at_once(self):
        number = self.stock.reserve("NUT", 2, "rosa")
        self.stock.give_back(number)
        with self.assertRaisesRegex(StockError, "no such reservation"):
            self.stock.give_back(number)
        self.assertEqual(self.stock.quantity("NUT"), 5)
