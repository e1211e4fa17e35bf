"""What agents write is shown, not obeyed by the terminal."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from paddock_cli import console, render
from paddock_cli.runs import Started

# Colour, title, clipboard, a link, the same in one-byte form, a bell, a line that is overwritten, a text turned around.
HOSTILE = "a\x1b[31mb\x1b]0;t\x07c\x1b]52;c;aGk=\x07d\x9b31me\x1b]8;;http://x\x1b\\f\rg\u202eh"
OBEYED = ("\x1b", "\x9b", "\x07", "\r", "\u202e")


@pytest.fixture
def shown(monkeypatch):
    """A console like the program's own, on a terminal that understands everything."""
    stream = io.StringIO()
    own = Console(file=stream, force_terminal=True, color_system="truecolor", width=200, highlight=False)
    own.push_render_hook(console._OnlyPlain())
    monkeypatch.setattr(console, "out", own)
    monkeypatch.setattr(console, "err", own)
    return stream


def test_controls_are_left_out_and_the_words_stay():
    assert console.plain(HOSTILE) == "a[31mb]0;tc]52;c;aGk=d31me]8;;http://x\\fgh"
    assert console.plain("tab\tand\nlines stay, and so does é") == "tab\tand\nlines stay, and so does é"


def test_a_table_and_a_text_show_no_control(shown):
    table = Table(show_header=False)
    table.add_column("a")
    table.add_row(Text(HOSTILE))
    console.out.print(table)
    console.out.print(Text(HOSTILE))
    console.out.print(HOSTILE, markup=False)
    console.say(HOSTILE)

    assert not [sign for sign in OBEYED if sign in shown.getvalue()]
    assert shown.getvalue().count("aGk=") == 4


def test_the_programs_own_styles_stay(shown):
    console.say("careful", style="red")

    assert shown.getvalue() == "\x1b[31mcareful\x1b[0m\n"


def test_a_run_as_it_is_shown_has_no_control(shown):
    live = render.LiveRun(to_stderr=False)
    live.started(Started(run_id=HOSTILE, endpoint=HOSTILE, model=HOSTILE, tools=[HOSTILE]))
    live.event({"kind": HOSTILE, "source": "agent", "summary": HOSTILE})

    bare = shown.getvalue()
    for own in ("\x1b[1m", "\x1b[36m", "\x1b[0m"):
        bare = bare.replace(own, "")
    assert not [sign for sign in OBEYED if sign in bare]


def test_the_consoles_of_the_program_are_plain():
    for one in (console.out, console.err):
        assert any(isinstance(hook, console._OnlyPlain) for hook in one._render_hooks)
