"""Notices, in one JSON file."""

import json
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from noticeboard import clock


@dataclass(frozen=True)
class Notice:
    id: int
    title: str
    body: str
    posted: datetime
    expires: datetime


class Store:
    """All notices that were ever posted. Times in the file are UTC, written by `isoformat`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Notice]:
        if not self.path.exists():
            return []
        return [
            Notice(
                one["id"],
                one["title"],
                one["body"],
                clock.stored(one["posted"]),
                clock.stored(one["expires"]),
            )
            for one in json.loads(self.path.read_text(encoding="utf-8"))
        ]

    def current(self) -> list[Notice]:
        """Those that have not expired, newest first."""
        now = clock.now()
        return sorted((one for one in self.all() if one.expires > now), key=lambda one: one.posted, reverse=True)

    def find(self, number: int) -> Notice | None:
        return next((one for one in self.all() if one.id == number), None)

    def add(self, title: str, body: str, days: int) -> Notice:
        notices = self.all()
        now = clock.now()
        number = max((one.id for one in notices), default=0) + 1
        notice = Notice(number, title, body, now, now + timedelta(days=days))
        self._write([*notices, notice])
        return notice

    def changed(self) -> datetime | None:
        """When the file was written last."""
        return clock.from_seconds(self.path.stat().st_mtime) if self.path.exists() else None

    def _write(self, notices: list[Notice]) -> None:
        text = json.dumps(
            [
                {
                    "id": one.id,
                    "title": one.title,
                    "body": one.body,
                    "posted": one.posted.isoformat(),
                    "expires": one.expires.isoformat(),
                }
                for one in notices
            ],
            indent=1,
        )
        draft = self.path.with_suffix(".new")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self.path)
