"""Declared values are hidden in every form that programs give them by themselves."""

import base64
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest

from paddock_agent.masking import HIDDEN, Mask
from paddock_agent.tools import mcp_secrets

VALUE = 'pa"ss/wörd+of&the=tool'
DATA = VALUE.encode()


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        json.dumps(VALUE),
        json.dumps(VALUE, ensure_ascii=False),
        json.dumps({"arguments": json.dumps({"command": VALUE})}),
        quote(VALUE),
        quote(VALUE, safe=""),
        quote_plus(VALUE),
        shlex.quote(VALUE),
        DATA.hex(),
        DATA.hex().upper(),
        base64.b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.b64encode(b"u:" + DATA).decode(),
        base64.b64encode(b"us:" + DATA + b"\n").decode(),
        base64.b64encode(b"user:" + DATA + b"and more").decode(),
    ],
)
def test_forms(written: str) -> None:
    masked = Mask([VALUE]).text(f"before {written} after")
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert HIDDEN in masked
    # At most the ends of a Base64 group are left, where the value shares a character with its neighbours.
    assert len(masked.replace(HIDDEN, "")) <= len("before  after") + 40
    for form in (VALUE, quote(VALUE), DATA.hex(), "wörd", "d29y", "77c3b6"):
        assert form not in masked


def test_other_text_stays() -> None:
    text = "The tool's password is not told. dG9vbA== 746f6f6c"
    assert Mask([VALUE]).text(text) == text
    assert Mask([]).text(text) == text


def test_a_value_within_another_leaves_no_rest() -> None:
    assert Mask(["token-1234", "token-1234-and-more"]).text("a token-1234-and-more b") == f"a {HIDDEN} b"


def test_each_line_of_a_key_is_hidden_but_what_all_keys_begin_with() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"
    masked = Mask([key]).text("-----BEGIN PRIVATE KEY-----\n  | AQEFAASCBKcwggSjAgEAAoIB")
    assert masked == f"-----BEGIN PRIVATE KEY-----\n  | {HIDDEN}"


def test_short_values_are_left_alone() -> None:
    assert Mask(["1", "true", "seven77"]).forms == []


def test_a_document_stays_one() -> None:
    """A value that looks like JSON itself must not be cut out of a document's syntax."""
    document = json.dumps({"name": 'x","id":"y', "next": "z"})
    masked = Mask(['","next":"', '"x\\",\\"id\\":\\"']).json_text(document.replace(" ", ""))
    assert set(json.loads(masked)) == {"name", "next"}


def test_nested_values() -> None:
    masked = Mask([VALUE]).value({"a": [VALUE, 7, (VALUE, None)], VALUE: b"x", "n": 1.5})
    assert masked == {"a": [HIDDEN, 7, (HIDDEN, None)], HIDDEN: b"x", "n": 1.5}


def test_which_values_of_mcp_servers_are_secrets() -> None:
    servers = {
        "one": {
            "command": "x",
            "env": {
                "API_TOKEN": "just-lower-case-words",
                "NODE_ENV": "production",
                "PATH": "/usr/local/bin:/usr/bin",
                "HOST": "https://api.example/v1",
                "DATABASE": "postgres://user:secret@host/db",
                "SERIAL": "A1b2C3d4E5",
                "LATER_KEY": "${LATER_KEY}",
            },
        },
        "two": {"url": "https://x.example", "headers": {"Authorization": "Bearer abcdefgh1234"}},
    }
    assert mcp_secrets(servers) == [
        "just-lower-case-words",
        "postgres://user:secret@host/db",
        "A1b2C3d4E5",
        "Bearer abcdefgh1234",
        "abcdefgh1234",
    ]
