"""The examples in docs/ci: valid for the build server that they are for, and calling what the command line has."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from linting import ROOT, lint
from typer.main import get_command

from paddock_cli.app import app

EXAMPLES = ROOT / "docs" / "ci"
SCHEMAS = {"github.yml": "vendor.github-workflows", "gitlab.yml": "vendor.gitlab-ci"}


def texts(value: Any) -> Iterator[str]:
    """Every text of a document, at every depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)


def calls(file: Path) -> list[list[str]]:
    """The arguments of each call of `paddock` in an example."""
    found = []
    for text in texts(yaml.safe_load(file.read_text())):
        for line in text.replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*\S*/paddock (?P<arguments>.*)", line):
                found.append(shlex.split(match["arguments"].split("||")[0]))
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_build_servers_schema(name: str) -> None:
    told = lint("check-jsonschema", "--builtin-schema", SCHEMAS[name], EXAMPLES / name)
    assert told.returncode == 0, told.stdout


def test_every_example_has_a_schema() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_call_is_one_that_the_command_line_understands(name: str) -> None:
    found = calls(EXAMPLES / name)
    assert {tuple(call[:2]) for call in found} >= {("suite", "run"), ("suite", "gate"), ("suite", "report")}
    for call in found:
        command, arguments = get_command(app), list(call)
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        # Raises UsageError for an option that there is none of, or a value that it does not take.
        command.make_context(" ".join(call), arguments)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_gates_criteria_are_read(name: str) -> None:
    from paddock_cli.suites.gate import thresholds

    for call in calls(EXAMPLES / name):
        given = {side: [] for side in ("--min", "--max")}
        for option, value in pairwise(call):
            if option in given:
                given[option].append(value)
        thresholds(given["--min"], given["--max"])
