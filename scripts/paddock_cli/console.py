"""Where output goes: results to standard output, progress to standard error.

With --json, standard output carries exactly one JSON document. Everything else passes `plain`: much of what is shown was
written by an agent, or by whoever wrote what the agent has read.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from paddock_cli.errors import BadSettings

# C0 but tab and line feed, DEL, C1; what turns the direction of writing around or is not seen, so that a line reads as
# another one; halves of surrogate pairs, which can't be printed. The runner's output.py has the same.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def plain(text: str) -> str:
    """A text without what a terminal would obey rather than show: no colours, titles, clipboard, links, cursor."""
    return _CONTROL.sub("", text)


class _Plain:
    """A renderable whose texts are plain; the styles that the program itself gives them stay."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._inner)


class _OnlyPlain(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Plain(one) for one in renderables]


# Without markup and emoji: `[link=…]` and `:key:` are what somebody has written.
out = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)
for _console in (out, err):
    _console.push_render_hook(_OnlyPlain())


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


def write(target: Path, text: str) -> None:
    """A result as a file. Raises BadSettings where it can't be written."""
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadSettings(
            f"a file at {target} to write",
            error.strerror or str(error),
            "name a folder that is there and yours",
        ) from None


def document(value: Any) -> None:
    """The one JSON document of a call with --json."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
    sys.stdout.flush()
