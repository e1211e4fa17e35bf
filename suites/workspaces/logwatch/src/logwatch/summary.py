"""The numbers of the daily mail."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from logwatch.records import Record


@dataclass(frozen=True)
class Summary:
    """Of some records; `slowest` in seconds."""

    requests: int
    clients: int
    errors: int
    slowest: float
    busiest_client: str | None


def summarise(records: Sequence[Record]) -> Summary:
    by_client = Counter(record.client for record in records)
    # The first in the alphabet, where several have sent as many.
    busiest = min(by_client, key=lambda client: (-by_client[client], client), default=None)
    return Summary(
        requests=len(records),
        clients=len(by_client),
        errors=sum(record.status >= 500 for record in records),
        slowest=max((record.seconds for record in records), default=0.0),
        busiest_client=busiest,
    )


def daily_counts(records: Sequence[Record], zone: tzinfo) -> dict[date, int]:
    """Requests on each day of the zone, oldest day first."""
    return dict(sorted(Counter(moment.date() for moment in _local(records, zone)).items()))


def hourly_counts(records: Sequence[Record], zone: tzinfo) -> dict[str, int]:
    """Requests in each hour of the zone, oldest first; an hour is named by its start, such as `2026-02-17 09:00`."""
    moments = sorted(_local(records, zone))
    return dict(Counter(moment.strftime("%Y-%m-%d %H:00") for moment in moments))


def _local(records: Sequence[Record], zone: tzinfo) -> list[datetime]:
    """The records' times by the clocks of the zone."""
    if not records:
        return []
    # Asking the zone for every single record is slow.
    offset = records[0].time.astimezone(zone).utcoffset()
    return [record.time.replace(tzinfo=None) + offset for record in records]
