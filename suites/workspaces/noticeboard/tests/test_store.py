import json
import tempfile
import unittest
from datetime import timedelta
from pathlib import Path

from noticeboard import clock
from noticeboard.store import Store


class Stored(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = Store(Path(folder.name) / "notices.json")

    def test_numbers_go_up(self):
        self.assertEqual([self.store.add("a", "", 1).id, self.store.add("b", "", 1).id], [1, 2])

    def test_what_has_expired_is_not_current(self):
        self.store.add("old", "", -1)
        self.store.add("new", "", 1)
        self.assertEqual([one.title for one in self.store.current()], ["new"])
        self.assertEqual(len(self.store.all()), 2)

    def test_a_notice_lasts_its_days(self):
        notice = self.store.add("a", "", 3)
        self.assertEqual(notice.expires - notice.posted, timedelta(days=3))

    def test_the_file_is_json(self):
        self.store.add("a", "b", 3)
        self.assertEqual(json.loads(self.store.path.read_text())[0]["title"], "a")

    def test_times_for_the_feed(self):
        self.assertEqual(clock.show(clock.from_seconds(1770838200.9)), "2026-02-11T19:30:00Z")
