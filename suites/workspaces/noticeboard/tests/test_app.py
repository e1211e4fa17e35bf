import json
import tempfile
import unittest
from pathlib import Path
from urllib.parse import urlencode

from noticeboard.app import App, Request
from noticeboard.store import Store

ROOT = Path(__file__).resolve().parents[1]


class Board(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = Store(Path(folder.name) / "notices.json")
        self.app = App(self.store, ROOT / "templates", ROOT / "static")

    def get(self, target):
        return self.app.handle(Request("GET", target))

    def post(self, **form):
        return self.app.handle(Request("POST", "/notices", urlencode(form).encode()))

    def test_an_empty_board(self):
        self.assertIn(b"No news is good news", self.get("/").body)

    def test_a_notice_is_posted_and_shown(self):
        answer = self.post(title="Boiler", body="Down on Friday.", days="3")
        self.assertEqual(answer.status, 303)
        self.assertTrue(answer.headers["Location"].startswith("/notices/1"))
        self.assertIn(b"Down on Friday.", self.get("/").body)
        self.assertIn(b"<h1>Boiler</h1>", self.get("/notices/1").body)

    def test_a_notice_without_a_title(self):
        self.assertEqual(self.post(title=" ", body="x").status, 400)

    def test_the_feed(self):
        self.post(title="Key found", body="By the bins.")
        feed = json.loads(self.get("/feed.json").body)
        self.assertEqual(feed["notices"][0]["title"], "Key found")
        self.assertRegex(feed["notices"][0]["posted"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertRegex(feed["changed"], r"Z$")

    def test_files(self):
        answer = self.get("/static/board.css")
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "text/css"))
        self.assertEqual(self.get("/static/none.css").status, 404)

    def test_what_is_not_there(self):
        self.assertEqual([self.get(path).status for path in ("/nothing", "/notices/7", "/notices/x")], [404] * 3)
