import unittest
from datetime import date
from zoneinfo import ZoneInfo

from logwatch.records import parse_line
from logwatch.summary import daily_counts, hourly_counts, summarise


def records(*times):
    return [parse_line(f"{time} edge-1 10.0.0.{number}:1 GET / 200 0.1") for number, time in enumerate(times)]


class Summaries(unittest.TestCase):
    def test_nothing(self):
        self.assertEqual(summarise([]).busiest_client, None)

    def test_the_numbers(self):
        found = summarise(
            [
                parse_line("2026-02-17T08:00:00Z edge-1 10.0.0.2:1 GET / 200 0.5"),
                parse_line("2026-02-17T08:00:01Z edge-1 10.0.0.1:1 GET / 503 2.0"),
            ]
        )
        self.assertEqual((found.requests, found.clients, found.errors), (2, 2, 1))
        self.assertEqual((found.slowest, found.busiest_client), (2.0, "10.0.0.1"))

    def test_days_are_those_of_the_zone(self):
        found = daily_counts(records("2026-02-17T22:30:00Z", "2026-02-17T23:30:00Z"), ZoneInfo("Europe/Berlin"))
        self.assertEqual(found, {date(2026, 2, 17): 1, date(2026, 2, 18): 1})

    def test_hours(self):
        found = hourly_counts(records("2026-02-17T08:59:59Z", "2026-02-17T08:00:00Z"), ZoneInfo("UTC"))
        self.assertEqual(found, {"2026-02-17 08:00": 2})
