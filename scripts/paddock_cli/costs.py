"""What was spent, from the gateway's ledger: a table, a CSV file, a picture."""

import csv
import io
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from paddock_cli import console
from paddock_cli.errors import UsageFailed
from paddock_cli.mlflow_api import Mlflow

COSTS = "/api/3.0/paddock/costs"
BY = ("endpoint", "user", "key", "run", "day", "model")
SHOWN = 30
"""Groups in the table and the picture; a CSV file has all."""

_TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_COLUMNS = ("calls", "failed", "broken_off", "refused", "in_flight", *_TOKENS, "cost_usd")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d{1,5})([mhdw])")
_NOBODY = {"key": "(a person's password)", "run": "(no run)", "model": "(no answer)"}


@dataclass(frozen=True)
class Row:
    """Figures of one group, or of all; cost in USD."""

    name: str
    figures: dict[str, int]
    cost: Decimal


@dataclass(frozen=True)
class Costs:
    """What the ledger says of the calls that began between two moments (UTC)."""

    by: str
    since: datetime
    until: datetime
    rows: list[Row]
    total: Row
    waiting: int
    set_aside: int
    answer: dict[str, Any]


def read(server: Mlflow, by: str, since: str, until: str) -> Costs:
    """Ask the server.

    Args:
        by: one of `BY`.
        since: a span back from now (`90m`, `12h`, `7d`, `2w`), a date or a moment (ISO 8601, UTC where it has no zone).
        until: the same; empty for now.

    Raises:
        UsageFailed: one of them is none of that.
    """
    if by not in BY:
        raise UsageFailed(
            f"--by to be one of {', '.join(BY)}", repr(by), "for example: ./paddock costs --by user"
        )
    now = datetime.now(UTC)
    end = moment(until, now, "--until") if until else now
    start = moment(since, now, "--since")
    if start >= end:
        raise UsageFailed("--since before --until", f"{start.isoformat()} and {end.isoformat()}", "swap them")
    asked = {"by": by, "since": start.isoformat(), "until": end.isoformat()}
    answer = server.call("GET", COSTS, params=asked)
    return Costs(
        by=by,
        since=start,
        until=end,
        rows=[_row(group, group["label"] or _NOBODY.get(by, "–")) for group in answer["groups"]],
        total=_row(answer["total"], "total"),
        waiting=answer["usage_traces"]["waiting"],
        set_aside=answer["usage_traces"]["set_aside"],
        answer=answer,
    )


def moment(text: str, now: datetime, option: str) -> datetime:
    """The moment that a span back from now, a date or a time means. Raises UsageFailed."""
    if match := _SPAN.fullmatch(text):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageFailed(
            f"{option} to be a span like 90m, 12h, 7d or 2w, or a date like 2026-01-31", repr(text), "mend it"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def show(costs: Costs) -> None:
    """The table, with totals."""
    if not costs.total.figures["calls"] and not costs.total.figures["refused"]:
        console.out.print(f"no calls since {costs.since:%Y-%m-%d %H:%M} UTC")
    else:
        console.out.print(_table(costs))
    if costs.waiting > 1000:
        console.warn(
            f"{costs.waiting} calls wait for their usage traces; look at: ./paddock logs mlflow-jobs"
        )
    if costs.set_aside:
        console.warn(
            f"{costs.set_aside} calls have no usage trace: their records could not be read;"
            " look for `set aside` in: ./paddock logs mlflow-jobs"
        )


def _table(costs: Costs) -> Table:
    total = costs.total
    # Columns that say nothing here are left out.
    extra = [name for name in ("failed", "broken_off", "refused", "in_flight") if total.figures[name]]
    written = ["cache_write_tokens"] if total.figures["cache_write_tokens"] else []
    counted = ["calls", *extra, "input_tokens", "cache_read_tokens", *written, "output_tokens"]
    longest = max((len(row.name) for row in costs.rows[:SHOWN]), default=0)
    longest = max(longest, len(_hidden(costs)))
    narrow = min(12, longest)
    left_out = 0
    # What can be spared first, so that a narrow terminal shows what it cost.
    for name in (
        "cache_write_tokens",
        "cache_read_tokens",
        *reversed(extra),
        "input_tokens",
        "output_tokens",
    ):
        if _width(_with_columns(costs, counted, narrow)) <= console.out.width:
            break
        if name in counted:
            counted.remove(name)
            left_out += 1
    room = console.out.width - _width(_with_columns(costs, counted, narrow))
    table = _with_columns(costs, counted, min(longest, narrow + max(room, 0)))
    if left_out:
        table.caption = f"{table.caption}; {left_out} more in a wider terminal, all in --csv"
    return table


def _with_columns(costs: Costs, counted: list[str], name_width: int) -> Table:
    table = Table(
        caption=f"{costs.since:%Y-%m-%d %H:%M} – {costs.until:%Y-%m-%d %H:%M} UTC",
        show_footer=True,
        box=box.SIMPLE,
        pad_edge=False,
    )
    total = costs.total
    table.add_column(costs.by, footer="total", overflow="fold", width=max(name_width, len(costs.by)))
    for name in counted:
        head = {"cache_read_tokens": "cached", "cache_write_tokens": "to cache"}.get(name, name)
        table.add_column(
            head.removesuffix("_tokens").replace("_", " "),
            justify="right",
            footer=f"{total.figures[name]:,}",
            no_wrap=True,
        )
    table.add_column("cost", justify="right", footer=dollars(total.cost), no_wrap=True)
    table.add_column("share", justify="right", footer="100 %" if total.cost else "–", no_wrap=True)
    for row in costs.rows[:SHOWN]:
        share = f"{row.cost / total.cost:.1%}".replace("%", " %") if total.cost else "–"
        figures = [f"{row.figures[name]:,}" for name in counted]
        table.add_row(Text(row.name), *figures, dollars(row.cost), share)
    if hidden := _hidden(costs):
        table.add_row(Text(hidden, style="dim"))
    return table


def _hidden(costs: Costs) -> str:
    more = len(costs.rows) - SHOWN
    return f"… {more} more, in --csv" if more > 0 else ""


def _width(table: Table) -> int:
    table.caption = None
    lines = console.out.render_lines(table, console.out.options.update(max_width=10_000), pad=False)
    return max(map(Segment.get_line_length, lines))


def write_csv(costs: Costs, target: str) -> None:
    """Every group with every figure, USD to ten places; `-` is standard output. Raises BadSettings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([costs.by, *_COLUMNS])
    for group in costs.answer["groups"]:
        writer.writerow([_cell(group["group"]), *(group[name] for name in _COLUMNS)])
    if target == "-":
        sys.stdout.write(text.getvalue())
    else:
        console.write(Path(target), text.getvalue())
        console.say(f"wrote {target}")


def _cell(text: str) -> str:
    # A spreadsheet takes a cell that begins so for a formula, and users choose their names.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def check_plot(target: Path) -> None:
    """Raises UsageFailed where the file's kind is none that can be drawn."""
    if target.suffix.lower() not in (".svg", ".html"):
        raise UsageFailed(
            "--plot to name a file that ends with .svg or .html",
            target.name,
            "for a PNG open the SVG in a browser or in Inkscape and export it",
        )


def write_plot(costs: Costs, target: Path) -> None:
    """A picture of the costs, whole in one file: a line over days, bars otherwise. Raises UsageFailed, BadSettings."""
    check_plot(target)
    picture = _picture(costs)
    if target.suffix.lower() == ".html":
        title = escape(f"Cost by {costs.by}")
        picture = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
            f'<body style="margin:2rem;max-width:70rem">{picture}</body></html>\n'
        )
    console.write(target, picture)
    console.say(f"wrote {target}")


