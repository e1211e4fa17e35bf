"""The report as HTML: whole in one file, drawn without a network, and deaf to what agents wrote.

With PADDOCK_SCREENSHOT set to a path, a picture of the page is saved there.
"""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from suite_runs import attempt, attempts, suite_run

from paddock_cli.errors import EnvironmentFailed
from paddock_cli.settings import Paths, paths
from paddock_cli.suites import html, pages
from paddock_cli.suites.comparison import against
from paddock_cli.suites.summary import summarize

ROOT = Path(__file__).resolve().parents[3]
# Before a test gets a cache of its own, in which everything would be installed anew.
CACHE = paths().cache
HOSTILE = "</script><script>alert(1)</script><img src=http://192.0.2.1/x onerror=alert(2)>${alert(3)}"


def runs():
    tasks = ("fix-failing-test", "add-a-flag", "refactor", "find-a-bug", "upgrade-a-call", "write-a-parser")
    before = suite_run(
        [*attempts(dict.fromkeys(tasks, "+++")), *attempts(dict.fromkeys(tasks, "++-"), "cheap")],
        id="coding-20261124-200000-aaaa",
        label="main",
    )
    results = dict.fromkeys(tasks, "+++") | {"fix-failing-test": "---", "refactor": "+-+"}
    made = [*attempts(results), *attempts(dict.fromkeys(tasks, "+++") | {"refactor": "e+-"}, "cheap")]
    made += [attempt(HOSTILE, passed=False, message=HOSTILE, trace_url="javascript:alert(4)")]
    for number, one in enumerate(made):
        one |= {"cost_usd": 0.01 * (number % 7 + 1), "seconds": 5.0 + number * 3}
    return before, suite_run(made)


@pytest.fixture(scope="module")
def report() -> str:
    """The page of a run with passes, failures, errors and hostile words, beside its baseline."""
    before, now = runs()
    summary, comparison = summarize(now), against(before, now)
    where = Paths(root=ROOT, state=CACHE, cache=CACHE)
    return html.render(where, pages.suite_page(summary, comparison, 30), summary, comparison)


class _Tags(HTMLParser):
    """Every element that a browser would make, with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_nothing_in_it_comes_from_elsewhere(report):
    found = _Tags(report).seen

    document = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "div",
        "figure",
        "figcaption",
        "a",
    }
    tables = {"table", "thead", "tbody", "tr", "th", "td"}
    drawings = {"svg", "g", "path", "rect", "line", "text", "defs", "lineargradient", "stop", "title"}
    assert {tag for tag, _ in found} <= document | tables | drawings | {"script"}
    attributes = {name for _, given in found for name in given}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "action", "srcdoc")}
    assert {given["href"][:22] for _, given in found if "href" in given} == {"http://127.0.0.1:5000/"}
    (policy,) = (given["content"] for _, given in found if given.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_hostile_words_are_words(report):
    scripts = [given.get("type", "the page's own") for tag, given in _Tags(report).seen if tag == "script"]
    assert scripts == ["application/json"] * 4 + ["the page's own"]

    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in report
    data = re.findall(r'<script type="application/json" id="chart-\d">(.*?)</script>', report, re.DOTALL)
    rows: list[dict] = []
    specifications = [json.loads(one, object_hook=lambda part: _without_rows(part, rows)) for one in data]
    assert any(row.get("task", "").startswith(HOSTILE[:40]) for row in rows)
    # They are data of a chart and no part of its specification.
    assert "alert" not in json.dumps(specifications)


def _without_rows(part, rows):
    """An object of a specification, its rows of data taken out."""
    found = [name for name, value in part.items() if name == "values" or name.startswith("data-")]
    for name in found:
        rows += part[name]
    return {name: value for name, value in part.items() if name not in found}


def test_the_charts_show_the_figures():
    before, now = runs()
    data = html.chart_data(summarize(now), against(before, now))

    cheap = next(one for one in data["endpoints"] if one["endpoint"] == "cheap")
    assert (cheap["passed"], cheap["decided"]) == (16, 17)
    assert cheap["baseline"] == pytest.approx(12 / 18)
    cells = {(one["task"], one["endpoint"]): one["result"] for one in data["cells"]}
    assert cells["refactor", "cheap"] == "1/2"
    assert {one["pair"]: one["kind"] for one in data["changes"]}["fix-failing-test · coder"] == "broken"
    assert {one["result"] for one in data["attempts"]} == {"passed", "not passed", "error"}


def test_a_run_without_a_decided_attempt_has_a_report_too():
    summary = summarize(suite_run([attempt(state="error", passed=False, error="no", cost_usd=None)]))
    where = Paths(root=ROOT, state=CACHE, cache=CACHE)

    text = html.render(where, pages.suite_page(summary, None, 30), summary, None)

    assert "Attempts in state error" in text


def test_a_drawing_that_fails_is_said(tmp_path, monkeypatch):
    _, now = runs()
    summary = summarize(now)
    monkeypatch.setattr(html, "chart_data", lambda *_: {})
    where = Paths(root=ROOT, state=CACHE, cache=CACHE)

    with pytest.raises(EnvironmentFailed, match="KeyError"):
        html.render(where, pages.suite_page(summary, None, 30), summary, None)


@pytest.mark.requires_browser
def test_it_opens_without_a_network_and_draws(report, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(report, encoding="utf-8")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    asked, said, dialogs = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri())
        # Vega has drawn over what was drawn beforehand.
        page.wait_for_function("document.querySelectorAll('.vega-embed svg').length === 4")
        broken = page.get_by_text("fix-failing-test", exact=True)
        assert broken.count() >= 3
        page.locator("figure").first.locator("path[aria-roledescription=bar]").first.hover()
        tip = page.locator("#vg-tooltip-element.visible")
        tip.wait_for()
        assert "coder" in tip.inner_text()
        if picture := os.environ.get("PADDOCK_SCREENSHOT"):
            page.mouse.move(0, 0)
            page.screenshot(path=picture, full_page=True)
        page.locator("figure").nth(1).locator("text", has_text="</script>").first.wait_for()
        browser.close()
    assert asked == [file.as_uri()]
    assert said == []
    assert dialogs == []


@pytest.mark.requires_browser
def test_it_shows_its_charts_where_scripts_do_not_run(report, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(report, encoding="utf-8")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(offline=True, java_script_enabled=False).new_page()
        page.goto(file.as_uri())
        assert page.locator("figure svg").count() == 4
        assert page.locator(".vega-embed").count() == 0
        browser.close()
