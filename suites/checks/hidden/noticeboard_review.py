"""What the review found, tried again."""

import json
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlencode

from noticeboard.app import App, Request
from noticeboard.store import Store

NASTY = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "Tom & Jerry's <3",
    "&lt;b&gt; stays as typed",
    "$title ${content} $$",
    "</h1></title><img src=x>",
]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.attributes = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


class Board(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.static = self.folder / "static"
        self.static.mkdir()
        (self.static / "board.css").write_text("body {}")
        (self.static / "with blank.txt").write_text("blank")
        (self.static / "icons").mkdir()
        (self.static / "icons" / "key.svg").write_text("<svg/>")
        (self.folder / "static-old").mkdir()
        for secret in ("notices-backup.json", "static-old/secret.txt"):
            (self.folder / secret).write_text("SECRET")
        self.store = Store(self.folder / "notices.json")
        self.app = App(self.store, Path("templates").resolve(), self.static)

    def get(self, target):
        return self.app.handle(Request("GET", target))

    def post(self, **form):
        return self.app.handle(Request("POST", "/notices", urlencode(form).encode()))

    def test_a_notice_is_text_on_every_page(self):
        plain = self.post(title="plain", body="plain")
        self.assertEqual(plain.status, 303)
        front, single = Page(self.get("/").body.decode()), Page(self.get("/notices/1").body.decode())
        self.store.path.unlink()
        for text in NASTY:
            with self.subTest(text):
                self.assertEqual(self.post(title=text, body=text).status, 303)
                page, own = Page(self.get("/").body.decode()), Page(self.get("/notices/1").body.decode())
                self.assertEqual((page.tags, own.tags), (front.tags, single.tags))
                self.assertIn(("title", text), page.attributes)
                self.assertGreaterEqual(page.texts.count(text), 2)
                self.assertGreaterEqual(own.texts.count(text), 3)
                self.store.path.unlink()

    def test_the_store_and_the_feed_have_it_as_it_was_typed(self):
        for text in NASTY:
            self.post(title=text, body=text)
        self.assertEqual([one.title for one in self.store.all()], NASTY)
        self.assertEqual([one.body for one in self.store.all()], NASTY)
        feed = json.loads(self.get("/feed.json").body)
        self.assertEqual({one["title"] for one in feed["notices"]}, set(NASTY))

    def test_files_of_the_folder(self):
        for name, content in {
            "board.css": b"body {}",
            "icons/key.svg": b"<svg/>",
            "with%20blank.txt": b"blank",
        }.items():
            self.assertEqual(self.get(f"/static/{name}").body, content)

    def test_no_others(self):
        (self.static / "out").symlink_to(self.folder)
        (self.static / "passwd").symlink_to("/etc/passwd")
        for name in (
            "../notices-backup.json",
            "..%2fnotices-backup.json",
            "%2e%2e/notices-backup.json",
            "icons/../../notices-backup.json",
            "../static-old/secret.txt",
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "out/notices-backup.json",
            "passwd",
            quote(str(self.folder / "notices-backup.json")),
            "%00",
            "board.css%00.txt",
            "icons",
            "",
            ".",
            "x" * 5000,
        ):
            with self.subTest(name):
                answer = self.get(f"/static/{name}")
                self.assertEqual(answer.status, 404)
                self.assertNotIn(b"SECRET", answer.body)

    def test_headers_are_the_boards_own(self):
        for title in ("a\r\nSet-Cookie: x=1", "a\nb", "a\rb"):
            with self.subTest(title):
                self.assertEqual(self.post(title=title, body="").status, 400)
        for title in ("schön & gut?", "50 % off #1", "東京"):
            location = self.post(title=title, body="").headers["Location"]
            self.assertTrue(location.isascii() and location.isprintable() and " " not in location, location)
            self.assertRegex(location, r"^/notices/\d+\b")

    def test_sizes(self):
        self.assertEqual(self.post(title="t" * 120, body="ü" * 4000, days="365").status, 303)
        count = len(self.store.all())
        refused = [
            {"title": "t" * 121, "body": "b"},
            {"title": "t", "body": "b" * 4001},
            {"title": "", "body": "b"},
            *(
                {"title": "t", "body": "b", "days": days}
                for days in ("0", "366", "-1", "soon", "1.5", "", "9" * 5000)
            ),
        ]
        for form in refused:
            with self.subTest(form.get("days")):
                self.assertEqual(self.post(**form).status, 400)
        self.assertEqual(len(self.store.all()), count)

    def test_what_is_left_out_has_its_default(self):
        self.assertEqual(self.post(title="t").status, 303)
        one = self.store.all()[0]
        self.assertEqual(((one.expires - one.posted).days, one.body), (14, ""))

    def test_nothing_raises(self):
        for body in (b"", b"\xff\xfe", b"title=a&" * 50_000, b"title=%ff"):
            self.assertIn(self.app.handle(Request("POST", "/notices", body)).status, (303, 400))
