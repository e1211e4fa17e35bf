"""MLflow's UI as a person sees it, in headless Chromium: a judged run, its spans, the gateway's usage.

The README's screenshot is made here: with PADDOCK_SCREENSHOT set to a path, the judged trace is saved there.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import EXPECTATION, TASK, Product
from playwright.sync_api import Page, expect, sync_playwright
from stack_under_test import StackUnderTest

pytestmark = pytest.mark.requires_browser

SECONDS = 1000
expect.set_options(timeout=20 * SECONDS)
# What greets a first visit and covers the table.
GREETINGS = {
    "mlflow.detectIssues.guidanceShown_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


@pytest.fixture(scope="module")
def run(product: Product, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A judged run."""
    workspace = tmp_path_factory.mktemp("project")
    (workspace / "README.md").write_text("# Lighthouse\n")
    answer = product.paddock("run", TASK, "--workspace", str(workspace), "--expect", EXPECTATION, "--json")
    assert answer.code == 0, answer.err
    return answer.document


@pytest.fixture
def page(stack: StackUnderTest, chromium_path: str) -> Iterator[Page]:
    """A page that is logged in. No address but the stack's own is loaded."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path,
            # Root has no sandbox of Chromium's, and the page is our own.
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
        )
        context = browser.new_context(
            viewport={"width": 1500, "height": 950},
            http_credentials={"username": "admin", "password": stack.password},
        )
        settings = "".join(f"localStorage.setItem('{name}', '{value}');" for name, value in GREETINGS.items())
        context.add_init_script(settings)
        page = context.new_page()
        page.on("pageerror", lambda error: print(f"page error: {error}"))
        page.on("requestfailed", lambda request: print(f"failed: {request.url} {request.failure}"))
        page.set_default_timeout(30 * SECONDS)
        yield page
        browser.close()


def test_the_trace_list_shows_the_run_with_a_column_a_judge(
    page: Page, stack: StackUnderTest, run: dict
) -> None:
    page.set_viewport_size({"width": 2600, "height": 950})
    page.goto(f"{stack.url}/#/experiments/{stack.experiment_id}/traces")
    row = page.locator("[role=row]", has_text=TASK).first
    expect(row).to_contain_text("OK")
    expect(row).to_contain_text(run["run"]["run_id"][:7])
    header = page.locator("[role=row]").first
    for judge in run["judges"]:
        expect(header).to_contain_text(judge)
    verdicts = row.locator('[data-component-id="shared.model-trace-explorer.assesment-value-tag"]')
    expect(verdicts.first).to_be_visible()


def test_a_trace_opens_with_its_tree_tokens_cost_and_verdicts(
    page: Page, stack: StackUnderTest, run: dict
) -> None:
    page.set_viewport_size({"width": 1500, "height": 950})
    page.goto(f"{stack.url}/#/experiments/{stack.experiment_id}/traces?traceId={run['run']['trace_id']}")
    nodes = page.locator("[data-testid^=timeline-tree-node-]")
    expect(nodes.first).to_be_visible()
    tree = " ".join(nodes.all_inner_texts())
    for name in ("conversation", "agent.step", "litellm.completion", "TerminalAction", "FileEditorAction"):
        assert name in tree, name
    drawer = page.locator('[data-component-id="mlflow.evaluations_review.modal"]').first
    expect(drawer).to_contain_text("tokens")
    expect(drawer).to_contain_text("$0.0")
    expect(drawer).to_contain_text("Lighthouse")
    page.get_by_role("button", name="Assess").click()
    pane = page.locator("[data-testid=assessments-pane]")
    for judge in run["judges"]:
        expect(pane.get_by_text(judge, exact=True)).to_be_visible()
    toggles = pane.locator('[data-component-id="shared.model-trace-explorer.toggle-assessment-expanded"]')
    # From the last to the first, since each one that opens moves those below it.
    for index in reversed(range(len(run["judges"]))):
        toggles.nth(index).click()
    for verdict in run["judges"].values():
        expect(pane).to_contain_text(verdict["rationale"][:40])
    if target := os.environ.get("PADDOCK_SCREENSHOT"):
        page.screenshot(path=str(Path(target)))


def test_a_tool_span_shows_what_went_in_and_came_out(page: Page, stack: StackUnderTest, run: dict) -> None:
    page.goto(f"{stack.url}/#/experiments/{stack.experiment_id}/traces?traceId={run['run']['trace_id']}")
    node = page.locator("[data-testid^=timeline-tree-node-]", has_text="TerminalAction").first
    node.click()
    content = page.locator("[data-testid=model-trace-explorer-content-tab]").first
    expect(content).to_contain_text("command")
    expect(content).to_contain_text("survey: begin")


def test_the_gateways_usage_counts_requests_and_cost(page: Page, stack: StackUnderTest, run: dict) -> None:
    page.goto(f"{stack.url}/#/gateway/usage")
    expect(page.locator("body")).to_contain_text("Requests")
    requests = page.locator("text=/^[1-9][0-9]*$/").first
    expect(requests).to_be_visible()
    page.goto(f"{stack.url}/#/gateway")
    for endpoint in ("coder", "judge"):
        expect(page.get_by_text(endpoint, exact=True).first).to_be_visible()
