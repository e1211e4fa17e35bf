"""Suite files: every mistake at once with its line, the published schema, and what a suite's fingerprint covers."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from paddock_cli import __main__ as entry
from paddock_cli.errors import BadConfiguration, NotFound, UsageFailed
from paddock_cli.suites import definitions, schema, validation
from paddock_cli.suites.model import Limits

SHIPPED = Path(__file__).resolve().parents[3] / "suites"

VALID = """\
version: 1
name: small
description: For tests.
defaults:
  limits: {max_iterations: 20, budget_usd: 0.50}
tasks:
  - id: fix
    title: Fix it
    prompt: Fix the failing test.
    workspace: {folder: workspaces/ledger}
    setup: "true"
    checks:
      - {name: tests pass, run: python3 -m unittest -q, files: checks/fix, timeout: 30}
      - {name: only the source, diff_only: ["src/**"]}
      - {name: says why, file: NOTES.md, matches: "(?i)because"}
      - {name: no leftovers, file: tmp.txt, absent: true}
    expect: [It is fixed.]
    limits: {timeout: 60}
    tags: [python, bug]
    difficulty: 2
    solution: solutions/fix.patch
  - id: fetch
    prompt: Look.
    workspace: {git: "https://git.example/x.git", commit: 0123456789abcdef0123456789abcdef01234567}
    mcp: mcp/server.json
    tags: [mcp]
