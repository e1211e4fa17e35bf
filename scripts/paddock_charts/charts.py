"""The charts of a suite's report, as Vega-Lite specifications.

What tasks and endpoints are called is data of a chart alone, never a part of its specification.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt

_WIDTH = 620
_GOOD, _BAD, _NEUTRAL = "#1a7f37", "#cf222e", "#57606a"
_KINDS = {"broken": _BAD, "worse": "#e5737b", "better": "#6fbf83", "fixed": _GOOD}

Rows = Sequence[dict[str, Any]]


def specifications(data: dict[str, Rows]) -> list[dict[str, Any]]:
    """Each chart that there is data for, as `{"title": …, "specification": …}`."""
    drawn = [
        ("Pass rate by endpoint, with its 95 % interval", _endpoints(data["endpoints"])),
        ("Pass rate by task and endpoint", _cells(data["cells"])),
        ("Change of the pass rate against the baseline", _changes(data["changes"])),
        ("Cost and time of each attempt", _attempts(data["attempts"])),
    ]
    return [{"title": title, "specification": _whole(chart)} for title, chart in drawn if chart is not None]


def _whole(chart: Any) -> dict[str, Any]:
    return dict(
        chart.configure_view(stroke=None)
        .configure_axis(labelLimit=260, labelFontSize=12, titleFontSize=12, gridColor="#eaeef2")
        .configure(font="system-ui, sans-serif")
        .to_dict()
    )


def _rows(rows: Rows) -> Any:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _rate(field: str, title: str = "pass rate") -> Any:
    return alt.X(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))


def _endpoints(rows: Rows) -> Any | None:
    if not rows:
        return None
    base = _rows(rows).encode(y=alt.Y("endpoint:N", title=None, sort=None))
    about = [
        alt.Tooltip("endpoint:N"),
        alt.Tooltip("passed:Q"),
        alt.Tooltip("decided:Q"),
        alt.Tooltip("rate:Q", format=".1%"),
        alt.Tooltip("low:Q", format=".1%", title="interval from"),
        alt.Tooltip("high:Q", format=".1%", title="to"),
    ]
    bars = base.mark_bar(color="#54aeff", height={"band": 0.6}).encode(x=_rate("rate"), tooltip=about)
    reach = base.mark_rule(color="#24292f", strokeWidth=2).encode(x=_rate("low"), x2="high:Q", tooltip=about)
    before = (
        base.transform_filter("isValid(datum.baseline)")
        .mark_point(color=_BAD, filled=False, shape="diamond", size=90, strokeWidth=2)
        .encode(
            x=_rate("baseline"), tooltip=[alt.Tooltip("baseline:Q", format=".1%", title="baseline (all)")]
        )
    )
    return (bars + reach + before).properties(width=_WIDTH, height=alt.Step(34))


def _cells(rows: Rows) -> Any | None:
    if not rows:
        return None
    base = _rows(rows).encode(
        x=alt.X("endpoint:N", title=None, sort=None, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("task:N", title=None, sort=None),
    )
    about = [
        alt.Tooltip(f"{name}:N", title=name.replace("_", " ")) for name in ("task", "endpoint", "result")
    ]
    boxes = base.mark_rect(stroke="white", strokeWidth=2).encode(
        color=alt.condition(
            "isValid(datum.rate)",
            alt.Color(
                "rate:Q",
                title="pass rate",
                # Told apart by those, too, who don't tell red from green.
                scale=alt.Scale(domain=[0, 0.5, 1], range=["#b35806", "#f7f7f7", "#2166ac"]),
                legend=alt.Legend(format="%"),
            ),
            alt.value("#d0d7de"),
        ),
        tooltip=about,
    )
    text = base.mark_text(fontSize=11).encode(
        text="result:N",
        color=alt.condition(
            "isValid(datum.rate) && (datum.rate < 0.2 || datum.rate > 0.8)",
            alt.value("white"),
            alt.value("#24292f"),
        ),
        tooltip=about,
    )
    endpoints = len({row["endpoint"] for row in rows})
    return (boxes + text).properties(width=max(120, min(_WIDTH, 110 * endpoints)), height=alt.Step(22))


def _changes(rows: Rows) -> Any | None:
    if not rows:
        return None
    return (
        _rows(rows)
        .mark_bar(height={"band": 0.7})
        .encode(
            x=alt.X(
                "difference:Q",
                title="pass rate now less that before",
                scale=alt.Scale(domain=[-1, 1]),
                axis=alt.Axis(format="+%"),
            ),
            y=alt.Y("pair:N", title=None, sort=None),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=list(_KINDS), range=list(_KINDS.values())),
            ),
            tooltip=[
                alt.Tooltip(f"{name}:N") for name in ("task", "endpoint", "before", "now", "kind", "p_value")
            ],
        )
        .properties(width=_WIDTH, height=alt.Step(22))
    )


def _attempts(rows: Rows) -> Any | None:
    if not rows:
        return None
    return (
        _rows(rows)
        .mark_point(size=60, opacity=0.75, filled=True)
        .encode(
            x=alt.X("seconds:Q", title="agent's time (s)"),
            y=alt.Y("cost_usd:Q", title="cost (USD)"),
            color=alt.Color("endpoint:N", sort=None),
            shape=alt.Shape(
                "result:N",
                title=None,
                scale=alt.Scale(
                    domain=["passed", "not passed", "error"], range=["circle", "cross", "triangle-up"]
                ),
            ),
            tooltip=[
                alt.Tooltip("task:N"),
                alt.Tooltip("endpoint:N"),
                alt.Tooltip("repeat:Q"),
                alt.Tooltip("result:N"),
                alt.Tooltip("cost_usd:Q", format="$.4f", title="cost"),
                alt.Tooltip("seconds:Q", format=".1f"),
                alt.Tooltip("tokens:Q", format=","),
                alt.Tooltip("steps:Q"),
            ],
        )
        .properties(width=_WIDTH, height=320)
    )
