"""What can be done with the stock."""

import csv
import sqlite3
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path


class StockError(Exception):
    """What was asked for can't be done; the text says why."""


def now() -> datetime:
    return datetime.now(timezone.utc)


class Stock:
    """The stock in a database that has been migrated."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], datetime] = now) -> None:
        self.connection = connection
        self.clock = clock

    def quantity(self, number: str) -> int:
        """Pieces on the shelf."""
        row = self.connection.execute("SELECT quantity FROM items WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise StockError(f"no such item: {number}")
        return row["quantity"]

    def add(self, number: str, name: str, quantity: int, locations: list[str]) -> None:
        """A new item, or more of one."""
        with self.connection:
            self.connection.execute(
                "INSERT INTO items (number, name, quantity) VALUES (?, ?, ?) "
                "ON CONFLICT (number) DO UPDATE SET quantity = quantity + excluded.quantity, name = excluded.name",
                (number, name, quantity),
            )
            self.connection.executemany(
                "INSERT OR IGNORE INTO places (number, location) VALUES (?, ?)",
                [(number, location) for location in locations],
            )

    def reserve(self, number: str, quantity: int, person: str) -> int:
        """Takes pieces off the shelf for somebody; the reservation's id."""
        if quantity <= 0:
            raise StockError("at least one piece")
        left = self.quantity(number)
        if left < quantity:
            raise StockError(f"only {left} of {number} left")
        made = self.clock()
        with self.connection:
            self.connection.execute(
                "UPDATE items SET quantity = ? WHERE number = ?", (left - quantity, number)
            )
            cursor = self.connection.execute(
                "INSERT INTO reservations (number, quantity, person, made) VALUES (?, ?, ?, ?)",
                (number, quantity, person, made.isoformat()),
            )
        return cursor.lastrowid

    def give_back(self, reservation: int) -> None:
        """Puts the pieces of a reservation back."""
        row = self.connection.execute(
            "SELECT number, quantity FROM reservations WHERE id = ?", (reservation,)
        ).fetchone()
        if row is None:
            raise StockError(f"no such reservation: {reservation}")
        with self.connection:
            self.connection.execute("DELETE FROM reservations WHERE id = ?", (reservation,))
            self.connection.execute(
                "UPDATE items SET quantity = quantity + ? WHERE number = ?", (row["quantity"], row["number"])
            )

    def load(self, file: Path) -> int:
        """Items of a CSV file with the columns number, name, quantity, locations (separated by `;`); how many."""
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        for row in rows:
            locations = [place.strip() for place in row["locations"].split(";") if place.strip()]
            self.add(row["number"], row["name"], int(row["quantity"]), locations)
        return len(rows)
