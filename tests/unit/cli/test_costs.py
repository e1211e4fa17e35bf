"""`./paddock costs`: what it asks, and the table, file and picture that it makes of the answer."""

import csv
import io
import xml.etree.ElementTree as xml
from datetime import UTC, datetime

import httpx
import pytest

from paddock_cli import console, costs
from paddock_cli.errors import BadSettings, UsageFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.stack import Connection

FIGURES = {
    "calls": 1200,
    "failed": 2,
    "broken_off": 0,
    "refused": 0,
    "in_flight": 0,
    "input_tokens": 1_000_000,
    "output_tokens": 2000,
    "cache_read_tokens": 300,
    "cache_write_tokens": 0,
    "reasoning_tokens": 4,
}
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def answer(by="endpoint", *groups):
    groups = groups or (("coder", "3.0000000001"), ("=cmd()", "1.0000000000"))
    total = sum(float(cost) for _, cost in groups)
    return {
        "by": by,
        "groups": [FIGURES | {"group": name, "label": name, "cost_usd": cost} for name, cost in groups],
        "total": FIGURES | {"cost_usd": f"{total:.10f}"},
        "usage_traces": {"waiting": 0, "set_aside": 0},
    }


def read(body, by="endpoint", since="2026-03-03", until="2026-03-10T12:00:00Z", asked=None):
    def serve(request):
        if asked is not None:
            asked.append(request.url)
        return httpx.Response(200, json=body)

    server = Mlflow(Connection("http://127.0.0.1:1", "admin", "secret"), httpx.MockTransport(serve))
    return costs.read(server, by, since, until)


@pytest.fixture
def shown(monkeypatch, capsys):
    monkeypatch.setattr(console.out, "width", 140)

    def show(found):
        costs.show(found)
        return capsys.readouterr()

    return show


def test_the_question():
    asked = []
    read(answer(), by="user", since="2026-03-01", asked=asked)
    assert asked[0].path == "/api/3.0/paddock/costs"
    assert dict(asked[0].params) == {
        "by": "user",
        "since": "2026-03-01T00:00:00+00:00",
        "until": "2026-03-10T12:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", "2026-03-10T10:30:00+00:00"),
        ("12h", "2026-03-10T00:00:00+00:00"),
        ("7d", "2026-03-03T12:00:00+00:00"),
        ("2w", "2026-02-24T12:00:00+00:00"),
        ("2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("2026-03-01T06:00:00+01:00", "2026-03-01T06:00:00+01:00"),
    ],
)
def test_moments(text, moment):
    assert costs.moment(text, NOW, "--since").isoformat() == moment


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"by": "weather"}, "--by to be one of endpoint, user"),
        ({"since": "7 days"}, "--since to be a span like 90m"),
        ({"since": "7x"}, "found '7x'"),
        ({"since": "2026-04-01"}, "--since before --until"),
        ({"until": "soon"}, "--until to be a span"),
    ],
)
def test_bad_questions(asked, found):
    with pytest.raises(UsageFailed, match=found):
        read(answer(), **asked)


def test_the_table(shown):
    table = shown(read(answer())).out
    assert "coder" in table
    assert "75.0 %" in table
    assert "1,000,000" in table
    assert "$4.00" in table
    assert "failed" in table
    # Nothing was refused or written to a cache.
    assert "refused" not in table
    assert "to cache" not in table


def test_a_long_table_is_cut_and_says_so(shown):
    groups = [(f"run-{number}", "0.1000000000") for number in range(40)]
    table = shown(read(answer("run", *groups), by="run")).out
    assert "run-29" in table
    assert "run-30" not in table
    assert "10 more, in --csv" in table


@pytest.mark.parametrize("width", [80, 60, 48])
def test_a_narrow_terminal_shows_what_it_cost(shown, monkeypatch, width):
    """Of everything there is a column, and numbers of millions."""
    body = answer("model", ("openai/a-model-with-a-long-name", "0.0123456000"), ("demo", "1.0000000000"))
    every = dict.fromkeys(FIGURES, 1234567)
    body["groups"] = [group | every for group in body["groups"]]
    body["total"] |= every
    monkeypatch.setattr(console.out, "width", width)
    table = shown(read(body, by="model")).out
    assert max(map(len, table.splitlines())) <= width
    assert "$0.012346" in table and "98.8 %" in table and "1,234,567" in table
    assert "more in a wider terminal, all in --csv" in " ".join(table.split())
    assert "…" not in table
    monkeypatch.setattr(console.out, "width", 200)
    whole = shown(read(body, by="model")).out
    assert "wider terminal" not in whole
    assert all(
        name in whole for name in ("failed", "broken off", "refused", "in flight", "cached", "to cache")
    )


def test_nothing_yet(shown):
    empty = answer()
    empty["groups"], empty["total"] = [], dict.fromkeys(FIGURES, 0) | {"cost_usd": "0"}
    assert "no calls since 2026-03-03" in shown(read(empty)).out


def test_what_waits_is_said(shown):
    body = answer() | {"usage_traces": {"waiting": 5000, "set_aside": 3}}
    told = " ".join(shown(read(body)).err.split())
    assert "5000 calls wait for their usage traces" in told
    assert "3 calls have no usage trace" in told


def test_csv(tmp_path, capsys):
    found = read(answer())
    costs.write_csv(found, "-")
    costs.write_csv(found, str(tmp_path / "costs.csv"))
    text = capsys.readouterr().out
    assert (tmp_path / "costs.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0]["endpoint"] == "coder"
    assert rows[0]["cost_usd"] == "3.0000000001"
    assert rows[0]["reasoning_tokens"] == "4"
    # No formula for a spreadsheet.
    assert rows[1]["endpoint"] == "'=cmd()"


def test_a_csv_file_that_cannot_be_written(tmp_path):
    with pytest.raises(BadSettings, match=r"a file at .*nowhere"):
        costs.write_csv(read(answer()), str(tmp_path / "nowhere" / "costs.csv"))


@pytest.mark.parametrize("by", ["endpoint", "day"])
@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_the_picture_is_whole_in_one_file(tmp_path, by, suffix):
    groups = [("2026-03-09", "1.5000000000"), ("2026-03-10", "0.2500000000")] if by == "day" else [
        ("<coder> & co", "1.5000000000")
    ]  # fmt: skip
    target = tmp_path / f"costs.{suffix}"
    costs.write_plot(read(answer(by, *groups), by=by), target)
    content = target.read_text()
    assert "$1.50" in content
    for outside in ("<script src", "@import", "src=", "<link", 'href="http', "url("):
        assert outside not in content
    if suffix == "svg":
        texts = "".join(xml.fromstring(content).itertext())
        assert ("2026-03-05" if by == "day" else "<coder> & co  $1.50") in texts


def test_a_picture_of_another_kind(tmp_path):
    with pytest.raises(UsageFailed, match=r"\.svg or \.html.*costs\.png.*export"):
        costs.write_plot(read(answer()), tmp_path / "costs.png")


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0"), ("1234.5", "$1,234.50"), ("0.00012", "$0.00012"), ("0.0000000001", "<$0.000001")],
)
def test_dollars(amount, text):
    from decimal import Decimal

    assert costs.dollars(Decimal(amount)) == text
