"""The command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stockroom import db, report
from stockroom.store import Stock, StockError


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stockroom", description="What lies in the stockroom.")
    parser.add_argument("database", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the database up to date")
    loading = commands.add_parser("load", help="add the items of a CSV file")
    loading.add_argument("file", type=Path)
    reserving = commands.add_parser("reserve", help="take pieces for somebody")
    reserving.add_argument("number")
    reserving.add_argument("quantity", type=int)
    reserving.add_argument("--by", required=True, metavar="PERSON")
    commands.add_parser("report", help="the list that hangs at the door")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    connection = db.connect(options.database)
    stock = Stock(connection)
    try:
        if options.command == "migrate":
            print("\n".join(db.migrate(connection)) or "up to date")
        elif options.command == "load":
            print(f"{stock.load(options.file)} items")
        elif options.command == "reserve":
            print(f"reservation {stock.reserve(options.number, options.quantity, options.by)}")
        else:
            print(report.render(connection), end="")
    except StockError as error:
        print(f"stockroom: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0
