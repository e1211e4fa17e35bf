"""`python -m tides HARBOUR DATE` prints the height of the tide for every hour of a day."""

import csv
import sys
from datetime import UTC, datetime
from pathlib import Path

from tides.harmonics import Constituent, height

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def main(harbour: str, day: str) -> None:
    """Print 24 heights."""
    with open(Path(__file__).parents[1] / "data" / "harbours.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["harbour"] == harbour]
    constituents = [
        Constituent(row["constituent"], float(row["amplitude"]), float(row["phase"])) for row in rows
    ]
    start = (datetime.fromisoformat(day).replace(tzinfo=UTC) - EPOCH).total_seconds() / 3600
    for hour in range(24):
        print(f"{hour:02}:00  {height(constituents, start + hour):+.2f} m")


if __name__ == "__main__":
    main(*sys.argv[1:3])
