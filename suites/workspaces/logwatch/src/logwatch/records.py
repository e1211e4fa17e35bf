"""Lines of the edge servers' logs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime


class Malformed(Exception):
    """A line that is no record."""


@dataclass(frozen=True)
class Record:
    """One request. `seconds` is what the answer took."""

    time: datetime
    host: str
    client: str
    method: str
    path: str
    status: int
    seconds: float


@dataclass
class Reading:
    """What was read of a file, and what was not."""

    records: list[Record] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def parse_line(line: str) -> Record:
    """The record of a line.

    Raises:
        Malformed: it is none.
    """
    fields = line.split()
    if len(fields) != 7:
        raise Malformed(line)
    time, host, client, method, path, status, seconds = fields
    try:
        address, port = client.split(":")
        int(port)
        moment = datetime.fromisoformat(time)
        if moment.tzinfo is None:
            raise Malformed(line)
        return Record(moment, host, address, method, path, int(status), float(seconds))
    except ValueError:
        raise Malformed(line) from None


def read(lines: Iterable[str]) -> Reading:
    """All records of a file; what can't be read is kept aside."""
    reading = Reading()
    for line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            reading.records.append(parse_line(text))
        except Malformed:
            reading.skipped.append(text)
    return reading
