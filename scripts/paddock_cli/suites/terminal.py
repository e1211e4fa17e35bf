"""A report on a terminal."""

from rich import box
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from paddock_cli import console
from paddock_cli.suites.pages import Cell, Page, Section

_STYLES = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "": ""}


def show(page: Page) -> None:
    """Print it to standard output."""
    console.out.print(Text(page.title, style="bold"))
    facts = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    links = []
    for name, cell in page.facts:
        if cell.link:
            links.append((name, cell.link))
        else:
            facts.add_row(name, _text(cell))
    console.out.print(facts)
    for name, link in links:
        console.out.print(Text(f"{name}  {link}"), soft_wrap=True)
    for warning in page.warnings:
        console.out.print(Text(warning, style="yellow"), soft_wrap=True)
    for section in page.sections:
        console.out.print()
        console.out.print(Text(section.title, style="bold"))
        if section.listed:
            _list(section)
        else:
            console.out.print(_table(section))
        if section.left_out:
            console.out.print(Text(f"… {section.left_out} more, all in --json", style="dim"))
        if section.note:
            console.out.print(Text(section.note, style="dim"))


def _list(section: Section) -> None:
    for row in section.rows:
        line = Text("  ").join(_text(cell) for cell in row if not cell.link and cell.text != "–")
        console.out.print(line, soft_wrap=True)
        for cell in row:
            if cell.link:
                console.out.print(Text(f"    {cell.link}"), soft_wrap=True)


def _table(section: Section) -> Table:
    """Without what can be spared, as far as the terminal has no room for it."""
    left_out: set[int] = set()
    by_need = sorted(
        (index for index, column in enumerate(section.columns) if column.spare),
        key=lambda index: -section.columns[index].spare,
    )
    table = _with_columns(section, left_out)
    for index in by_need:
        if section.columns[index].spare < 9 and _width(table) <= console.out.width:
            break
        left_out.add(index)
        table = _with_columns(section, left_out)
    return table


def _with_columns(section: Section, left_out: set[int]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    kept = [index for index in range(len(section.columns)) if index not in left_out]
    for index in kept:
        column = section.columns[index]
        table.add_column(
            column.head,
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="fold",
        )
    for row in section.rows:
        table.add_row(*(_text(row[index]) for index in kept))
    return table


def _width(table: Table) -> int:
    lines = console.out.render_lines(table, console.out.options.update(max_width=10_000), pad=False)
    return max(map(Segment.get_line_length, lines))


def _text(cell: Cell) -> Text:
    return Text(cell.text, style=_STYLES[cell.tone])
