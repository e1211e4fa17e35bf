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
