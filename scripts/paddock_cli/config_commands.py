"""The commands under `./paddock config`."""

from pathlib import Path
from typing import Annotated

import typer

from paddock_cli import console, declared

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; progress on standard error.")
]
File = Annotated[
    Path | None,
    typer.Argument(
        help="The configuration. [default: GATEWAY_CONFIG of .env, or mlflow/gateway.yaml]",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Detailed = Annotated[
    bool,
    typer.Option("--detailed-exitcode", help="Exit code 2 where file and stack differ, 0 where they agree."),
]

config_app = typer.Typer(
    name="config",
    help="The gateway's declared configuration: providers, models, endpoints, budgets, limits. Exit code 35: the file"
    " has mistakes; 36: it can't be applied, or only a part of it was.",
    no_args_is_help=True,
)


@config_app.command()
def validate(file: File = None, as_json: AsJson = False) -> None:
    """Check a file: every mistake at once, with its line. No stack needs to run."""
    from paddock_cli import config

    path, checked = config.validate(file)
    declared.tell_valid(path, checked.notes, as_json=as_json)


@config_app.command()
def plan(file: File = None, detailed_exitcode: Detailed = False, as_json: AsJson = False) -> None:
    """What `apply` would change, and what the stack has that the file does not name. Changes nothing."""
    from paddock_cli import config

    session = config.session(file)
    _, planned = config.compare(session)
    if as_json:
        console.document({"file": str(session.file), **planned.as_json()})
    else:
        config.show_plan(session.checked.notes, planned, config.AGREED)
    raise typer.Exit(2 if detailed_exitcode and not planned.clean else 0)


@config_app.command()
def apply(
    file: File = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what the file does not name; asks first.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bring the stack to the file: only what differs, in an order that a second call can finish."""
    from paddock_cli import config

    session = config.session(file)
    planned, done = config.apply_changes(session, prune=prune, yes=yes, quiet=as_json)
    declared.tell_applied(
        session.file,
        planned,
        done,
        prune=prune,
        as_json=as_json,
        plan_command="./paddock config plan",
        agreed=config.AGREED,
    )


@config_app.command()
def export(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write; standard output if not named.", show_default=False)
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write down what the stack has, also what was made by hand, as a file that `plan` finds nothing to change from."""
    from paddock_cli import config

    declared.write_export(file, lambda: config.exported(None), yes=yes, as_json=as_json)


@config_app.command("rotate-secret")
def rotate_secret(
    name: Annotated[str, typer.Argument(help="Of the variable, such as OPENAI_API_KEY.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Give the gateway a secret's new value, from the shell, .env or a prompt; it counts from the next call on."""
    from paddock_cli import config

    done = config.rotate_secret(name)
    if as_json:
        console.document({"secret": name, "changed": [change.as_json() for change in done]})
        return
    for change in done:
        console.out.print(f"{change.kind} {change.name} has the new {name}", style="green", soft_wrap=True)


@config_app.command("rotate-key")
def rotate_key(yes: Yes = False, as_json: AsJson = False) -> None:
    """Encrypt the gateway's secrets with a new passphrase. MLflow restarts."""
    from paddock_cli import config

    config.rotate_key(yes=yes)
    if as_json:
        console.document({"rotated": True})
    else:
        console.out.print("the gateway's secrets are encrypted with a new passphrase", style="green")
