"""The commands under `./paddock judges`."""

import typer

judges_app = typer.Typer(
    name="judges",
    help="Judges: what they are, declared in mlflow/judges.yaml, what they say, and how far they can be trusted. Exit"
    " code 35: the file has mistakes; 36: it can't be applied, or only a part of it was.",
    no_args_is_help=True,
)
