"""Months, as reports need them. A month is the date of its first day."""

from collections.abc import Iterator
from datetime import date, timedelta


def month_of(day: date) -> date:
    return day.replace(day=1)


def shift(month: date, months: int) -> date:
    """The month that lies so many months later, or earlier for a negative number."""
    return date(month.year, month.month + months, 1)


def previous_month(day: date) -> date:
    return shift(month_of(day), -1)


def next_month(day: date) -> date:
    return shift(month_of(day), 1)


def last_day(day: date) -> date:
    """The last day of the month of a day."""
    return next_month(day) - timedelta(days=1)


def months_between(first: date, last: date) -> Iterator[date]:
    """Every month from the one of `first` to the one of `last`, both included."""
    month = month_of(first)
    while month <= month_of(last):
        yield month
        month = next_month(month)
