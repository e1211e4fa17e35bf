"""`./paddock judges validate|plan|apply|export|show`: the declared judges, compared with the running stack and applied.

As `paddock_cli.config`: what a file means is the plugin's package `paddock_mlflow.judges`, whose parts for this need no
MLflow.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock_cli import config, selection
from paddock_cli.errors import NotApplied, NotFound
from paddock_cli.settings import Paths, Settings, load, paths
from paddock_mlflow.config import plan
from paddock_mlflow.config.errors import Incomplete, InvalidConfiguration, Refused
from paddock_mlflow.config.source import read
from paddock_mlflow.judges import apply, export, validation
from paddock_mlflow.judges.plan import State

AGREED = "The judges are as the file says."
LOAD_SECONDS = 40.0
"""The judging process looks every two seconds, and gives an import thirty."""


@dataclass(frozen=True)
class Session:
    """A valid file, and the stack that it is for."""

    where: Paths
    file: Path
    checked: validation.Checked
    api: config.Api
    experiment_id: str


def validate(file: Path | None) -> tuple[Path, validation.Checked]:
    """Look at a file alone; no stack needs to run.

    Raises:
        BadConfiguration: it has mistakes.
    """
    settings = load(paths())
    path = file or settings.judges_config
    return path, _checked(path, settings, _declared_endpoints(settings))


def session(file: Path | None) -> Session:
    """Read the file and connect to the running stack.

    Raises:
        BadConfiguration, NotRunning.
    """
    from paddock_cli.mlflow_api import Mlflow

    where = paths()
    settings = load(where)
    path = file or settings.judges_config
    # Before the stack is asked: a slip in the file should not first need one. Which endpoints there are, it knows best.
    _checked(path, settings, None)
    server = Mlflow(selection.running(where, settings).connection())
    api = config.Api(server)
    try:
        endpoints = apply.read(api, server.experiment_id(), set()).endpoints
    except Refused as error:
        raise config.refused(error) from None
    checked = _checked(path, settings, endpoints)
    return Session(where, path, checked, api, server.experiment_id())


def compare(current: Session) -> tuple[State, plan.Plan]:
    """What the server has, and what would change.

    Raises:
        BadConfiguration: MLflow would refuse something of the file.
        ServerFailed: it did not answer.
    """
    checked = current.checked
    try:
        return apply.compare(current.api, current.experiment_id, checked.source, checked.definitions)
    except InvalidConfiguration as error:
        raise config.bad(error) from None
    except Refused as error:
        raise config.refused(error) from None


def apply_changes(
    current: Session, *, prune: bool, yes: bool, quiet: bool = False
) -> tuple[plan.Plan, list[plan.Change]]:
    """Make the changes of a plan, after a question where something is deleted; then wait until code scorers are loaded.

    Raises:
        NotApplied: the file can't be applied, a change was refused in the middle, or code does not load.
        Declined: the question was answered with no.
    """
    wanted = current.checked.definitions
    with selection.changing(current.where):
        before, planned = compare(current)
        config.require_possible(planned)
        deletions = planned.unmanaged if prune else ()
        if not quiet:
            config.show_changes([*planned.changes, *deletions])
        if deletions and not yes:
            config.confirm(f"Delete {config.counted(len(deletions), 'judge')} that the file does not name?")
        try:
            done = apply.apply(current.api, before, planned, wanted, prune=prune)
        except Incomplete as error:
            raise config.cut_off(error, "./paddock judges apply") from None
    try:
        problems = apply.code_problems(
            current.api, current.experiment_id, current.checked.source, wanted, LOAD_SECONDS
        )
    except Refused as error:
        raise config.refused(error) from None
    if problems:
        raise NotApplied(
            "code scorers that load",
            "\n" + "\n".join(problem.text(current.checked.source.file) for problem in problems),
            "\nall else is applied; when it is mended: ./paddock judges apply",
        )
    return planned, done


def exported() -> tuple[str, list[str]]:
    """What the running stack has, as a file's text, and what of it a file can't say.

    Raises:
        NotRunning, ServerFailed.
    """
    state = _state()[0]
    return export.export(state), list(export.unexportable(state))


def shown(name: str, fingerprint: str | None) -> list[dict[str, Any]]:
    """All that decided a judge's verdicts, newest first.

    Raises:
        NotFound: there is no such judge, or nothing of that fingerprint.
    """
    state, api = _state()
    query = {"experiment_id": state.experiment_id, "name": name}
    if fingerprint is not None:
        query["fingerprint"] = fingerprint
    try:
        versions: list[dict[str, Any]] = api.call("GET", f"{apply.JUDGES}/versions", params=query)["versions"]
    except Refused as error:
        raise config.refused(error) from None
    if not versions:
        known = ", ".join(sorted(state.judges)) or "none"
        what = f"the judge {name}" + (f" with the fingerprint {fingerprint}" if fingerprint else "")
        raise NotFound(what, f"none (there are: {known})", "look at the metadata of its assessment")
    return versions


def _state() -> tuple[State, config.Api]:
    from paddock_cli.mlflow_api import Mlflow

    where = paths()
    server = Mlflow(selection.running(where, load(where)).connection())
    api = config.Api(server)
    try:
        return apply.read(api, server.experiment_id(), set()), api
    except Refused as error:
        raise config.refused(error) from None


def _checked(path: Path, settings: Settings, endpoints: Collection[str] | None) -> validation.Checked:
    try:
        return validation.load(path, settings.judges_code, endpoints)
    except InvalidConfiguration as error:
        raise config.bad(error) from None


def _declared_endpoints(settings: Settings) -> Collection[str] | None:
    """The endpoints that the gateway's file names; None where it can't be read, which `config validate` tells."""
    try:
        declared = read(settings.gateway_config).data.get("endpoints")
    except InvalidConfiguration:
        return None
    return declared if isinstance(declared, dict) else None
