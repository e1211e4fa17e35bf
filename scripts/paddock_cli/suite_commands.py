"""The commands under `./paddock suite`."""

from pathlib import Path
from typing import Annotated

import typer

from paddock_cli import console

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; progress on standard error.")
]

suite_app = typer.Typer(
    name="suite",
    help="Suites of tasks: each tried on several models and several times, checked, judged, and compared. Exit code 35:"
    " the suite's file has mistakes.",
    no_args_is_help=True,
)


@suite_app.command()
def validate(
    suite: Annotated[str, typer.Argument(help="Name of a shipped suite, or the path of a file.")],
    as_json: AsJson = False,
) -> None:
    """Look at a suite: its file, and whether all that it names is there. Needs no stack."""
    from paddock_cli.settings import paths
    from paddock_cli.suites import definitions

    found = definitions.load(definitions.locate(paths(), suite))
    if as_json:
        console.document(
            {"file": str(found.path), "valid": True, "suite": found.file.model_dump(mode="json")}
        )
        return
    tasks, checks = len(found.file.tasks), sum(len(task.checks) for task in found.file.tasks)
    console.out.print(
        f"{found.path}: {tasks} tasks with {checks} checks, no mistake", style="green", soft_wrap=True
    )


@suite_app.command("list")
def list_suites(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder with suites of your own. [default: the shipped ones]", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Which suites there are, with their tasks."""
    from paddock_cli.errors import BadConfiguration
    from paddock_cli.settings import paths
    from paddock_cli.suites import definitions

    found = definitions.in_folder(folder) if folder else definitions.shipped(paths())
    listed = []
    for path in found:
        try:
            suite = definitions.load(path)
        except BadConfiguration as error:
            listed.append(
                {
                    "file": str(path),
                    "error": f"{len(error.problems)} mistakes: ./paddock suite validate {path}",
                }
            )
            continue
        tasks = [
            task.model_dump(mode="json", include={"id", "title", "tags", "difficulty"})
            for task in suite.file.tasks
        ]
        about = {"name": suite.file.name, "description": suite.file.description}
        listed.append({"file": str(path), **about, "tasks": tasks})
    if as_json:
        console.document({"suites": listed})
        return
    for one in listed:
        console.out.print(
            f"{one.get('name', one['file'])}: {one.get('error') or one['description'] or one['file']}",
            soft_wrap=True,
        )
        for task in one.get("tasks", []):
            about = f"  {task['id']}  {task['title']}  {'★' * (task['difficulty'] or 0)}  {' '.join(task['tags'])}"
            console.out.print(about.rstrip(), soft_wrap=True)
    if not listed:
        console.out.print("no suites")


@suite_app.command()
def run(
    suite: Annotated[
        str, typer.Argument(help="Name of a shipped suite, or the path of a file.", show_default=False)
    ] = "",
    endpoint: Annotated[
        str, typer.Option(metavar="NAMES", help="Gateway endpoints to compare, with commas between them.")
    ] = "coder",
    repeat: Annotated[int, typer.Option(min=1, max=100, help="How often each task is tried.")] = 1,
    parallel: Annotated[
        int | None, typer.Option(min=1, max=64, help="Agents at a time. [default: 2]", show_default=False)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="USD", help="What all attempts' model calls may cost together, like 5."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="A name to find the results by, such as the branch.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this task. Repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only tasks with this tag. Repeatable.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with a suite run that was cut off.")
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="With --resume: try attempts in error again.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave each attempt's workspace where it was.")
    ] = False,
    judge_timeout: Annotated[
        float, typer.Option("--judge-timeout", min=0, help="Seconds to wait for all verdicts; 0: don't wait.")
    ] = 120,
    as_json: AsJson = False,
) -> None:
    """Try each task on each endpoint. Exit code 0: every attempt was made, whatever its checks say; 41: some are missing
    or in error."""
    from paddock_cli import selection
    from paddock_cli.errors import UsageFailed
    from paddock_cli.exit_codes import ExitCode
    from paddock_cli.settings import load, paths
    from paddock_cli.suites import definitions, runner

    if bool(suite) == bool(resume):
        raise UsageFailed(
            "a suite, or --resume ID", "both" if suite else "neither", "see ./paddock suite run --help"
        )
    where = paths()
    manner = runner.Manner(judge_timeout, keep, retry_errors, parallel)
    if resume:
        stack = selection.running(where, load(where))
        made = runner.resume(where, stack, definitions.load, resume, manner)
    else:
        # Looked at before the stack is: a slip in the file or in the call should not first cost a start.
        found = definitions.load(definitions.locate(where, suite))
        wanted = runner.Wanted(
            endpoints=tuple(endpoint.split(",")),
            repeat=repeat,
            parallel=parallel or 2,
            budget=budget,
            label=label,
            tasks=task or [],
            tags=tag or [],
        )
        runner.planned(found, wanted, "")
        stack = selection.running(where, load(where))
        made = runner.begin(where, stack, found, runner.planned(found, wanted, stack.kind), manner)
    if as_json:
        console.document(made.model_dump(mode="json"))
    else:
        runner.show(made)
    good = made.complete and all(one.state == "done" for one in made.attempts)
    raise typer.Exit(ExitCode.OK if good else ExitCode.SUITE_INCOMPLETE)


@suite_app.command()
def status(
    suite_run: Annotated[
        str, typer.Argument(metavar="ID", help="One suite run; all if none.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Suite runs of this checkout: how far they are, and what they found. Needs no stack."""
    from paddock_cli.settings import paths
    from paddock_cli.suites import runner, store

    where = paths()
    found = [store.find(where, None, suite_run)] if suite_run else store.local(where)
    states = {one.id: runner.state_of(where, one) for one in found}
    if as_json:
        console.document(
            {"suite_runs": [one.model_dump(mode="json") | {"state": states[one.id]} for one in found]}
        )
        return
    for one in found:
        console.out.print(f"{one.id}  {states[one.id]}  {runner.summary(one)}", soft_wrap=True)
    if suite_run:
        runner.show(found[0])
    if not found:
        console.out.print("no suite runs yet")
