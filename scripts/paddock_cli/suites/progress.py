"""How a suite run comes along: a bar, a line for each attempt that is on, and one for each that has ended."""

import threading
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from paddock_cli import console
from paddock_cli.suites.journal import Key
from paddock_cli.suites.results import Attempt


class Progress:
    """Shown while the block lasts, on standard error.

    Args:
        total: attempts in all.
        done: those that had ended before.
    """

    def __init__(self, total: int, done: int) -> None:
        self._bars = Bars(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console.err,
            transient=True,
            disable=not console.err.is_terminal,
        )
        self._all = self._bars.add_task("attempts", total=total, completed=done)
        self._lines: dict[Key, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, key: Key, doing: str) -> None:
        """What an attempt does now."""
        with self._lock:
            if key not in self._lines:
                self._lines[key] = self._bars.add_task("", total=None)
            self._bars.update(self._lines[key], description=console.plain(f"  {_name(key)}  {doing}")[:100])

    def ended(self, key: Key, attempt: Attempt) -> None:
        """An attempt has come to its end."""
        self._forget(key)
        self._bars.advance(self._all)
        verdict, style = ("passed", "green") if attempt.passed else ("failed", "red")
        why = ""
        if attempt.state == "error":
            verdict, style, why = "error", "yellow", f"  {attempt.error}"
        elif not attempt.passed:
            failed = [check.name for check in attempt.checks if not check.passed]
            why = f"  {attempt.outcome}" + (f"; failed: {', '.join(failed)}" if failed else "")
        cost = f"  ${attempt.cost_usd:.4f}" if attempt.cost_usd is not None else ""
        told = " ".join(f"{_name(key)}  {attempt.seconds:.0f} s{cost}{why}".split())
        console.err.print(Text.assemble((f"{verdict:<7}", style), told[:400]), soft_wrap=True)

    def left(self, key: Key, why: str) -> None:
        """An attempt is given up for now."""
        self._forget(key)
        console.warn(f"left    {_name(key)}  {why}")

    def _forget(self, key: Key) -> None:
        with self._lock:
            if key in self._lines:
                self._bars.remove_task(self._lines.pop(key))


def _name(key: Key) -> str:
    return f"{key[0]} · {key[1]} · {key[2]}"
