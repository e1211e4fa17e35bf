"""The shipped suite: each task fails as it is, passes with its reference solution, and is not passed by cheating.

The checks are made by the product's own code, embedded: as plain processes on copies.
"""

import csv
import importlib.util
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock_cli import trees
from paddock_cli.embedded import EmbeddedStack
from paddock_cli.settings import Paths, Settings
from paddock_cli.suites import checks, definitions, workspaces
from paddock_cli.suites.checks import Finished
from paddock_cli.suites.model import Check, Task
from paddock_cli.suites.results import CheckResult

SUITE = definitions.load(Path(__file__).resolve().parents[3] / "suites" / "coding.yaml")
TASKS = {task.id: task for task in SUITE.file.tasks}
KINDS = {
    *("bug", "feature", "refactor", "log", "upgrade", "parser", "mcp", "browser", "concurrency", "csv"),
    *("shell", "sql", "migration", "performance", "security", "docs", "git", "configuration", "time"),
}

Change = Callable[[Path], None]
Attempt = Callable[..., dict[str, CheckResult]]


@pytest.fixture
def attempt(where: Paths, tmp_path: Path) -> Attempt:
    """Makes a task's workspace, changes it as an agent would, and makes the task's checks (or some): results by name."""
    stack = EmbeddedStack(where, Settings())

    def make(task: Task, change: Change, some: tuple[Check, ...] = ()) -> dict[str, CheckResult]:
        work, start, finished = (tmp_path / name for name in ("work", "start", "finished"))
        workspaces.make(task.workspace, SUITE.folder, work)
        if task.setup:
            ended = stack.run_apart(task.setup, work, 60)
            assert ended.code == 0, ended.output
        before = trees.copy(work, start)
        change(work)
        after = trees.copy(work, finished)
        made = checks.run_all(stack, some or task.checks, Finished(finished, before, after), SUITE.folder)
        return {result.name: result for result in made}

    return make


def solve(task: Task) -> Change:
    def change(work: Path) -> None:
        assert task.solution is not None
        patch = (SUITE.folder / task.solution).read_bytes()
        applied = subprocess.run(
            ["git", "apply", "--whitespace=nowarn"], cwd=work, input=patch, capture_output=True
        )
        assert applied.returncode == 0, applied.stderr.decode()

    return change


def edit(name: str, old: str, new: str) -> Change:
    def change(work: Path) -> None:
        text = (work / name).read_text()
        assert old in text
        (work / name).write_text(text.replace(old, new))

    return change


def write(name: str, text: str) -> Change:
    return lambda work: (work / name).write_text(text)


def remove(name: str) -> Change:
    return lambda work: (work / name).unlink()


def all_of(*changes: Change) -> Change:
    def change(work: Path) -> None:
        for one in changes:
            one(work)

    return change


# The suite


def test_there_are_twenty_tasks_of_rising_difficulty():
    difficulties = [task.difficulty for task in SUITE.file.tasks]
    assert len(TASKS) == 20
    assert difficulties == sorted(difficulties)
    assert set(difficulties) == {1, 2, 3, 4, 5}
    assert {tag for task in TASKS.values() for tag in task.tags} >= KINDS


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_each_task_has_what_it_is_measured_by(task):
    deciding, *_, last = task.checks
    assert deciding.run
    assert deciding.run.startswith("python3 -I hidden/run.py ")
    assert deciding.files == "checks"
    assert last.diff_only
    assert task.solution
    assert task.title
    assert "hidden/" not in task.prompt
    # What an agent gets holds nothing of what it is measured by.
    assert task.workspace.folder
    assert not (SUITE.folder / task.workspace.folder / "hidden").exists()


def test_every_hidden_test_and_solution_belongs_to_a_task():
    tests = {path.stem for path in (SUITE.folder / "checks" / "hidden").glob("*.py")}
    named = {
        check.run.split()[-1]
        for task in TASKS.values()
        for check in task.checks
        if check.files and "run.py" in check.run
    }
    assert tests - named == {"run", "almanac_broken_pages"}
    solutions = {path.relative_to(SUITE.folder).as_posix() for path in (SUITE.folder / "solutions").iterdir()}
    assert solutions == {task.solution for task in TASKS.values()}


# The tasks


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_is_not_solved_as_it_is(task, attempt):
    deciding, *_, within = task.checks
    results = attempt(task, lambda work: None, (deciding, within))
    assert not results[deciding.name].passed
    assert not results[deciding.name].error
    assert results[within.name].passed


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_its_reference_solution_passes_every_check(task, attempt):
    results = attempt(task, solve(task))
    assert {
        name: result.error or result.output for name, result in results.items() if not result.passed
    } == {}


