import unittest
from datetime import datetime, timezone

from logwatch.records import Malformed, Record, parse_line, read

LINE = "2026-02-17T08:14:03Z edge-1 10.0.4.17:51532 GET /orders/88 200 0.034"


class Lines(unittest.TestCase):
    def test_a_record(self):
        moment = datetime(2026, 2, 17, 8, 14, 3, tzinfo=timezone.utc)
        expected = Record(moment, "edge-1", "10.0.4.17", "GET", "/orders/88", 200, 0.034)
        self.assertEqual(parse_line(LINE), expected)

    def test_what_is_none(self):
        for text in (
            "nonsense",
            LINE.replace("Z", ""),
            LINE.replace("200", "OK"),
            LINE.replace(":51532", ""),
            LINE + " extra",
        ):
            with self.subTest(text), self.assertRaises(Malformed):
                parse_line(text)

    def test_the_rest_is_read(self):
        reading = read([LINE, "nonsense", "", LINE])
        self.assertEqual((len(reading.records), reading.skipped), (2, ["nonsense"]))