def _picture(costs: Costs) -> str:
    import pygal
    from pygal.style import Style

    style = Style(
        font_family="sans-serif", background="white", plot_background="white", colors=("#0194e2",), opacity="1",
        guide_stroke_color="#e5e5e5", major_guide_stroke_color="#cccccc", guide_stroke_dasharray="none",
        major_guide_stroke_dasharray="none", label_font_size=13, major_label_font_size=13, value_font_size=12,
    )  # fmt: skip
    shared: dict[str, Any] = {
        "style": style,
        "title": f"Cost by {costs.by}, {costs.since:%Y-%m-%d} – {costs.until:%Y-%m-%d}: {dollars(costs.total.cost)}",
        "show_legend": False,
        # Of the axis; it overrides what stands at the bars.
        "value_formatter": lambda value: dollars(Decimal(str(value))) if value else "$0",
        "max_scale": 6,
        "truncate_label": -1,
        # Its scripts would be fetched from the network.
        "js": [],
    }
    if costs.by == "day":
        rows = _every_day(costs)
        chart = pygal.Bar(
            **shared,
            x_label_rotation=45,
            print_values=len(rows) <= SHOWN,
            print_values_position="top",
        )
        chart.x_labels = [row.name for row in rows]
    else:
        # Drawn from below. The amount stands in the label: beside a short bar there is no room for it.
        rows = costs.rows[:SHOWN][::-1]
        chart = pygal.HorizontalBar(**shared, height=max(200, 110 + 26 * len(rows)))
        names = [row.name if len(row.name) <= 40 else row.name[:39] + "…" for row in rows]
        chart.x_labels = [f"{name}  {dollars(row.cost)}" for name, row in zip(names, rows, strict=True)]
    chart.add("USD", [float(row.cost) or None for row in rows])
    return str(chart.render(is_unicode=True, disable_xml_declaration=True))


def _every_day(costs: Costs) -> list[Row]:
    """Days without a call too, so that the axis is time; at most a year."""
    known = {row.name: row for row in costs.rows}
    last = (costs.until - timedelta(microseconds=1)).astimezone(UTC).date()
    first = max(costs.since.astimezone(UTC).date(), last - timedelta(days=365))
    days = [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]
    return [known.get(day, Row(day, {}, Decimal(0))) for day in days]


def _row(answer: dict[str, Any], name: str) -> Row:
    figures = {key: int(answer[key]) for key in _COLUMNS if key != "cost_usd"}
    return Row(name, figures, Decimal(answer["cost_usd"]))


def dollars(amount: Decimal) -> str:
    """USD: cents for what is dear, more places for what is cheap."""
    if not amount:
        return "$0"
    if amount >= 1:
        return f"${amount:,.2f}"
    return "$" + f"{amount:.6f}".rstrip("0").rstrip(".") if amount >= Decimal("0.000001") else "<$0.000001"
