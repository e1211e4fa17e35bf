"""Takes declared values out of text: out of output, stored events and spans.

A mask guards against accidents: a tool that prints its environment, an error that quotes a header. It finds a value as
it is and in the forms that programs give it by themselves: JSON, URL encoding, Base64 (in the middle of longer text too,
as in `Authorization: Basic`), hexadecimal digits. An agent that means to hide a value from it (reversed, in pieces,
encrypted) can.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "<secret-hidden>"
"""OpenHands' own word for it."""
SHORTEST = 8
"""Characters of a value that can be masked: shorter ones stand in ordinary words and numbers."""


class Mask:
    """Replaces values and their usual forms by `HIDDEN`."""

    def __init__(self, values: Iterable[str]) -> None:
        """Values of fewer than `SHORTEST` characters are left alone."""
        found = {form for value in values if len(value) >= SHORTEST for form in _forms(value)}
        # The longest first: a form that contains another one must go as a whole.
        self.forms = sorted(found, key=lambda form: (-len(form), form))
        self._in_text = _pattern(self.forms)
        # What can't stand in a string of JSON would be cut out of its syntax.
        self._in_json = _pattern([form for form in self.forms if _is_json(f'"{form}"')])

    def text(self, text: str) -> str:
        """The text without the values."""
        return self._in_text.sub(HIDDEN, text) if self._in_text else text

    def json_text(self, text: str) -> str:
        """A JSON document without the values, and still one."""
        return self._in_json.sub(HIDDEN, text) if self._in_json else text

    def value(self, value: Any) -> Any:
        """The same for texts in mappings and sequences, at any depth; everything else as it is."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode("latin-1")).encode("latin-1")
        if isinstance(value, Mapping):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return type(value)(self.value(item) for item in value)  # type: ignore[call-arg]
        return value


def _pattern(forms: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, forms))) if forms else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _forms(value: str) -> Iterable[str]:
    yield from _written(value)
    # A key of several lines is seldom printed as one piece.
    lines = [line.strip() for line in value.splitlines()]
    if len(lines) > 1:
        for line in lines:
            # Not the first and last lines of a PEM file, which are everybody's.
            if len(line) >= 2 * SHORTEST and not line.startswith("-----"):
                yield from _written(line)


def _written(value: str) -> Iterable[str]:
    # The arguments of a tool call are a text of JSON, in an event that is one, which may be quoted in a third.
    in_json = {value}
    for _ in range(4):
        yield from in_json
        in_json = {
            json.dumps(form, ensure_ascii=ascii_only)[1:-1]
            for form in in_json
            for ascii_only in (True, False)
        }
    yield from (quote(value, safe=""), quote(value), quote_plus(value))
    data = value.encode("utf-8", "surrogatepass")
    yield from (data.hex(), data.hex().upper())
    for offset in range(3):
        # What of the Base64 of a longer text depends on these bytes alone.
        encoded = base64.b64encode(bytes(offset) + data).decode()
        inner = encoded[-(-offset * 8 // 6) : (offset + len(data)) * 8 // 6]
        yield inner
        yield inner.translate(str.maketrans("+/", "-_"))
