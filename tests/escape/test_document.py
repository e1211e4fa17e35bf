"""docs/security.md has exactly what the suite tries, in the suite's words, and points only to what is there."""

import re

import document
import pytest

TEXT = document.DOCUMENT.read_text()


def test_the_table_has_every_probe_and_no_other() -> None:
    assert list(document.rows(TEXT)) == list(document.entries())


@pytest.mark.parametrize("name", document.entries())
def test_a_row_says_what_the_probe_does(name: str) -> None:
    entry, row = document.entries()[name], document.rows(TEXT)[name]
    assert row["attempt"] == entry.attempt
    assert row["wall"] == document.wall(entry)
    assert row["marks"] == ", ".join(entry.marks)
    assert row["seen"]
    if not entry.stands_open:
        assert row["without"] != "–", "its control was never seen"


def test_every_line_of_the_threat_model_names_a_probe_or_a_test() -> None:
    """The model's rows end in names in code font: of probes, or of tests' files."""
    inside = TEXT.partition("## Threat model")[2].partition("## What was tried")[0]
    lines = [
        line
        for line in inside.splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| what"))
    ]
    assert len(lines) > 10
    for line in lines:
        named = re.findall(r"`([^`]+)`", line.rstrip(" |").rpartition("|")[2])
        assert named, line
        for one in named:
            known = one in document.entries() or (document.ROOT / one).exists()
            assert known, f"{one} is neither a probe nor a test: {line}"
