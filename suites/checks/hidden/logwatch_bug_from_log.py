"""Clients of both address families, and what is still no record."""

import unittest

from logwatch.records import Malformed, parse_line, read
from logwatch.summary import summarise


def line(client):
    return f"2026-03-01T10:00:00Z edge-3 {client} GET /orders 200 0.010"


class Clients(unittest.TestCase):
    def test_both_families(self):
        clients = {
            "192.0.2.7:51532": "192.0.2.7",
            "[2001:db8:77::5]:443": "2001:db8:77::5",
            "[::1]:8080": "::1",
            "[fe80::1:2:3:4]:65535": "fe80::1:2:3:4",
        }
        self.assertEqual({one: parse_line(line(one)).client for one in clients}, clients)

    def test_one_client_however_it_is_written(self):
        forms = ["[2001:DB8:0:0:0:0:0:AB]:1", "[2001:db8::ab]:2", "[2001:0db8::00ab]:3", "[2001:db8::AB]:4"]
        reading = read([line(form) for form in forms] + [line("192.0.2.7:1")])
        self.assertEqual((len(reading.records), reading.skipped), (5, []))
        numbers = summarise(reading.records)
        self.assertEqual((numbers.clients, numbers.busiest_client), (2, "2001:db8::ab"))

    def test_what_is_still_malformed(self):
        for client in (
            "192.0.2.7",
            "[2001:db8::ab]",
            "[2001:db8::ab]:",
            "[2001:db8::xyz]:1",
            "[2001:db8::ab:443",
            "[]:1",
            "[2001:db8::ab]443",
        ):
            with self.subTest(client), self.assertRaises(Malformed):
                parse_line(line(client))

    def test_a_cut_line_is_still_skipped(self):
        reading = read(["2026-02-17T06:03:00Z edge-2 10.0.4.17:40200 GET", line("[2001:db8::1]:1")])
        self.assertEqual((len(reading.skipped), len(reading.records)), (1, 1))
