"""A report as one HTML file with charts, made in an environment of its own, where Vega-Altair is."""

import json
import subprocess
from dataclasses import asdict
from typing import Any

from paddock_cli import console
from paddock_cli.environments import Environments
from paddock_cli.errors import EnvironmentFailed
from paddock_cli.settings import Paths
from paddock_cli.suites.comparison import Comparison
from paddock_cli.suites.inference import Count
from paddock_cli.suites.pages import Page, one_line
from paddock_cli.suites.results import Attempt
from paddock_cli.suites.summary import Summary, counted

LOCK = "scripts/requirements-charts.txt"
PROGRAM = "scripts/paddock_charts"
SECONDS = 120
TASKS = 200
ATTEMPTS = 2000
"""Points of a chart: more can't be told apart."""


def render(where: Paths, page: Page, summary: Summary, comparison: Comparison | None) -> str:
    """The whole file. Nothing in it is fetched from anywhere.

    Raises:
        EnvironmentFailed: Vega-Altair can't be installed or does not draw.
    """
    python = Environments(where.cache).python("charts", where.root / LOCK)
    document = {"page": asdict(page), "charts": chart_data(summary, comparison)}
    with console.step("drawing the charts"):
        try:
            done = subprocess.run(
                [str(python), "-I", str(where.root / PROGRAM)],
                input=json.dumps(document),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise _failed(f"nothing in {SECONDS} s") from None
    if done.returncode:
        raise _failed(done.stderr.strip()[-800:])
    return done.stdout


def _failed(found: str) -> EnvironmentFailed:
    return EnvironmentFailed(
        "the charts to be drawn", found, "take --format markdown, and report it with the results.json"
    )


def chart_data(summary: Summary, comparison: Comparison | None) -> dict[str, list[dict[str, Any]]]:
    """The rows of each chart."""
    return {
        "endpoints": _endpoints(summary, comparison),
        "cells": _cells(summary),
        "changes": _changes(comparison),
        "attempts": [_attempt(one) for one in summary.run.attempts[:ATTEMPTS] if one.cost_usd is not None],
    }


def _name(text: str) -> str:
    return one_line(text, 64) or "–"


def _endpoints(summary: Summary, comparison: Comparison | None) -> list[dict[str, Any]]:
    before: dict[str, Count] = {}
    if comparison is not None:
        attempts = comparison.baseline.attempts
        for endpoint in dict.fromkeys(one.endpoint for one in attempts):
            before[endpoint] = counted(one for one in attempts if one.endpoint == endpoint)
    return [
        {
            "endpoint": _name(group.name),
            "passed": group.count.passed,
            "decided": group.count.decided,
            "rate": group.count.rate,
            "low": group.interval.low,
            "high": group.interval.high,
            "baseline": before[group.name].rate if group.name in before else None,
        }
        for group in summary.by_endpoint
        if group.interval is not None
    ]


def _cells(summary: Summary) -> list[dict[str, Any]]:
    shown = {group.name for group in summary.by_task[:TASKS]}
    return [
        {
            "task": _name(task),
            "endpoint": _name(endpoint),
            "rate": count.rate,
            "result": f"{count.passed}/{count.decided}" if count.decided else "error",
        }
        for (task, endpoint), count in summary.cells.items()
        if task in shown
    ]


def _changes(comparison: Comparison | None) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    changed = [one for one in comparison.changes if one.kind not in ("same", "undecided")]
    return [
        {
            "pair": _name(one.task) + (f" · {_name(one.endpoint)}" if one.endpoint else ""),
            "task": _name(one.task),
            "endpoint": _name(one.endpoint or "all"),
            "difference": (one.now.rate or 0.0) - (one.before.rate or 0.0),
            "before": f"{one.before.passed}/{one.before.decided}",
            "now": f"{one.now.passed}/{one.now.decided}",
            "kind": one.kind,
            "p_value": f"{one.p_value:.3f}",
        }
        for one in changed[:TASKS]
    ]


def _attempt(attempt: Attempt) -> dict[str, Any]:
    result = "error" if attempt.state == "error" else "passed" if attempt.passed else "not passed"
    return {
        "task": _name(attempt.task),
        "endpoint": _name(attempt.endpoint),
        "repeat": attempt.repeat,
        "result": result,
        "cost_usd": attempt.cost_usd,
        "seconds": attempt.seconds,
        "tokens": attempt.tokens.input + attempt.tokens.output,
        "steps": attempt.steps,
    }
