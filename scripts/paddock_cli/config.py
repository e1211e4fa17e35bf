"""`./paddock config`: the gateway's declared configuration, compared with the running stack and applied to it.

What a configuration means, and how it is compared and written, is the plugin's package `paddock_mlflow.config`, which the
stack's own set-up runs too; it needs no MLflow, and is read from the checkout.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from paddock_cli import console, selection
from paddock_cli.errors import (
    BadConfiguration,
    CliError,
    Declined,
    NotApplied,
    NotFound,
    ServerFailed,
    UsageFailed,
)
from paddock_cli.settings import Paths, Settings, load, paths, read_env_file, remember

sys.path.append(str(Path(__file__).resolve().parents[2] / "mlflow"))

from paddock_mlflow.config import apply, desired, export, plan, validation
from paddock_mlflow.config import state as states
from paddock_mlflow.config.errors import Conflict, Incomplete, InvalidConfiguration, Refused

if TYPE_CHECKING:
    from paddock_cli.mlflow_api import Mlflow
    from paddock_cli.stack import Stack

AGREED = "The stack is as the file says."
_SIGNS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_STAND_IN = {"DEMO_MODEL_URL": "http://demo-model:8000/v1", "DEMO_API_KEY": "made by the stack"}
"""What only a running stack knows, for a look at a file alone."""


@dataclass(frozen=True)
class Session:
    """A valid file, what it means with the present settings, and the stack that it is for."""

    where: Paths
    settings: Settings
    stack: "Stack"
    file: Path
    checked: validation.Checked
    variables: Mapping[str, str]
    wanted: desired.Desired
    api: "Api"


class Api:
    """The server as `paddock_mlflow.config` wants it, over the command line's own client."""

    def __init__(self, server: "Mlflow") -> None:
        self._server = server

    def call(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request. Raises Refused."""
        arguments = {"json": json} if json is not None else {}
        try:
            return self._server.call(method, path, params=params, **arguments)
        except NotFound as error:
            raise Refused(method, path, 404, error.found) from None
        except ServerFailed as error:
            raise Refused(method, path, 0, error.found) from None


def validate(file: Path | None) -> tuple[Path, validation.Checked]:
    """Look at a file alone; no stack needs to run.

    Raises:
        BadConfiguration: it has mistakes; they have been shown.
    """
    where = paths()
    settings = load(where, beside=file)
    path = file or settings.gateway_config
    return path, _checked(path, _STAND_IN | _variables(settings))


def session(file: Path | None) -> Session:
    """Read the file and connect to the running stack.

    Raises:
        BadConfiguration, NotRunning.
    """
    from paddock_cli.mlflow_api import Mlflow

    where = paths()
    settings = load(where, beside=file)
    path = file or settings.gateway_config
    # Before the stack is asked: a slip in the file should not first need a stack.
    _checked(path, _STAND_IN | _variables(settings))
    stack = selection.running(where, settings)
    variables = stack.demo_variables() | _variables(settings)
    checked = _checked(path, variables)
    return Session(
        where,
        settings,
        stack,
        path,
        checked,
        variables,
        desired.resolve(checked.configuration, variables),
        Api(Mlflow(stack.connection())),
    )


def compare(current: Session) -> tuple[states.State, plan.Plan]:
    """What the server has, and what would change. Raises ServerFailed."""
    try:
        return apply.compare(current.api, current.wanted)
    except Refused as error:
        raise refused(error) from None


def apply_changes(
    current: Session, *, prune: bool, yes: bool, quiet: bool = False
) -> tuple[plan.Plan, list[plan.Change]]:
    """Make the changes of a plan, after a question where something is deleted.

    Raises:
        NotApplied: the file can't be applied, or a change was refused in the middle.
        Declined: the question was answered with no.
    """
    with selection.changing(current.where):
        before, planned = compare(current)
        require_possible(planned)
        deletions = planned.unmanaged if prune else ()
        if not quiet:
            show_changes([*planned.changes, *deletions])
        if deletions and not yes:
            confirm(f"Delete {counted(len(deletions), 'thing')} that the file does not name?")
        try:
            done = apply.apply(current.api, before, planned, prune=prune)
        except Incomplete as error:
            raise cut_off(error, "./paddock config apply") from None
    # What came from the shell is there for the next start, too.
    remember(current.where, current.settings)
    return planned, done


def exported(file: Path | None) -> tuple[str, list[str]]:
    """What the running stack has, as a file's text, and what of it a file can't say.

    Raises:
        NotRunning, ServerFailed.
    """
    from paddock_cli.mlflow_api import Mlflow

    where = paths()
    settings = load(where)
    stack = selection.running(where, settings)
    variables = stack.demo_variables() | _variables(settings)
    try:
        known = validation.load(file or settings.gateway_config, variables).configuration
    except InvalidConfiguration:
        # It only lends the names of variables.
        known = None
    try:
        state = states.read(Api(Mlflow(stack.connection())))
    except Refused as error:
        raise refused(error) from None
    return export.export(state, known, variables), list(export.unexportable(state))


def rotate_secret(name: str) -> list[plan.Change]:
    """Give the gateway a new value of a secret: that of the shell or .env, or one that is typed in.

    Raises:
        UsageFailed: the file names no such secret, or there is no new value.
        NotApplied: the server refused it.
    """
    current = session(None)
    users = _users_of(current, name)
    if not users:
        known = sorted(
            {one for secret in current.wanted.secrets.values() for one in secret.variables}
            | {hook.variable for hook in current.wanted.webhooks.values() if hook.variable}
        )
        raise UsageFailed(
            f"the name of a secret in {current.file} whose value is set ({', '.join(known) or 'there is none'})",
            name,
            "set it in .env, or name it in the file, and ./paddock config apply",
        )
    changes, before, planned = _changes_of(current, name)
    if not changes:
        value = _typed(name)
        current = _with(current, name, value)
        changes, before, planned = _changes_of(current, name)
        if not changes:
            raise UsageFailed(
                f"a new value of {name}", "the one that the gateway has", "make a new key first"
            )
    require_possible(planned)
    only = plan.Plan(tuple(changes), (), (), ())
    try:
        done = apply.apply(current.api, before, only)
    except Incomplete as error:
        raise NotApplied(
            f"the gateway to take the new {name}", error.cause, "mend what it names and try again"
        ) from None
    remaining, _, _ = _changes_of(current, name)
    if remaining:
        raise NotApplied(
            f"the gateway to have the new {name}", "the old one", "look at its log: ./paddock logs mlflow"
        )
    written = read_env_file(current.where.env_file)
    remember(current.where, current.settings)
    if name in written and written[name] != current.variables[name]:
        console.warn(
            f"{current.where.env_file} still has the old {name}: write the new one, or the next `up` puts it back"
        )
    return done


def rotate_key(*, yes: bool) -> None:
    """Encrypt the gateway's secrets with a new passphrase.

    Raises:
        Declined, NotRunning, StartFailed.
    """
    where = paths()
    stack = selection.running(where, load(where))
    if not yes:
        confirm("MLflow restarts; calls in these seconds fail and agents try again. Go on?")
    with selection.changing(where):
        stack.rotate_passphrase()


def show_plan(notes: list[str], planned: plan.Plan, agreed: str) -> None:
    """The difference, for people; `notes` are the file's, `agreed` says that there is none."""
    for note in [*notes, *planned.notes]:
        console.out.print(Text(note, style="dim"), soft_wrap=True)
    show_changes(planned.changes)
    if planned.unmanaged:
        console.out.print(
            "Not in the file; `apply` leaves it alone, `apply --prune` deletes it, `export` writes it down:",
            style="bold",
            soft_wrap=True,
        )
        show_changes(planned.unmanaged)
    for conflict in planned.conflicts:
        console.out.print(Text(f"can't be applied: {conflict}", style="red"), soft_wrap=True)
    changed, beyond = counted(len(planned.changes), "change"), len(planned.unmanaged)
    if planned.clean:
        console.out.print(agreed, style="green")
    else:
        console.out.print(f"{changed} to apply, {beyond} not in the file.")


def show_changes(changes: "list[plan.Change] | tuple[plan.Change, ...]") -> None:
    """One block a change: what it is, and each field's old and new."""
    for change in changes:
        sign, colour = _SIGNS[change.verb]
        console.out.print(Text(f"{sign} {change.kind} {change.name}", style=colour), soft_wrap=True)
        for one in change.differences:
            values = {
                "create": one.new,
                "update": f"{one.old or '(none)'} → {one.new or '(none)'}",
                "delete": one.old,
            }[change.verb]
            console.out.print(Text(f"    {one.field}: {values}"), soft_wrap=True)


def _variables(settings: Settings) -> dict[str, str]:
    return settings.keys | settings.provider


def _checked(path: Path, variables: Mapping[str, str]) -> validation.Checked:
    try:
        return validation.load(path, variables)
    except InvalidConfiguration as error:
        raise bad(error) from None


def cut_off(error: Incomplete, command: str) -> NotApplied:
    """What to say of an apply that was refused in the middle."""
    return NotApplied(
        f"all {len(error.done) + 1 + len(error.left)} changes to be made",
        "\n".join(
            [
                *(f"  done      {one}" for one in error.done),
                f"  refused   {error.failed}: {error.cause}",
                *(f"  not tried {one}" for one in error.left),
            ]
        ).strip(),
        f"mend what it names, then {command} again: what is done stays done",
    )


def bad(error: InvalidConfiguration) -> BadConfiguration:
    """The command line's own form of a file's mistakes."""
    return BadConfiguration(error.file, [problem.as_json() for problem in error.problems], str(error))


def require_possible(planned: plan.Plan) -> None:
    """Raises:
    NotApplied: the plan holds something that no apply can mend.
    """
    try:
        apply.require_possible(planned)
    except Conflict as error:
        raise NotApplied(
            "a file that fits the stack", f"\n{error}\n", "mend it; nothing was changed"
        ) from None


def _users_of(current: Session, name: str) -> set[tuple[str, str]]:
    """Providers and webhooks that use a secret."""
    found = {
        ("provider", secret.provider)
        for secret in current.wanted.secrets.values()
        if name in secret.variables
    }
    return found | {
        ("webhook", hook.name) for hook in current.wanted.webhooks.values() if hook.variable == name
    }


def _changes_of(current: Session, name: str) -> tuple[list[plan.Change], states.State, plan.Plan]:
    """The part of a plan that brings one secret to its value."""
    before, planned = compare(current)
    users = _users_of(current, name)
    absent = [
        change
        for change in planned.changes
        if (change.kind, change.name) in users and change.verb == "create"
    ]
    if absent:
        raise UsageFailed(
            f"a secret {name} in the gateway",
            f"that {absent[0].kind} {absent[0].name} is not there yet",
            "bring it there first: ./paddock config apply",
        )
    changes = [
        change
        for change in planned.changes
        if (change.kind, change.name) in users
        and any(one.field.startswith("secret") for one in change.differences)
    ]
    return changes, before, planned


def _with(current: Session, name: str, value: str) -> Session:
    variables = {**current.variables, name: value}
    settings = replace(current.settings, keys={**current.settings.keys, name: value})
    if name not in read_env_file(current.where.env_file):
        settings = replace(settings, remembered={**settings.remembered, name: value})
    wanted = desired.resolve(current.checked.configuration, variables)
    return replace(current, variables=variables, settings=settings, wanted=wanted)


def _typed(name: str) -> str:
    """A value that is typed in, and not shown."""
    if not sys.stdin.isatty():
        raise UsageFailed(
            f"a new value of {name} in the shell or in .env",
            "the one that the gateway has already, and no terminal to ask at",
            f"write the new one into .env, or {name}=… ./paddock config rotate-secret {name}",
        )
    import typer

    value = str(typer.prompt(f"New value of {name}", hide_input=True, err=True)).strip()
    if not value or any(character.isspace() for character in value):
        raise UsageFailed(f"a value of {name} that is one word", "none, or blanks in it", "copy it anew")
    return value


def confirm(question: str) -> None:
    """Raises:
    Declined: the question was answered with no, or nobody was there.
    """
    import typer

    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise Declined("a confirmation", "none", "nothing was changed; add --yes to go without a question")


def counted(number: int, what: str) -> str:
    """`1 change`, `2 changes`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def refused(error: Refused) -> CliError:
    """A request that the stack refused, for people."""
    remedy = "look at its log: ./paddock logs mlflow"
    return ServerFailed("the stack to tell its configuration", str(error), remedy)
