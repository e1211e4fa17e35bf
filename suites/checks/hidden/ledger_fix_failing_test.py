"""Months, forwards and backwards, over any number of years."""

import unittest
from datetime import date

from ledger import periods


class Months(unittest.TestCase):
    def test_every_month_has_one_before_it(self):
        for month in range(1, 13):
            day = date(2031, month, 9)
            expected = date(2030, 12, 1) if month == 1 else date(2031, month - 1, 1)
            self.assertEqual(periods.previous_month(day), expected)

    def test_and_one_after_it(self):
        for month in range(1, 13):
            expected = date(2032, 1, 1) if month == 12 else date(2031, month + 1, 1)
            self.assertEqual(periods.next_month(date(2031, month, 28)), expected)

    def test_a_shift_counts_months(self):
        start = date(2024, 5, 1)
        for months in range(-200, 201):
            shifted = periods.shift(start, months)
            self.assertEqual(shifted.day, 1)
            self.assertEqual((shifted.year - 2024) * 12 + shifted.month - 5, months)

    def test_the_last_day(self):
        days = [date(2024, 2, 10), date(2025, 2, 10), date(2025, 12, 1), date(2025, 4, 30)]
        expected = [date(2024, 2, 29), date(2025, 2, 28), date(2025, 12, 31), date(2025, 4, 30)]
        self.assertEqual([periods.last_day(day) for day in days], expected)

    def test_months_between_two_years(self):
        found = list(periods.months_between(date(2024, 11, 30), date(2026, 1, 1)))
        self.assertEqual(found[:3], [date(2024, 11, 1), date(2024, 12, 1), date(2025, 1, 1)])
        self.assertEqual(len(found), 15)
