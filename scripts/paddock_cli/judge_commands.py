"""The commands under `./paddock judges`."""

from typing import Annotated

import typer

from paddock_cli import console

judges_app = typer.Typer(
    name="judges",
    help="Judges: what they are, declared in mlflow/judges.yaml, what they say, and how far they can be trusted. Exit"
    " code 35: the file has mistakes; 36: it can't be applied, or only a part of it was.",
    no_args_is_help=True,
)


@judges_app.command()
def status(
    every: Annotated[
        bool, typer.Option("--all", help="Of every experiment that has judges, not of `agents` alone.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON document on standard output; progress on standard error."),
    ] = False,
) -> None:
    """How judging does: what waits, how far it is behind, what became of the rest and why, what is left to spend."""
    from paddock_cli import judge_status, selection
    from paddock_cli.mlflow_api import Mlflow
    from paddock_cli.settings import load, paths

    where = paths()
    server = Mlflow(selection.running(where, load(where)).connection())
    answer = judge_status.read(server, every)
    if as_json:
        console.document(answer)
    else:
        judge_status.show(answer)
