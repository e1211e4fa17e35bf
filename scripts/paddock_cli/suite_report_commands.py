"""The commands under `./paddock suite` that read what a suite run left."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paddock_cli import console
from paddock_cli.suite_commands import AsJson, suite_app

if TYPE_CHECKING:
    from paddock_cli.mlflow_api import Mlflow
    from paddock_cli.settings import Paths
    from paddock_cli.suites.comparison import Comparison
    from paddock_cli.suites.summary import Summary

__all__ = ["suite_app"]


class Format(StrEnum):
    """How a report is written down."""

    TABLE = "table"
    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"
    RESULTS = "results"


Reference = Annotated[
    str, typer.Argument(help="A suite run: its id, its label, latest, or a results.json.", metavar="RUN")
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="What to compare with: an id, a label like main, or a results.json.",
        show_default=False,
    ),
]
Level = Annotated[
    float, typer.Option(min=0.0001, max=0.5, help="How improbable chance must be before it is called worse.")
]


@suite_app.command()
def report(
    reference: Reference = "latest",
    baseline: Baseline = None,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            help="results: the suite run itself, to be another machine's baseline."
            " [default: by the name of --output, or table]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="[default: standard output]", show_default=False),
    ] = None,
    level: Level = 0.05,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="Of each table, at most.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Pass rates, pass@k, cost, tokens, time and steps by endpoint and task; what changed; worst traces first."""
    from paddock_cli.errors import UsageFailed
    from paddock_cli.settings import paths
    from paddock_cli.suites import html, markdown, pages, report_document, terminal

    form = _format(form, output, as_json)
    if form is Format.TABLE and output is not None:
        raise UsageFailed(
            "--output with --format markdown, html, json or results",
            "a table",
            "or name a file that ends in .md, .html or .json",
        )
    where = paths()
    summary, comparison = _read(where, reference, baseline, level)
    if form is Format.RESULTS:
        text = summary.run.model_dump_json(indent=2) + "\n"
    elif form is Format.JSON:
        text = report_document.render(summary, comparison)
    else:
        page = pages.suite_page(summary, comparison, rows)
        if form is Format.TABLE:
            terminal.show(page)
            return
        text = (
            markdown.render(page)
            if form is Format.MARKDOWN
            else html.render(where, page, summary, comparison)
        )
    if output is None:
        sys.stdout.write(text)
    else:
        console.write(output, text)
        console.say(f"wrote {output}")


@suite_app.command()
def gate(
    reference: Reference = "latest",
    baseline: Baseline = None,
    minima: Annotated[
        list[str] | None,
        typer.Option(
            "--min", metavar="METRIC=N", help="Like pass_rate=0.9, or pass_rate@coder=0.9. Repeatable."
        ),
    ] = None,
    maxima: Annotated[
        list[str] | None, typer.Option("--max", metavar="METRIC=N", help="Like cost_usd=0.50. Repeatable.")
    ] = None,
    no_regressions: Annotated[
        bool,
        typer.Option(
            "--no-regressions", help="Nothing worse than the baseline, as far as it can be told from chance."
        ),
    ] = False,
    level: Level = 0.05,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JUnit XML: a test case an attempt.", show_default=False),
    ] = None,
    markdown_file: Annotated[
        Path | None,
        typer.Option(
            "--markdown", metavar="FILE", help='A summary, like "$GITHUB_STEP_SUMMARY".', show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a suite run against thresholds and a baseline.

    Exit code 0: passed; 42: failed; 43: can't be decided (attempts missing or in state error, a price not known); 44: no
    baseline. Metrics: pass_rate, pass_rate_low, pass_at_K, failed, errors, cost_usd, cost_usd_mean, cost_usd_max,
    cost_usd_per_pass, tokens, tokens_mean, seconds, seconds_mean, seconds_max, steps_mean, steps_max, judge/NAME.
    """
    from paddock_cli.errors import UsageFailed
    from paddock_cli.settings import paths
    from paddock_cli.suites import gate as gates
    from paddock_cli.suites import junit as junit_xml
    from paddock_cli.suites import markdown, pages, terminal

    wanted = gates.thresholds(minima or [], maxima or [])
    if no_regressions and baseline is None:
        raise UsageFailed("--baseline with --no-regressions", "none", "name one: --baseline main")
    if not wanted and not no_regressions:
        raise UsageFailed(
            "a criterion: --min, --max or --no-regressions", "none", "for example: --min pass_rate=0.9"
        )
    summary, comparison = _read(paths(), reference, baseline, level)
    decided = gates.decide(summary, comparison, wanted, no_regressions=no_regressions)
    page = gates.page(decided, pages.suite_page(summary, comparison, 50))
    # What a build server shows is written whatever comes of it.
    if junit is not None:
        console.write(junit, junit_xml.render(decided))
    if markdown_file is not None:
        console.write(markdown_file, markdown.render(page))
    if as_json:
        console.document(decided.as_json())
    else:
        terminal.show(page)
        style = {"passed": "green", "failed": "red", "undecided": "yellow"}[decided.state]
        console.say(f"gate {decided.state}", style=style)
    raise typer.Exit(decided.exit_code)


def _format(form: Format | None, output: Path | None, as_json: bool) -> Format:
    from paddock_cli.errors import UsageFailed

    if as_json:
        if form not in (None, Format.JSON):
            raise UsageFailed("one of --json and --format", f"both, and --format {form}", "leave one out")
        return Format.JSON
    if form is None and output is not None:
        suffixes = {".md": Format.MARKDOWN, ".html": Format.HTML, ".htm": Format.HTML, ".json": Format.JSON}
        form = suffixes.get(output.suffix.lower())
    return form or Format.TABLE


def _read(
    where: "Paths", reference: str, baseline: str | None, level: float
) -> "tuple[Summary, Comparison | None]":
    """Both suite runs, in figures. MLflow is asked where a stack runs: files and this checkout's own need none.

    Raises:
        NotFound: no such suite run.
        NoBaseline: no such baseline, or none that can be compared.
    """
    from paddock_cli.errors import NoBaseline, NotFound
    from paddock_cli.suites import store
    from paddock_cli.suites.comparison import against
    from paddock_cli.suites.summary import summarize

    server = _server(where)
    run = store.find(where, server, reference)
    if baseline is None:
        return summarize(run), None
    try:
        before = store.find(where, server, baseline, suite=run.suite, other_than=run.id)
    except NotFound as error:
        itself = " beside the run itself" if baseline in (run.label, store.LATEST) else ""
        nowhere = "" if server else "; no stack runs here, so MLflow was not asked"
        raise NoBaseline(
            f"the baseline {baseline}", f"{error.found}{itself}{nowhere}", error.remedy
        ) from None
    return summarize(run), against(before, run, level)


def _server(where: "Paths") -> "Mlflow | None":
    from paddock_cli import selection
    from paddock_cli.errors import ComposeMissing, EngineMissing, NotRunning
    from paddock_cli.mlflow_api import Mlflow
    from paddock_cli.settings import load

    try:
        return Mlflow(selection.running(where, load(where)).connection())
    except (NotRunning, EngineMissing, ComposeMissing):
        return None
