"""From a request to a response, without sockets."""

import json
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote, unquote, urlsplit

from noticeboard import clock
from noticeboard.store import Notice, Store


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class App:
    """The board. `handle` never raises for what a client sends."""

    def __init__(self, store: Store, templates: Path, static: Path) -> None:
        self.store = store
        self.templates = templates
        self.static = static

    def handle(self, request: Request) -> Response:
        path = unquote(urlsplit(request.target).path)
        if request.method == "POST" and path == "/notices":
            return self.post(request)
        if request.method != "GET":
            return self.text(405, "This board reads and posts.")
        if path == "/":
            return self.front()
        if path == "/feed.json":
            return self.feed()
        if path.startswith("/static/"):
            return self.file(path.removeprefix("/static/"))
        if path.startswith("/notices/"):
            return self.notice(path.removeprefix("/notices/"))
        return self.text(404, "There is nothing here.")

    def front(self) -> Response:
        items = "".join(self.fill("item.html", one) for one in self.store.current())
        return self.page("The board", items or "<p>No news is good news.</p>")

    def notice(self, text: str) -> Response:
        found = self.store.find(int(text)) if text.isdecimal() and text.isascii() else None
        if found is None:
            return self.text(404, "No such notice.")
        return self.page(found.title, self.fill("notice.html", found))

    def post(self, request: Request) -> Response:
        form = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        title = form.get("title", [""])[0].strip()
        body = form.get("body", [""])[0]
        if not title:
            return self.text(400, "A notice has a title.")
        notice = self.store.add(title, body, int(form.get("days", ["14"])[0]))
        return Response(303, b"", {"Location": f"/notices/{notice.id}?posted={notice.title}"})

    def feed(self) -> Response:
        changed = self.store.changed()
        document = {
            "changed": clock.show(changed) if changed else None,
            "notices": [
                {"id": one.id, "title": one.title, "posted": clock.show(one.posted), "expires": clock.show(one.expires)}
                for one in self.store.current()
            ],
        }
        return Response(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def file(self, name: str) -> Response:
        path = self.static / name
        if not path.is_file():
            return self.text(404, "No such file.")
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Response(200, path.read_bytes(), {"Content-Type": kind})

    def page(self, title: str, content: str) -> Response:
        template = Template((self.templates / "page.html").read_text(encoding="utf-8"))
        text = template.substitute(title=title, content=content)
        return Response(200, text.encode(), {"Content-Type": "text/html; charset=utf-8"})

    def fill(self, name: str, notice: Notice) -> str:
        template = Template((self.templates / name).read_text(encoding="utf-8"))
        return template.substitute(
            id=notice.id,
            title=notice.title,
            body=notice.body,
            link=quote(f"/notices/{notice.id}"),
            posted=clock.show(notice.posted),
        )

    def text(self, status: int, message: str) -> Response:
        return Response(status, (message + "\n").encode(), {"Content-Type": "text/plain; charset=utf-8"})
