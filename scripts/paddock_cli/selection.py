"""Which stack a command means: the one named, the one brought up last, or the one that this machine can run."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from paddock_cli import console
from paddock_cli.errors import ComposeMissing, EngineMissing, NotRunning
from paddock_cli.settings import Paths, Settings, remember, write_private
from paddock_cli.stack import Stack

_NOTE = "stack"


def make(kind: str, where: Paths, settings: Settings) -> Stack:
    """The stack of a kind: `compose` or `embedded`."""
    if kind == "embedded":
        from paddock_cli.embedded import EmbeddedStack

        return EmbeddedStack(where, settings)
    from paddock_cli.compose import ComposeStack

    return ComposeStack(where, settings)


def to_start(where: Paths, settings: Settings, *, embedded: bool, fall_back: bool) -> Stack:
    """The stack to bring up.

    Args:
        embedded: the user asked for the embedded way.
        fall_back: take the embedded way where no engine answers, and say so, rather than refuse.

    Raises:
        EngineMissing, ComposeMissing: no engine, and no `fall_back`.
    """
    from paddock_cli.preflight import require_engine

    kind = "embedded" if embedded else "compose"
    if not embedded:
        try:
            require_engine()
        except (EngineMissing, ComposeMissing) as error:
            if not fall_back:
                raise
            console.warn(f"No Docker engine to use ({error.found}).")
            kind = "embedded"
    where.make()
    remember(where, settings)
    write_private(where.state / _NOTE, kind)
    return make(kind, where, settings)


@contextmanager
def changing(where: Paths) -> Iterator[None]:
    """While a stack is brought up or taken down no other call may do so."""
    where.make()
    with open(where.state / "changing.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say("another ./paddock is changing the stack; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def running(where: Paths, settings: Settings) -> Stack:
    """The stack that was brought up last; without such a note the Compose stack, which may run without `./paddock`.

    Raises:
        NotRunning: there is no note, and no engine where one could run.
    """
    from paddock_cli.preflight import require_engine

    kind = last(where)
    if kind is None:
        try:
            require_engine()
        except (EngineMissing, ComposeMissing) as error:
            raise NotRunning(
                "a running stack", f"none, and no Docker engine ({error.found})", "start it: ./paddock demo"
            ) from None
        kind = "compose"
    elif kind == "compose":
        require_engine()
    return make(kind, where, settings)


def last(where: Paths) -> str | None:
    """The kind of stack that was brought up last in this checkout."""
    try:
        kind = (where.state / _NOTE).read_text().strip()
    except OSError:
        return None
    return kind if kind in ("compose", "embedded") else None


def forget(where: Paths) -> None:
    """No stack was brought up last: the one that was is gone."""
    (where.state / _NOTE).unlink(missing_ok=True)


def password_is_new(where: Paths, password: str) -> bool:
    """Whether this administrator's password was never shown; from now on it counts as shown."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    note = where.state / "password-shown"
    if note.exists() and note.read_text() == digest:
        return False
    write_private(note, digest)
    return True
