"""`./paddock label` and `./paddock judges trust`."""

from pathlib import Path
from typing import Annotated

import typer

from paddock_cli import console
from paddock_cli.config_commands import AsJson
from paddock_cli.judge_config_commands import judges_app

__all__ = ["judges_app", "label"]

MOST_REPEATED = 100


def label(
    trace: Annotated[str | None, typer.Option(metavar="ID", help="The trace.", show_default=False)] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose question it answers.", show_default=False)
    ] = None,
    value: Annotated[
        str | None, typer.Option(help="yes or no, or a value that the judge can give.", show_default=False)
    ] = None,
    rationale: Annotated[str, typer.Option(help="Why.", show_default=False)] = "",
    user: Annotated[str | None, typer.Option(help="Who says so. [default: you]", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Many at once: trace_id,judge,value,rationale,user; -: standard input.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a judge should have said of a trace; ./paddock judges trust compares. Again: another answer of yours."""
    from paddock_cli import labels, selection
    from paddock_cli.errors import UsageFailed
    from paddock_cli.mlflow_api import Mlflow
    from paddock_cli.processes import owner_name
    from paddock_cli.settings import load, paths

    who = (user or owner_name()).strip()
    single = (trace, judge, value)
    if file is not None:
        if any(single) or rationale:
            raise UsageFailed("either --file or a single label", "both", "leave one out")
        wanted = labels.from_file(file, who)
    elif trace and judge and value:
        wanted = [labels.Label(trace, judge, value, rationale, who)]
    else:
        raise UsageFailed(
            "--trace, --judge and --value, or --file",
            "not all of them",
            "for example: ./paddock label --trace tr-… --judge relevance_to_query --value no",
        )
    where = paths()
    stored = labels.store(Mlflow(selection.running(where, load(where)).connection()), wanted)
    if as_json:
        console.document(labels.as_json(stored))
    else:
        labels.show(stored)


@judges_app.command()
def trust(
    name: Annotated[
        str | None,
        typer.Argument(help="A judge. [default: every one that people have labelled]", show_default=False),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            help="Traces of a span back from now (90m, 12h, 7d, 2w) or since a date. [default: all]"
        ),
    ] = "",
    repeats: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_REPEATED, help="Ask it so often again about each trace; nothing is stored."
        ),
    ] = 0,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="Traces to ask again about.")
    ] = 20,
    judge_timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for answers.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Does a judge say what people say (Cohen's kappa), does it say the same twice, what does a verdict cost?"""
    from dataclasses import replace

    from paddock_cli import costs, selection
    from paddock_cli import trust as trusted
    from paddock_cli.errors import NotFound, UsageFailed
    from paddock_cli.mlflow_api import Mlflow
    from paddock_cli.settings import load, paths

    if repeats == 1:
        raise UsageFailed("--repeats of two or more", "1", "two answers are needed to differ")
    moment = costs.moment(since, trusted.now(), "--since") if since else None
    where = paths()
    server = Mlflow(selection.running(where, load(where)).connection())
    experiment_id = server.experiment_id()
    found, cut = trusted.collect(server, experiment_id, moment)
    if cut:
        console.warn(f"only the newest {trusted.MOST_TRACES:,} traces were looked at; --since names a span")
    names = [trusted.spelled(found, name)] if name else trusted.judge_names(found)
    if not names:
        raise NotFound(
            "labels of people",
            "none",
            "give some, in the UI or by: ./paddock label --trace ID --judge NAME --value yes",
        )
    judged = [trusted.of_judge(one, found) for one in names]
    if repeats:
        judged = [
            replace(
                one,
                asked=trusted.asked(server, experiment_id, one.judge, found, repeats, limit, judge_timeout),
            )
            for one in judged
        ]
    if as_json:
        console.document({"judges": [one.as_json() for one in judged], "older_traces_left_out": cut})
        return
    for one in judged:
        trusted.show(one)
