"""The commands under `./paddock egress`."""

from pathlib import Path
from typing import Annotated

import typer

from paddock_cli import console

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; progress on standard error.")
]

egress_app = typer.Typer(
    name="egress",
    help="What agents may reach beside the models (profile egress). Exit code 35: the configuration has mistakes.",
    no_args_is_help=True,
)


@egress_app.command()
def validate(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="The configuration. [default: EGRESS_CONFIG of .env, or services/egress/egress.yaml]",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a file: every mistake at once, with its line. No stack needs to run."""
    from paddock_cli import egress
    from paddock_cli.settings import load, paths

    path = file or load(paths()).egress_config
    configuration = egress.validate(path)
    if as_json:
        console.document({"file": str(path), "valid": True, **configuration.model_dump()})
    else:
        console.out.print(f"{path} is valid", style="green", soft_wrap=True)


@egress_app.command()
def log(
    run_id: Annotated[str, typer.Option("--run", metavar="RUN_ID", help="Of this run alone.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="What was let through, too. [default: refusals]")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What the proxy refused, with the run that asked."""
    from paddock_cli import egress, render, selection
    from paddock_cli.settings import load, paths

    where = paths()
    found = list(egress.decisions(selection.running(where, load(where)), run_id=run_id, every=every))
    if as_json:
        console.document({"decisions": found})
    elif found:
        console.out.print(render.egress_table(found))
    else:
        console.out.print("nothing was asked for" if every else "nothing was refused")
