"""The same report by a number of queries that does not grow with the stock."""

import random
import tempfile
import unittest
from pathlib import Path

from stockroom import db, report
from stockroom.store import Stock

MOST = 6


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.connection = db.connect(Path(folder.name) / "stock.db")
        self.addCleanup(self.connection.close)
        db.migrate(self.connection)

    def fill(self, items, seed):
        chance = random.Random(seed)
        people = ["rosa", "jonas", "Åsa", "zoe", "adam"]
        with self.connection:
            for index in range(items):
                number = f"P-{chance.randint(0, 10**6):06d}-{index}"
                self.connection.execute(
                    "INSERT INTO items VALUES (?, ?, ?)", (number, f"part {index}", chance.randint(0, 90))
                )
                for _ in range(chance.choice([0, 0, 1, 2, 6])):
                    self.connection.execute(
                        "INSERT INTO reservations (number, quantity, person, made) VALUES (?, ?, ?, '2026')",
                        (number, chance.randint(1, 3), chance.choice(people)),
                    )
                for _ in range(chance.choice([0, 1, 1, 3])):
                    place = f"{chance.choice('ABC')}-{chance.randint(10, 99)}-{chance.randint(10, 99)}"
                    self.connection.execute(
                        "INSERT OR IGNORE INTO places (number, location) VALUES (?, ?)", (number, place)
                    )

    def expected(self):
        rows = {
            name: self.connection.execute(f"SELECT * FROM {name}").fetchall()
            for name in ("items", "reservations", "places")
        }
        found = []
        for item in sorted(rows["items"], key=lambda row: row["number"]):
            people = {}
            for row in rows["reservations"]:
                if row["number"] == item["number"]:
                    people[row["person"]] = people.get(row["person"], 0) + row["quantity"]
            mostly = min(people, key=lambda one: (-people[one], one.encode()), default=None)
            places = sorted(row["location"] for row in rows["places"] if row["number"] == item["number"])
            found.append(
                report.Line(
                    item["number"], item["name"], item["quantity"], sum(people.values()), mostly, places
                )
            )
        return found

    def test_the_same_lines(self):
        for seed, items in enumerate((0, 1, 7, 120)):
            with self.subTest(items):
                self.fill(items, seed)
                self.assertEqual(report.lines(self.connection), self.expected())

    def test_few_queries(self):
        for items in (5, 1500):
            self.fill(items, items)
            statements = []
            self.connection.set_trace_callback(statements.append)
            count = len(report.lines(self.connection))
            self.connection.set_trace_callback(None)
            self.assertGreaterEqual(count, items)
            self.assertLessEqual(len(statements), MOST)

    def test_nothing_is_remembered(self):
        self.fill(3, 1)
        report.lines(self.connection)
        Stock(self.connection).add("A-NEW", "New", 4, ["A-01-01"])
        self.assertEqual(report.lines(self.connection), self.expected())

    def test_the_text(self):
        Stock(self.connection).add("NUT", "Nut", 4, ["A-01-01"])
        Stock(self.connection).reserve("NUT", 1, "rosa")
        text = "NUT               3  Nut  (1 reserved, mostly for rosa)  A-01-01\n"
        self.assertEqual(report.render(self.connection), text)
