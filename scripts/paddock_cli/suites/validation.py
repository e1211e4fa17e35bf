"""A suite's file against its form, itself, and the files that it names: every error at once, each with its line."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from paddock_cli.errors import BadConfiguration
from paddock_cli.suites import model
from paddock_cli.suites.model import Check, SuiteFile, Task

sys.path.append(str(Path(__file__).resolve().parents[3] / "mlflow"))

from paddock_mlflow.config.errors import InvalidConfiguration, Problem
from paddock_mlflow.config.form import Words, made, once
from paddock_mlflow.config.source import Form, Source, Steps, parse, read

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
_FORM = Form(
    kind="a readable suite",
    content="a mapping with version, name and tasks",
    example="the shipped suites/coding.yaml",
    named_by="./paddock suite list shows the shipped ones",
)
_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): SuiteFile,
    ("defaults",): model.Defaults,
    ("defaults", "limits"): model.Limits,
    ("tasks", "*"): Task,
    ("tasks", "*", "limits"): model.Limits,
    ("tasks", "*", "workspace"): model.Workspace,
    ("tasks", "*", "checks", "*"): Check,
}
_FORMS = {
    "Identifier": ("small letters, digits and dashes, 64 at most", "rename it"),
    "CheckName": ("letters, digits and `_ . , ( ) + -`, 64 at most", "rename it"),
    "Tag": ("small letters, digits and `_ . -`, 64 at most", "rename it"),
    "Commit": (
        "a whole commit id of 40 hex digits",
        "write what `git rev-parse` prints: a branch or a tag can move",
    ),
    "Address": (
        "the address of a repository by https, ssh, http or file",
        "write it like https://git.example/team/x.git",
    ),
}
"""What a type of the model looks like, and how to mend it."""


def load(path: Path) -> SuiteFile:
    """Read and check a file, and whether all that it names is there.

    Raises:
        BadConfiguration: with every problem of the file.
    """
    try:
        return _checked(read(path, _FORM), path.resolve().parent)
    except InvalidConfiguration as error:
        raise BadConfiguration(
            error.file, [problem.as_json() for problem in error.problems], str(error)
        ) from None


def check(text: str, file: str, folder: Path) -> SuiteFile:
    """As `load`, of a text whose names are looked up in `folder`. Raises BadConfiguration."""
    try:
        return _checked(parse(text, file, _FORM), folder)
    except InvalidConfiguration as error:
        raise BadConfiguration(
            error.file, [problem.as_json() for problem in error.problems], str(error)
        ) from None


def _checked(source: Source, folder: Path) -> SuiteFile:
    problems = list(source.problems)
    suite: SuiteFile | None = None
    try:
        suite = SuiteFile.model_validate(source.data)
    except ValidationError as error:
        problems += _WORDS.problems(source, error)
    tasks = dict(enumerate(suite.tasks)) if suite else _well_formed(source)
    problems += _unique(source)
    for index, task in tasks.items():
        problems += _task_rules(source, ("tasks", index), task, folder)
    if problems or suite is None:
        raise InvalidConfiguration(source.file, once(problems))
    return suite


def _well_formed(source: Source) -> dict[int, Task]:
    """The tasks that are well-formed by themselves, so that the rules can be looked at too."""
    given = source.data.get("tasks")
    entries = enumerate(given if isinstance(given, list) else [])
    return {index: task for index, entry in entries if isinstance(task := made(Task, entry), Task)}


# The form


def _fields_at(steps: Steps) -> list[str]:
    found = _MODELS.get(tuple("*" if isinstance(step, int) else step for step in steps))
    return sorted(found.model_fields) if found is not None else []


def _pattern(pattern: str, _is_key: bool) -> tuple[str, str]:
    (name,) = (one for one in _FORMS if pattern == getattr(model, one).__metadata__[0].pattern)
    return _FORMS[name]


_WORDS = Words(
    fields_at=_fields_at, example="docs/suites.md and the shipped suites/coding.yaml", pattern=_pattern
)


# The rules


def _unique(source: Source) -> Iterator[Problem]:
    given = source.data.get("tasks")
    seen: dict[str, int] = {}
    for index, entry in enumerate(given if isinstance(given, list) else []):
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            continue
        steps: Steps = ("tasks", index, "id")
        if name in seen:
            yield source.problem(
                steps,
                "each id once",
                f"`{name}` a second time, after line {seen[name]}",
                "rename one of them",
            )
        else:
            seen[name] = source.places[steps][0]


def _task_rules(source: Source, steps: Steps, task: Task, folder: Path) -> Iterator[Problem]:
    yield from _workspace_rules(source, (*steps, "workspace"), task.workspace, folder)
    for field, kind in (("mcp", "file"), ("solution", "file")):
        yield from _named(source, (*steps, field), getattr(task, field), folder, kind)
    names: dict[str, int] = {}
    for index, one in enumerate(task.checks):
        at: Steps = (*steps, "checks", index)
        if one.name.lower() in names:
            yield source.problem(
                (*at, "name"),
                "each name of a check once in its task",
                f"`{one.name}` a second time, after check {names[one.name.lower()]}",
                "rename one of them",
            )
        names.setdefault(one.name.lower(), index + 1)
        yield from _check_rules(source, at, one, folder)


def _workspace_rules(
    source: Source, steps: Steps, workspace: model.Workspace, folder: Path
) -> Iterator[Problem]:
    yield from _one_of(source, steps, workspace, model.KINDS_OF_WORKSPACE)
    if workspace.git is not None and workspace.commit is None:
        yield source.problem(
            steps, "`commit` beside `git`", "none", "write the commit that `git rev-parse` prints"
        )
    if workspace.git is None and workspace.commit is not None:
        yield source.problem((*steps, "commit"), "`commit` with `git` alone", "it without", "remove it")
    yield from _named(source, (*steps, "folder"), workspace.folder, folder, "folder")
    yield from _named(source, (*steps, "archive"), workspace.archive, folder, "file")
    if workspace.archive is not None and not workspace.archive.endswith(ARCHIVES):
        yield source.problem(
            (*steps, "archive"), f"one of {', '.join(ARCHIVES)}", f"`{workspace.archive}`", "pack it as one of them"
        )  # fmt: skip


def _check_rules(source: Source, steps: Steps, one: Check, folder: Path) -> Iterator[Problem]:
    yield from _one_of(source, steps, one, model.KINDS_OF_CHECK)
    for field, owner in (("files", "run"), ("timeout", "run"), ("matches", "file"), ("absent", "file")):
        if getattr(one, field) is not None and getattr(one, owner) is None:
            yield source.problem(
                (*steps, field), f"`{field}` with `{owner}` alone", "it without", "remove it"
            )
    if one.file is not None:
        if (one.matches is None) == (one.absent is None):
            found = "both" if one.matches else "neither"
            yield source.problem(
                (*steps, "file"),
                "either `matches` or `absent: true` beside `file`",
                found,
                "keep one of them",
            )
        yield from _inside(source, (*steps, "file"), one.file)
    if one.matches is not None:
        try:
            re.compile(one.matches)
        except re.error as error:
            yield source.problem(
                (*steps, "matches"),
                "a regular expression of Python",
                f"{error}",
                "mend it, or escape with \\",
            )
    for index, glob in enumerate(one.diff_only or ()):
        yield from _inside(source, (*steps, "diff_only", index), glob)
    yield from _named(source, (*steps, "files"), one.files, folder, "folder")


def _one_of(source: Source, steps: Steps, part: BaseModel, names: tuple[str, ...]) -> Iterator[Problem]:
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        yield source.problem(
            steps,
            f"exactly one of {', '.join(names)}",
            " and ".join(given) or "none",
            "add one of them" if not given else "keep one of them",
        )


def _inside(source: Source, steps: Steps, text: str) -> Iterator[Problem]:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text:
        yield source.problem(
            steps,
            "a path below the workspace",
            f"`{text}`",
            "write it from the workspace's top, without `..`",
        )


def _named(source: Source, steps: Steps, text: str | None, folder: Path, kind: str) -> Iterator[Problem]:
    """Whether a path leads to a file or a folder below the suite's own folder."""
    if text is None:
        return
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text:
        yield source.problem(
            steps,
            "a path below the suite's folder",
            f"`{text}`",
            "put it beside the suite's file, without `..`",
        )
        return
    target = folder / path
    if not target.resolve().is_relative_to(folder.resolve()):
        yield source.problem(
            steps,
            "a path below the suite's folder",
            f"`{text}`, a link out of it",
            "put the thing itself there",
        )
    elif not (target.is_dir() if kind == "folder" else target.is_file()):
        found = "nothing" if not target.exists() else "a folder" if target.is_dir() else "a file"
        yield source.problem(steps, f"a {kind} at {target}", found, "put it there, or mend the path")
