"""Times that know their zone, in old files and new, and a feed that looks as before."""

import ast
import json
import os
import tempfile
import unittest
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

from noticeboard import clock
from noticeboard.app import App, Request
from noticeboard.store import Store

OLD = [
    {
        "id": 1,
        "title": "Old",
        "body": "",
        "posted": "2020-05-01T10:00:00.250000",
        "expires": "2020-06-01T10:00:00",
    },
    {
        "id": 2,
        "title": "Still on",
        "body": "",
        "posted": "2026-01-05T08:00:00",
        "expires": "2999-01-01T00:00:00",
    },
]


class Clock(unittest.TestCase):
    def test_no_call_that_is_going_away(self):
        names = set()
        for file in Path("src").rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names |= {node.attr} if isinstance(node, ast.Attribute) else set()
                names |= {one.name for one in node.names} if isinstance(node, ast.ImportFrom) else set()
        self.assertFalse(names & {"utcnow", "utcfromtimestamp"})

    def test_times_know_their_zone(self):
        for moment in (clock.now(), clock.from_seconds(0), clock.stored("2026-01-05T08:00:00")):
            self.assertEqual(moment.utcoffset(), timedelta(0))
        self.assertLess(abs(clock.now() - datetime.now(UTC)), timedelta(minutes=1))
        self.assertEqual(clock.from_seconds(1772366400), datetime(2026, 3, 1, 12, tzinfo=UTC))

    def test_what_was_stored_before_is_utc(self):
        self.assertEqual(clock.stored("2026-01-05T08:00:00"), datetime(2026, 1, 5, 8, tzinfo=UTC))
        self.assertEqual(clock.stored("2026-01-05T08:00:00+02:00"), datetime(2026, 1, 5, 6, tzinfo=UTC))

    def test_times_of_the_feed_look_as_before(self):
        self.assertEqual(clock.show(datetime(2026, 3, 1, 12, 0, 5, 999, tzinfo=UTC)), "2026-03-01T12:00:05Z")


class Board(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = Store(Path(folder.name) / "notices.json")
        self.store.path.write_text(json.dumps(OLD))
        self.app = App(self.store, Path("templates"), Path("static"))
        catching = warnings.catch_warnings()
        catching.__enter__()
        self.addCleanup(catching.__exit__, None, None, None)
        warnings.simplefilter("error", DeprecationWarning)

    def test_old_notices_and_new_ones(self):
        form = urlencode({"title": "New", "body": "x", "days": "2"}).encode()
        self.assertEqual(self.app.handle(Request("POST", "/notices", form)).status, 303)
        self.assertEqual([one.title for one in self.store.current()], ["New", "Still on"])
        self.assertEqual(len(self.store.all()), 3)
        again = Store(self.store.path).all()
        self.assertEqual([one.posted.utcoffset() for one in again], [timedelta(0)] * 3)
        self.assertEqual(again[2].expires - again[2].posted, timedelta(days=2))

    def test_the_feed(self):
        os.utime(self.store.path, (1772366400, 1772366400.75))
        feed = json.loads(self.app.handle(Request("GET", "/feed.json")).body)
        self.assertEqual(feed["changed"], "2026-03-01T12:00:00Z")
        expected = {
            "id": 2,
            "title": "Still on",
            "posted": "2026-01-05T08:00:00Z",
            "expires": "2999-01-01T00:00:00Z",
        }
        self.assertEqual(feed["notices"], [expected])

    def test_pages(self):
        page = self.app.handle(Request("GET", "/notices/1")).body.decode()
        self.assertIn("2020-05-01T10:00:00Z", page)