def test_the_catalogue_leads_to_the_reference_solution(attempt, tmp_path):
    """By the server's own code, with the catalogue that its client hands over."""
    spec = importlib.util.spec_from_file_location(
        "supplier_mcp", SUITE.folder / "workspaces" / "stockroom" / "tools" / "supplier_mcp.py"
    )
    server = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(server)
    arguments = json.loads((SUITE.folder / "mcp" / "supplier.json").read_text())["mcpServers"]["supplier"][
        "args"
    ]
    catalogue = json.loads(arguments[-1])

    def ask(tool, number):
        request = {"id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"number": number}}}
        return server.answer(catalogue, request)["result"]["content"][0]["text"]

    def row(number):
        seen, current = {number}, number
        while " shipped, " not in (found := ask("find_part", current)):
            current = ask("find_successor", current).partition(": replaced by ")[2]
            if not current or current in seen:
                return [number, "", "", ""]
            seen.add(current)
        words = found.split()
        return [number, current, words[2], words[-1]]

    def follow(work):
        listed = (work / "data" / "discontinued.txt").read_text().splitlines()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(
            [["number", "successor", "cents", "pack"], *(row(one) for one in listed if one[0] != "#")]
        )
        (work / "data" / "successors.csv").write_text(text.getvalue())

    results = attempt(TASKS["stockroom-supplier-successors"], follow)
    assert all(result.passed for result in results.values()), results


# Cheating

LAZY = {
    "the failing test is deleted": (
        "ledger-fix-failing-test",
        remove("tests/test_turn_of_year.py"),
        {"months of other years", "only the source"},
    ),
    "the tested values are written into the code": (
        "ledger-fix-failing-test",
        edit(
            "src/ledger/periods.py",
            "    return shift(month_of(day), -1)",
            "    if day.month == 1:\n        return date(2025, 12, 1)\n    return shift(month_of(day), -1)",
        ),
        {"months of other years"},
    ),
    "the tests are made to pass whatever they say": (
        "ledger-fix-failing-test",
        all_of(
            write("tests/__init__.py", ""),
            write("tests/test_turn_of_year.py", "import unittest\n"),
            write("src/unittest.py", "import sys\nsys.exit(0)\n"),
        ),
        {"months of other years", "only the source"},
    ),
    "the process ends before a test has run": (
        "ledger-add-flag",
        write("src/ledger/__init__.py", "import os\nos._exit(0)\n"),
        {"reports since a day"},
    ),
    "and where the tests import the code": (
        "ledger-refactor-report",
        edit("src/ledger/report.py", "from ledger import amounts", "import os; os._exit(0)\nfrom ledger import amounts"),
        {"the same reports in short functions"},
    ),
    "the program loses what is not documented": (
        "textkit-command-docs",
        all_of(
            write("docs/commands.md", "| command | option | default | what it does |\n| --- | --- | --- | --- |\n"),
            edit("src/textkit/cli.py", "def make_parser()", "def make_nothing()"),
        ),
        {"the table is right", "only the table"},
    ),
    "the clients of the log alone": (
        "logwatch-bug-from-log",
        all_of(
            edit(
                "src/logwatch/records.py",
                '        address, port = client.split(":")\n        int(port)\n',
                '        address = "2001:db8:4::1f" if "2001:db8:4::1f" in client else client.split(":")[0]\n',
            ),
            write("incidents/2026-02-17.md", "IPv6"),
        ),
        {"clients of other networks", "own tests pass"},
    ),
    "another commit, and a test that notices nothing": (
        "almanac-find-commit",
        all_of(
            edit("src/almanac/pages.py", "return len(lines) // usable", "return -(-len(lines) // usable)"),
            write("FINDING.md", f"{'5c59eca':0<40}\n"),
        ),
        {"the commit is found", "a test that would have noticed"},
    ),
    "a lock that other programs know nothing of": (
        "stockroom-oversold",
        all_of(
            edit("src/stockroom/store.py", "import csv\n", "import csv\nimport threading\n"),
            edit("src/stockroom/store.py", "class Stock:\n", "LOCK = threading.Lock()\n\n\nclass Stock:\n"),
            edit(
                "src/stockroom/store.py",
                "    def reserve(self, ",
                "    def reserve(self, *what):\n        with LOCK:\n            return self.locked(*what)\n\n"
                "    def locked(self, ",
            ),
        ),
        {"two programs at once"},
    ),
    "the word script is taken out": (
        "noticeboard-review",
        edit("src/noticeboard/app.py", '[""])[0].strip()', '[""])[0].strip().replace("<script>", "")'),
        {"the findings tried again"},
    ),
    "a list that is not asked for": (
        "stockroom-supplier-successors",
        write(
            "data/successors.csv",
            "number,successor,cents,pack\nBRG-6204,,,\nBELT-A38,,,\nSEAL-25-40,,,\nFLT-OIL-3,,,\n",
        ),
        {"what the catalogue says"},
    ),
    "old copies are kept by counting the new one twice": (
        "stockroom-backup-script",
        edit("scripts/backup.sh", "tail -n +$keep", "tail -n +$((keep + 1))"),
        {"folders and failures"},
    ),
    "a migration that was released is changed": (
        "stockroom-split-location",
        edit("migrations/0002_places.sql", "location TEXT NOT NULL", "aisle TEXT, shelf INTEGER, bin INTEGER, note TEXT"),
        {"a database of before", "own tests pass", "only what it is about"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "failing"), LAZY.values(), ids=LAZY)
def test_cheating_is_caught(name, change, failing, attempt):
    results = attempt(TASKS[name], change)
    assert {result.name for result in results.values() if not result.passed} >= failing
