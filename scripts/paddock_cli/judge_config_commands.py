"""The commands under `./paddock judges` that look after the declared judges."""

from pathlib import Path
from typing import Annotated

import typer
from rich.syntax import Syntax

from paddock_cli import console, declared
from paddock_cli.config_commands import AsJson, Detailed, Yes
from paddock_cli.judge_commands import judges_app

File = Annotated[
    Path | None,
    typer.Argument(
        help="The judges. [default: JUDGES_CONFIG of .env, or mlflow/judges.yaml]", show_default=False
    ),
]


@judges_app.command()
def validate(file: File = None, as_json: AsJson = False) -> None:
    """Check a file: every mistake at once, with its line. No stack needs to run."""
    from paddock_cli import judge_config

    path, checked = judge_config.validate(file)
    declared.tell_valid(path, checked.notes, as_json=as_json)


@judges_app.command()
def plan(file: File = None, detailed_exitcode: Detailed = False, as_json: AsJson = False) -> None:
    """What `apply` would change, and which judges the stack has that the file does not name. Changes nothing."""
    from paddock_cli import config, judge_config

    session = judge_config.session(file)
    _, planned = judge_config.compare(session)
    if as_json:
        console.document({"file": str(session.file), **planned.as_json()})
    else:
        config.show_plan(session.checked.notes, planned, judge_config.AGREED)
    raise typer.Exit(2 if detailed_exitcode and not planned.clean else 0)


@judges_app.command()
def apply(
    file: File = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete judges that the file does not name; asks first.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bring the stack's judges to the file: only what differs. What is judged from then on is judged by them."""
    from paddock_cli import judge_config

    session = judge_config.session(file)
    planned, done = judge_config.apply_changes(session, prune=prune, yes=yes, quiet=as_json)
    declared.tell_applied(
        session.file,
        planned,
        done,
        prune=prune,
        as_json=as_json,
        plan_command="./paddock judges plan",
        agreed=judge_config.AGREED,
    )


@judges_app.command()
def export(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write; standard output if not named.", show_default=False)
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write down the judges that there are, also those made by hand, as a file that `plan` finds nothing in."""
    from paddock_cli import judge_config

    declared.write_export(file, judge_config.exported, yes=yes, as_json=as_json)


@judges_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Of the judge.", show_default=False)],
    fingerprint: Annotated[
        str | None,
        typer.Option(
            help="As the metadata of an assessment has it; its first digits do.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What decided a judge's verdicts: its prompt, settings or code, of every version that has judged, newest first."""
    from paddock_cli import judge_config

    versions = judge_config.shown(name, fingerprint)
    if as_json:
        console.document({"judge": name, "versions": versions})
        return
    import json

    for one in versions:
        head = f"{one['name']} version {one['version']}, fingerprint {one['fingerprint'][:12]}, {one['created_at'][:19]}"
        console.out.print(head, style="bold", soft_wrap=True)
        content = dict(one["content"])
        prompt = content.pop("prompt", "") or (content.get("definition", {}).get("code") or {}).get(
            "source", ""
        )
        console.out.print(Syntax(json.dumps(content, indent=2, ensure_ascii=False), "json", word_wrap=True))
        if prompt:
            console.out.print(prompt, markup=False, highlight=False, soft_wrap=True)


@judges_app.command()
def probe(
    endpoint: Annotated[str, typer.Option(help="Of the gateway, whose model judges.")] = "judge",
    timeout: Annotated[float, typer.Option(help="How long to wait for verdicts, in seconds.", min=1)] = 300,
    as_json: AsJson = False,
) -> None:
    """Try whether what stands in a trace turns its judge: thirteen attacks, two traces without. Exit code 45: one did."""
    from paddock_cli import probe as probes
    from paddock_cli.exit_codes import ExitCode

    probed = probes.probe(endpoint, timeout)
    if as_json:
        console.document(probes.as_json(endpoint, probed))
    else:
        probes.show(probed)
    if any(one.turned for one in probed):
        raise typer.Exit(ExitCode.JUDGE_TURNED)
    if any(not one.said for one in probed):
        raise typer.Exit(ExitCode.SERVER)


__all__ = ["judges_app"]