"""


@pytest.fixture
def folder(tmp_path):
    """Everything that the valid suite names."""
    made = tmp_path / "own suites"
    for name in (
        "workspaces/ledger/src/a.py",
        "checks/fix/test_a.py",
        "solutions/fix.patch",
        "mcp/server.json",
    ):
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}\n")
    (made / "small.yaml").write_text(VALID)
    return made


@pytest.fixture
def problems(folder):
    """What is wrong with a text, as lines; empty where nothing is."""

    def look(text):
        try:
            validation.check(text, "s.yaml", folder)
        except BadConfiguration as error:
            return error.found.partition(":\n")[2].splitlines()
        return []

    return look


def changed(old, new):
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


def test_the_valid_suite_is_valid(problems):
    assert problems(VALID) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param(
            "id: fetch",
            "id: fix",
            "s.yaml:22:5: tasks[1].id: expected each id once, found `fix` a second time, after line 7; rename",
            id="duplicate id",
        ),
        pytest.param(
            "prompt: Fix the",
            "promt: Fix the",
            "s.yaml:9:5: tasks[0].promt: expected a field that is known here, found `promt`; did you mean `prompt`?",
            id="misspelt",
        ),
        pytest.param(
            "{folder: workspaces/ledger}",
            "{folder: workspaces/leger}",
            "s.yaml:10:17: tasks[0].workspace.folder: expected a folder at",
            id="missing folder",
        ),
        pytest.param(
            "{folder: workspaces/ledger}",
            "{folder: ../other}",
            "s.yaml:10:17: tasks[0].workspace.folder: expected a path below the suite's folder, found `../other`",
            id="out of the folder",
        ),
        pytest.param(
            "{folder: workspaces/ledger}",
            "{folder: workspaces/ledger, archive: x.tar}",
            "s.yaml:10:5: tasks[0].workspace: expected exactly one of folder, archive, git, found folder and archive",
            id="two workspaces",
        ),
        pytest.param(
            "{folder: workspaces/ledger}",
            "{archive: solutions/fix.patch}",
            "s.yaml:10:17: tasks[0].workspace.archive: expected one of .tar, .tar.gz,",
            id="no archive",
        ),
        pytest.param(
            ", commit: 0123456789abcdef0123456789abcdef01234567",
            ", commit: main",
            "s.yaml:24:51: tasks[1].workspace.commit: expected a whole commit id of 40 hex digits, found `main`",
            id="a branch for a commit",
        ),
        pytest.param(
            ", commit: 0123456789abcdef0123456789abcdef01234567",
            "",
            "s.yaml:24:5: tasks[1].workspace: expected `commit` beside `git`, found none",
            id="no commit",
        ),
        pytest.param(
            "https://git.example/x.git",
            "ext::sh -c true",
            "s.yaml:24:17: tasks[1].workspace.git: expected the address of a repository",
            id="a transport that runs a program",
        ),
        pytest.param(
            "name: says why",
            "name: Tests pass",
            "s.yaml:15:10: tasks[0].checks[2].name: expected each name of a check once in its task",
            id="two checks of a name",
        ),
        pytest.param(
            "{name: says why, file: NOTES.md, matches: ",
            "{name: says why, file: NOTES.md, run: ",
            "s.yaml:15:9: tasks[0].checks[2]: expected exactly one of run, diff_only, file, found run and file",
            id="two checks in one",
        ),
        pytest.param(
            'matches: "(?i)because"',
            'matches: "(because"',
            "s.yaml:15:42: tasks[0].checks[2].matches: expected a regular expression of Python, found missing )",
            id="no regular expression",
        ),
        pytest.param(
            "file: tmp.txt",
            "file: /etc/passwd",
            "s.yaml:16:30: tasks[0].checks[3].file: expected a path below the workspace",
            id="a file elsewhere",
        ),
        pytest.param(
            "files: checks/fix,",
            "files: checks/fax,",
            "s.yaml:13:57: tasks[0].checks[0].files: expected a folder at",
            id="files of a check are missing",
        ),
        pytest.param(
            "difficulty: 2",
            "difficulty: 6",
            "s.yaml:20:5: tasks[0].difficulty: expected a number of at most 5, found `6`",
            id="difficulty",
        ),
        pytest.param(
            "budget_usd: 0.50",
            "budget_usd: 0",
            "s.yaml:5:32: defaults.limits.budget_usd: expected a number above 0, found `0`",
            id="no budget",
        ),
        pytest.param(
            "timeout: 60",
            "timeut: 60",
            "tasks[0].limits.timeut: expected a field that is known here, found `timeut`; did you mean `timeout`?",
            id="did you mean",
        ),
    ],
)
def test_a_mistake_has_its_line_and_a_remedy(problems, old, new, told):
    found = problems(changed(old, new))
    assert any(told in line for line in found), found


def test_all_mistakes_are_told_at_once(problems):
    text = changed("id: fetch", "id: fix").replace("difficulty: 2", "difficulty: 9")
    text = text.replace("mcp/server.json", "mcp/missing.json").replace("timeout: 30", "timeout: never")
    found = problems(text)
    assert [line.split(": expected")[0].split(" ")[1] for line in found] == [
        "tasks[0].checks[0].timeout",
        "tasks[0].difficulty",
        "tasks[1].id",
        "tasks[1].mcp",
    ]


def test_a_link_out_of_the_folder_is_refused(problems, folder, tmp_path):
    (folder / "workspaces" / "linked").symlink_to(tmp_path)
    (line,) = problems(changed("{folder: workspaces/ledger}", "{folder: workspaces/linked}"))
    assert "a link out of it" in line


@pytest.mark.parametrize("text", ["", "- a\n", "version: 1\nname: [\n", "version: 1\nname: x\ntasks: []\n"])
def test_what_is_no_suite_is_refused(problems, text):
    assert problems(text)


def test_the_published_schema_is_current():
    assert schema.PUBLISHED.read_text() == schema.text(), (
        "run: cd scripts && python -m paddock_cli.suites.schema"
    )
    assert json.loads(schema.text())["properties"].keys() == {
        "version",
        "name",
        "description",
        "defaults",
        "tasks",
    }


def test_shipped_suites_are_valid():
    for path in definitions.in_folder(SHIPPED):
        definitions.load(path)


def test_limits_of_a_task_come_before_the_suites(folder):
    suite = definitions.load(folder / "small.yaml")
    fix, fetch = suite.file.tasks
    assert suite.limits(fix) == Limits(max_iterations=20, budget_usd="0.50", timeout=60)
    assert suite.limits(fetch) == Limits(max_iterations=20, budget_usd="0.50")


def test_tasks_are_chosen_by_id_and_tag(folder):
    suite = definitions.load(folder / "small.yaml")
    assert [task.id for task in suite.chosen([], [])] == ["fix", "fetch"]
    assert [task.id for task in suite.chosen(["fetch"], [])] == ["fetch"]
    assert [task.id for task in suite.chosen([], ["bug", "mcp"])] == ["fix", "fetch"]
    with pytest.raises(UsageFailed, match="'fax'"):
        suite.chosen(["fax"], [])
    with pytest.raises(UsageFailed, match="bug, mcp, python"):
        suite.chosen([], ["rust"])


def test_the_fingerprint_covers_what_the_suite_names(folder):
    def fingerprint():
        return definitions.load(folder / "small.yaml").sha256()

    seen = {fingerprint()}
    assert fingerprint() in seen
    (folder / "checks" / "fix" / "test_a.py").write_text("other\n")
    seen.add(fingerprint())
    (folder / "workspaces" / "ledger" / "src" / "a.py").chmod(0o755)
    seen.add(fingerprint())
    (folder / "workspaces" / "ledger" / "link").symlink_to("src")
    seen.add(fingerprint())
    os.mkfifo(folder / "workspaces" / "ledger" / "pipe")
    seen.add(fingerprint())
    assert len(seen) == 5
    (folder / "unrelated.txt").write_text("x")
    assert fingerprint() in seen


def test_suites_are_found_by_name_or_path(where, folder, monkeypatch):
    shutil.copytree(folder, where.root / "suites")
    assert definitions.locate(where, "small") == where.root / "suites" / "small.yaml"
    assert definitions.locate(where, str(folder / "small.yaml")) == folder / "small.yaml"
    with pytest.raises(NotFound, match="a shipped suite: small"):
        definitions.locate(where, "other")
    # A workspace, where an agent has left a suite of the name.
    monkeypatch.chdir(folder)
    (where.root / "suites" / "small.yaml").unlink()
    with pytest.raises(NotFound):
        definitions.locate(where, "small")


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the command line in this process; returns exit code and standard output."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["paddock", "suite", *arguments])
        code = entry.main()
        return int(code), capsys.readouterr().out

    return run


def test_validate_tells_every_mistake(call, folder):
    code, out = call("validate", str(folder / "small.yaml"))
    assert code == 0
    assert "2 tasks with 4 checks" in " ".join(out.split())
    bad = folder / "bad.yaml"
    bad.write_text(changed("id: fetch", "id: fix"))
    code, out = call("validate", str(bad), "--json")
    assert code == 35
    told = json.loads(out)
    assert told["error"]["kind"] == "BadConfiguration"
    assert [(one["line"], one["path"]) for one in told["problems"]] == [(22, "tasks[1].id")]


def test_list_goes_on_after_a_suite_with_mistakes(call, folder):
    (folder / "bad.yaml").write_text("version: 2\n")
    code, out = call("list", str(folder), "--json")
    assert code == 0
    bad, small = json.loads(out)["suites"]
    assert "mistakes" in bad["error"]
    assert [task["id"] for task in small["tasks"]] == ["fix", "fetch"]
