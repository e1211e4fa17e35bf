"""The shipped suite's tasks that need more than files: their MCP server and their page, used by an agent."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Ended, Runner

SUITES = ROOT / "suites"


@pytest.fixture
def runner_on(runner: Runner):
    """The runner, in a copy of one of the suite's workspaces."""

    def take(name: str) -> Runner:
        shutil.copytree(SUITES / "workspaces" / name, runner.workspace, dirs_exist_ok=True)
        return runner

    return take


def observations(ended: Ended) -> list[str]:
    return [json.dumps(event["event"]) for event in ended.events if event["kind"] == "ObservationEvent"]


def test_the_suppliers_catalogue_is_asked_by_mcp(runner_on) -> None:
    runner = runner_on("stockroom")
    ended = runner.run(
        "ask", "--endpoint", "scenario/supplier", "--mcp", str(SUITES / "mcp" / "supplier.json")
    )
    assert ended.code == 0, ended.err + ended.out[-2000:]
    assert ended.started["tools"][-1] == "mcp:supplier"
    replaced, again, shipped, none, unknown = observations(ended)[:5]
    assert "BRG-6204: replaced by BRG-6204-2RS" in replaced
    assert "replaced by BRG-6204-2RSH" in again
    assert "shipped, 389 cents a pack of 2" in shipped
    assert "no successor" in none
    assert "not in the catalogue" in unknown


def test_the_workspace_does_not_hold_what_the_catalogue_says() -> None:
    texts = [path.read_text() for path in (SUITES / "workspaces" / "stockroom").rglob("*") if path.is_file()]
    assert not [text for text in texts if "2RSH" in text or "BELT-A38-C" in text]


@pytest.mark.requires_browser
@pytest.mark.usefixtures("chromium")
def test_the_lobbys_page_is_read_by_the_browser(runner_on) -> None:
    runner = runner_on("noticeboard")
    ended = runner.run("read", "--endpoint", "scenario/kiosk", "--tools", "terminal,browser")
    assert ended.code == 0, ended.err
    _, served, _, shown, *_ = observations(ended)
    assert "This page needs JavaScript" in served
    for text in ("Lindqvist", "Sunday 11:00", "Bicycle cellar", "Door code changes to 7318 on Monday."):
        assert text in shown, shown
        assert text not in served


def test_the_page_shows_nothing_without_javascript() -> None:
    for path in Path(SUITES / "workspaces" / "noticeboard" / "kiosk").iterdir():
        assert "Lindqvist" not in path.read_text()
        assert "7318" not in path.read_text()
