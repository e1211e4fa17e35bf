"""Days and hours by the clocks of a zone, over their changes."""

import unittest
from datetime import date
from zoneinfo import ZoneInfo

from logwatch.records import parse_line
from logwatch.summary import daily_counts, hourly_counts

BERLIN = ZoneInfo("Europe/Berlin")


def records(*times):
    return [parse_line(f"{time} edge-1 10.0.0.1:1 GET / 200 0.1") for time in times]


class Days(unittest.TestCase):
    def test_summer_and_winter_in_one_file(self):
        found = daily_counts(
            records(
                *["2025-01-10T12:00:00Z", "2025-07-01T22:30:00Z", "2025-07-01T21:59:59Z"],
                *["2025-12-31T22:30:00Z", "2025-12-31T23:30:00Z"],
            ),
            BERLIN,
        )
        self.assertEqual(
            found,
            dict.fromkeys(
                [date(2025, 1, 10), date(2025, 7, 1), date(2025, 7, 2), date(2025, 12, 31), date(2026, 1, 1)],
                1,
            ),
        )
        self.assertEqual(list(found), sorted(found))

    def test_the_order_of_the_records_is_no_matter(self):
        times = ["2025-07-01T22:30:00Z", "2025-01-10T23:30:00Z", "2025-03-30T00:30:00Z"]
        expected = {date(2025, 1, 11): 1, date(2025, 3, 30): 1, date(2025, 7, 2): 1}
        self.assertEqual(daily_counts(records(*times), BERLIN), expected)
        self.assertEqual(daily_counts(records(*reversed(times)), BERLIN), expected)

    def test_records_that_are_not_in_utc(self):
        found = daily_counts(
            records("2026-02-17T23:30:00-05:00", "2026-02-18T00:30:00+09:00"), ZoneInfo("UTC")
        )
        self.assertEqual(found, {date(2026, 2, 17): 1, date(2026, 2, 18): 1})

    def test_a_zone_with_half_an_hour(self):
        self.assertEqual(
            daily_counts(records("2026-02-17T18:30:00Z"), ZoneInfo("Asia/Kolkata")), {date(2026, 2, 18): 1}
        )

    def test_nothing(self):
        self.assertEqual((daily_counts([], BERLIN), hourly_counts([], BERLIN)), ({}, {}))


class Hours(unittest.TestCase):
    def test_the_hour_that_comes_twice(self):
        times = [
            *["2026-10-24T23:59:59Z", "2026-10-25T00:00:00Z", "2026-10-25T00:59:59Z", "2026-10-25T01:30:00Z"],
            "2026-10-25T02:00:00Z",
        ]
        expected = [
            ("2026-10-25 01:00", 1),
            ("2026-10-25 02:00+0200", 2),
            ("2026-10-25 02:00+0100", 1),
            ("2026-10-25 03:00", 1),
        ]
        self.assertEqual(list(hourly_counts(records(*times), BERLIN).items()), expected)
        self.assertEqual(list(hourly_counts(records(*reversed(times)), BERLIN).items()), expected)

    def test_another_zone(self):
        times = ["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-01T07:30:00Z"]
        found = hourly_counts(records(*times), ZoneInfo("America/New_York"))
        self.assertEqual(list(found), ["2026-11-01 01:00-0400", "2026-11-01 01:00-0500", "2026-11-01 02:00"])

    def test_the_hour_that_is_left_out(self):
        found = hourly_counts(records("2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z"), BERLIN)
        self.assertEqual(list(found), ["2026-03-29 01:00", "2026-03-29 03:00"])

    def test_other_hours_are_named_as_before(self):
        self.assertEqual(hourly_counts(records("2026-06-01T08:15:00Z"), BERLIN), {"2026-06-01 10:00": 1})
