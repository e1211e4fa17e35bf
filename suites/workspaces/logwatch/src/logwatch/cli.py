"""The command line."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from logwatch.follow import Follower
from logwatch.records import Reading, read
from logwatch.summary import daily_counts, hourly_counts, summarise


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="logwatch", description="Counts what the edge servers write.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (("summary", "the numbers of the mail"), ("daily", "by day"), ("hourly", "by hour")):
        command = commands.add_parser(name, help=told)
        command.add_argument("files", nargs="+", type=Path)
        if name != "summary":
            command.add_argument("--tz", type=zone_of, default=ZoneInfo("UTC"), metavar="ZONE")
    following = commands.add_parser("follow", help="print new lines as they come")
    following.add_argument("file", type=Path)
    return parser


def zone_of(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise argparse.ArgumentTypeError(f"no such time zone: {name!r}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    if options.command == "follow":
        return follow(options.file)
    reading = read_all(options.files)
    if options.command == "summary":
        numbers = summarise(reading.records)
        print(f"requests  {numbers.requests}")
        print(f"clients   {numbers.clients}")
        print(f"errors    {numbers.errors}")
        print(f"slowest   {numbers.slowest:.3f} s")
        print(f"busiest   {numbers.busiest_client or '-'}")
    else:
        count = daily_counts if options.command == "daily" else hourly_counts
        for when, requests in count(reading.records, options.tz).items():
            print(f"{when}  {requests}")
    return 0


def read_all(files: Sequence[Path]) -> Reading:
    whole = Reading()
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as file:
            reading = read(file)
        whole.records += reading.records
        whole.skipped += reading.skipped
        if reading.skipped:
            share = f"{len(reading.skipped)} of {len(reading.skipped) + len(reading.records)}"
            print(f"logwatch: skipped {share} lines of {path.name}", file=sys.stderr)
    return whole


def follow(path: Path) -> int:
    follower = Follower(path)
    try:
        while True:
            for line in follower.poll():
                print(line, flush=True)
            time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
