"""The test command: which tests it calls, what it counts, and when it is red."""

import sys
from collections import Counter

import pytest

from paddock_cli import testing
from paddock_cli.errors import UsageFailed
from paddock_cli.testing import Outcome, Summary

REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure message="x"/></testcase>
<testcase name="c"><error message="x"/></testcase>
<testcase name="d"><skipped message="needs docker: none"/></testcase>
<testcase name="e"><skipped message="needs docker: none"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted(tmp_path):
    (tmp_path / "r.xml").write_text(REPORT)

    outcome = testing._outcome("s", 1, tmp_path / "r.xml")

    assert (outcome.passed, outcome.failed) == (1, 2)
    assert outcome.skipped == Counter({"needs docker: none": 2})


@pytest.mark.parametrize(
    ("outcomes", "missing", "required", "code"),
    [
        ([Outcome("a", 0, passed=3)], {}, set(), 0),
        ([Outcome("a", 0, passed=3), Outcome("b", 5)], {}, set(), 0),
        ([Outcome("a", 0, passed=3)], {"docker": "none"}, set(), 0),
        ([Outcome("a", 0, passed=3)], {"docker": "none"}, {"docker"}, 33),
        ([Outcome("a", 1, passed=3, failed=1)], {}, set(), 33),
        ([Outcome("a", 2, passed=0)], {}, set(), 33),
        ([Outcome("a", 5)], {}, set(), 33),
        ([], {}, set(), 33),
    ],
)
def test_when_it_is_red(outcomes, missing, required, code):
    assert Summary(outcomes, missing, required).exit_code == code


@pytest.fixture
def checkout(where):
    for name in ("tests/unit/agent", "tests/unit/cli", "tests/embedded"):
        (where.root / name).mkdir(parents=True)
    (where.root / "tests/unit/cli/test_x.py").touch()
    return where


AGENT, SERVERS, _STACK, _CLIENTS = testing.SESSIONS


def test_all_that_there_is_without_a_selection(checkout):
    assert testing._tests(checkout, AGENT, []) == ["tests/unit/agent"]
    assert testing._tests(checkout, SERVERS, []) == ["tests/unit/cli", "tests/embedded"]


@pytest.mark.parametrize(
    ("selected", "agent", "stack"),
    [
        ("tests/unit/agent", ["tests/unit/agent"], []),
        ("tests/unit/cli/test_x.py::test_y", [], ["tests/unit/cli/test_x.py::test_y"]),
        ("tests/unit", ["tests/unit/agent"], ["tests/unit/cli"]),
    ],
)
def test_a_selection_goes_to_its_session(checkout, selected, agent, stack):
    assert testing._tests(checkout, AGENT, [selected]) == agent
    assert testing._tests(checkout, SERVERS, [selected]) == stack


@pytest.mark.parametrize("selected", ["tests/nowhere", "/etc/passwd"])
def test_what_is_no_test_is_refused(checkout, selected):
    with pytest.raises(UsageFailed, match="tests/"):
        testing._tests(checkout, AGENT, [selected])


def test_an_unknown_requirement_is_refused(checkout):
    with pytest.raises(UsageFailed, match="docker or browser"):
        testing.run(checkout, {"kubernetes"}, "", [], as_json=False)


MEETING = """
import time
from pathlib import Path

def test_meets_the_other():
    Path("{mine}").touch()
    deadline = time.monotonic() + 20
    while not Path("{other}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    print("said by {mine}")
"""


def test_side_by_side_and_each_output_in_one_piece(checkout, monkeypatch, capfd):
    class Here:
        def __init__(self, cache): ...

        def python(self, name, lock):
            return sys.executable

    monkeypatch.setattr(testing, "Environments", Here)
    (checkout.root / "tests/stack").mkdir()
    (checkout.root / "tests/unit/cli/test_x.py").write_text(MEETING.format(mine="cli", other="stack"))
    (checkout.root / "tests/stack/test_s.py").write_text(MEETING.format(mine="stack", other="cli"))

    selected = ["tests/unit/cli", "tests/stack"]
    summary = testing.run(checkout, set(), "", selected, as_json=False, parallel=True)

    assert (summary.passed, summary.failed) == (2, 0), capfd.readouterr().out
    out = capfd.readouterr().out
    assert (
        out.index("tests/unit/cli/test_x.py .") < out.index("1 passed") < out.index("tests/stack/test_s.py .")
    )
