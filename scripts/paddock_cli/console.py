"""Where output goes: results to standard output, progress to standard error.

With --json, standard output carries exactly one JSON document.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    """A line of progress, shown as it is (no markup)."""
    err.print(Text(text, style=style), soft_wrap=True)


def warn(text: str) -> None:
    """A line that the user should not miss."""
    err.print(Text(text, style="yellow"), soft_wrap=True)


@contextmanager
def step(text: str) -> Iterator["Step"]:
    """A piece of work with its time: a spinner on a terminal, two lines elsewhere."""
    began = time.monotonic()
    current = Step(text)
    if err.is_terminal:
        with err.status(Text(text + " ...")) as status:
            current.show = lambda detail: status.update(Text(f"{text} ... {detail}"))
            yield current
    else:
        say(f"{text} ...")
        yield current
    took = time.monotonic() - began
    say(f"✓ {text}{f': {current.result}' if current.result else ''} ({took:.0f} s)", style="green")


class Step:
    """What a piece of work can tell while it goes on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.result = ""
        self.show = self._quiet

    @staticmethod
    def _quiet(detail: str) -> None:
        """Nowhere to show a passing detail without filling a log."""


def document(value: Any) -> None:
    """The one JSON document of a call with --json."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
    sys.stdout.flush()
