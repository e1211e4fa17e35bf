"""The list that hangs at the door."""

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One item: pieces on the shelf, pieces reserved, who has most of those, and where it lies."""

    number: str
    name: str
    quantity: int
    reserved: int
    mostly_for: str | None
    locations: list[str]


def lines(connection: sqlite3.Connection) -> list[Line]:
    """All items by number.

    `mostly_for` is who has reserved most pieces of the item, the first in the alphabet where several have as many.
    """
    found = []
    for item in connection.execute("SELECT number, name, quantity FROM items ORDER BY number").fetchall():
        reserved = connection.execute(
            "SELECT COALESCE(SUM(quantity), 0) AS pieces FROM reservations WHERE number = ?", (item["number"],)
        ).fetchone()
        person = connection.execute(
            "SELECT person FROM reservations WHERE number = ? GROUP BY person ORDER BY SUM(quantity) DESC, person LIMIT 1",
            (item["number"],),
        ).fetchone()
        places = connection.execute(
            "SELECT location FROM places WHERE number = ? ORDER BY location", (item["number"],)
        ).fetchall()
        found.append(
            Line(
                item["number"],
                item["name"],
                item["quantity"],
                reserved["pieces"],
                person["person"] if person else None,
                [place["location"] for place in places],
            )
        )
    return found


def render(connection: sqlite3.Connection) -> str:
    text = []
    for line in lines(connection):
        where = ", ".join(line.locations) or "-"
        taken = f"{line.reserved} reserved, mostly for {line.mostly_for}" if line.reserved else "none reserved"
        text.append(f"{line.number:<12} {line.quantity:>6}  {line.name}  ({taken})  {where}")
    return "\n".join(text) + "\n" if text else "nothing in stock\n"
