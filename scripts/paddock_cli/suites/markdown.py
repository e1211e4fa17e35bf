"""A report as Markdown (GitHub's and GitLab's), small enough for $GITHUB_STEP_SUMMARY."""

import re

from paddock_cli.suites.pages import Cell, Page, Section

MOST_BYTES = 1_000_000
"""GitHub takes a summary of 1 MiB."""

# What begins something in Markdown, HTML or what a forge makes of text: mentions, issues, formulas, addresses, emoji.
_SPECIAL = re.compile(r"[&<>`*_\[\]~|\\@#!$]|:(?=\S)|\.(?<=www\.)")
_MARKS = {"good": "✅ ", "bad": "❌ ", "warn": "⚠️ ", "dim": "", "": ""}


def render(page: Page) -> str:
    """The document. Sections that would pass the limit of a summary are left out, and it says so."""
    parts = [f"# {escape(page.title)}\n"]
    parts += [f"> ⚠️ {escape(warning)}\n" for warning in page.warnings]
    parts.append(
        "\n".join(["| | |", "| --- | --- |", *(f"| {escape(n)} | {cell(c)} |" for n, c in page.facts)])
    )
    size = sum(len(part.encode()) for part in parts)
    for one in page.sections:
        text = section(one)
        size += len(text.encode()) + 2
        if size > MOST_BYTES:
            parts.append(
                f"*{escape(one.title)}: too long for a summary; it is in the report as HTML or JSON.*"
            )
            break
        parts.append(text)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(one: Section) -> str:
    """A heading, a table and its notes."""
    lines = [
        f"## {escape(one.title)}",
        "",
        f"| {' | '.join(escape(column.head) or ' ' for column in one.columns)} |",
        f"| {' | '.join('---:' if column.number else '---' for column in one.columns)} |",
        *(f"| {' | '.join(map(cell, row))} |" for row in one.rows),
    ]
    if one.left_out:
        lines += ["", f"… {one.left_out} more in the report as HTML or JSON."]
    if one.note:
        lines += ["", f"<sub>{escape(one.note)}</sub>"]
    return "\n".join(lines)


def cell(one: Cell) -> str:
    """What stands in a table."""
    text = escape(one.text)
    # Forges make mentions and references of plain text even where its characters are escaped; of code they do not.
    text = f"<code>{text}</code>" if one.quoted and text else text
    if one.link:
        # It was looked at: nothing in it ends an address in angle brackets, or a cell.
        text = f"[{text}](<{one.link}>)"
    return _MARKS[one.tone] + text if text else " "


def escape(text: str) -> str:
    """A text that means itself."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))
