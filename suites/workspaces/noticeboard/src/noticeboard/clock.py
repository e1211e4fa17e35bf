"""What time it is, and how times are written."""

from datetime import datetime


def now() -> datetime:
    return datetime.utcnow()


def from_seconds(seconds: float) -> datetime:
    """The time so many seconds after the epoch."""
    return datetime.utcfromtimestamp(seconds)


def show(moment: datetime) -> str:
    """For the feed, to the second: `2026-02-11T19:30:00Z`."""
    return moment.replace(microsecond=0).isoformat() + "Z"


def stored(text: str) -> datetime:
    """A time as the store holds it."""
    return datetime.fromisoformat(text)
