"""MLflow's pages of the gateway in headless Chromium: what they show is what the API says. On both stacks.

A folder's conftest gives a session fixture `product`, a `Product`; a test class takes the cases by inheriting
`GatewayPages`. With PADDOCK_SCREENSHOT set to a path, pictures for docs/ are saved beside that path.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cases import GATEWAY, Product, eventually
from playwright.sync_api import Page, expect, sync_playwright

SECONDS = 1000
ENDPOINT = "pages"
LIMIT = 4.75
CALLS_BEFORE, CALLS_AFTER = 2, 4
# So much that a cost shows in cents: about 96 000 tokens a call.
PROMPT = "word " * 96_000
# What greets a first visit and covers the table.
GREETINGS = {
    "mlflow.detectIssues.guidanceShown_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


@dataclass(frozen=True)
class Used:
    """An endpoint that was called, as the API tells it. Costs in USD."""

    url: str
    password: str
    endpoint_id: str
    requests: int
    cost: float
    tokens: int


@contextmanager
def logged_in(chromium_path: str, password: str) -> Iterator[Page]:
    """A page of Chromium's that MLflow takes for its administrator's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path,
            # Root has no sandbox of Chromium's, and the page is our own.
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
        )
        context = browser.new_context(
            viewport={"width": 1500, "height": 950},
            http_credentials={"username": "admin", "password": password},
        )
        texts = (f"localStorage.setItem('{name}', '{value}');" for name, value in GREETINGS.items())
        context.add_init_script("".join(texts))
        page = context.new_page()
        page.on("pageerror", lambda error: print(f"page error: {error}"))
        page.set_default_timeout(30 * SECONDS)
        yield page
        browser.close()


class GatewayPages:
    """The cases; each test gets the running stack as `product`."""

    @pytest.fixture(scope="class")
    @classmethod
    def used(cls, product: Product) -> Iterator[Used]:
        """An endpoint with calls before and after its budget policy was made, all of them traced."""
        access = product.paddock("password", "--json").document
        admin = (access["user"], access["password"])
        endpoint_id = _endpoint(product)

        def call() -> None:
            body = {"model": ENDPOINT, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 100}
            answer = httpx.post(
                f"{access['url']}/gateway/mlflow/v1/chat/completions", json=body, auth=admin, timeout=60
            )
            assert answer.status_code == 200, answer.text

        for _ in range(CALLS_BEFORE):
            call()
        policy = {
            "budget_unit": "USD",
            "budget_amount": LIMIT,
            "duration": {"unit": "DAYS", "value": 1},
            "target_scope": "ENDPOINT",
            "target_value": endpoint_id,
            "budget_action": "REJECT",
        }
        made = product.api("POST", f"{GATEWAY}/budgets/create", json=policy)["budget_policy"]
        for _ in range(CALLS_AFTER):
            call()
        path = "/api/2.0/mlflow/experiments/get-by-name"
        experiment = product.api("GET", path, params={"experiment_name": f"gateway/{ENDPOINT}"})["experiment"]
        location = {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": experiment["experiment_id"]},
        }
        search = {"locations": [location], "max_results": 100}

        def traced() -> list[dict[str, dict[str, str]]]:
            found = product.api("POST", "/api/3.0/mlflow/traces/search", json=search).get("traces", [])
            return found if len(found) >= CALLS_BEFORE + CALLS_AFTER else []

        traces = [trace["trace_metadata"] for trace in eventually(traced, 30, "a trace for every call")]
        yield Used(
            url=access["url"],
            password=access["password"],
            endpoint_id=endpoint_id,
            requests=len(traces),
            cost=sum(json.loads(trace["mlflow.trace.cost"])["total_cost"] for trace in traces),
            tokens=sum(json.loads(trace["mlflow.trace.tokenUsage"])["total_tokens"] for trace in traces),
        )
        body = {"budget_policy_id": made["budget_policy_id"]}
        product.api("DELETE", f"{GATEWAY}/budgets/delete", json=body)

    @pytest.fixture
    @staticmethod
    def page(used: Used, chromium_path: str) -> Iterator[Page]:
        """A page that is logged in."""
        with logged_in(chromium_path, used.password) as page:
            yield page

    def test_the_endpoints_page_lists_it_with_its_model(self, page: Page, used: Used) -> None:
        page.goto(f"{used.url}/#/gateway")
        row = page.locator("[role=row]", has=page.get_by_text(ENDPOINT, exact=True))
        expect(row).to_contain_text("demo", timeout=60 * SECONDS)
        _picture(page, "gateway-endpoints.png", height=520)
        row.get_by_text(ENDPOINT, exact=True).click()
        expect(page).to_have_url(re.compile(re.escape(used.endpoint_id)), timeout=60 * SECONDS)

    def test_the_usage_page_counts_requests_tokens_and_cost_as_the_api(self, page: Page, used: Used) -> None:
        page.goto(f"{used.url}/#/gateway/usage")
        page.locator('[data-component-id="mlflow.gateway.usage.endpoint-selector"]').click()
        page.get_by_role("option", name=ENDPOINT, exact=True).click()
        # Lines of the page: its markup has no blank between a title and its number.
        body = page.locator("body")
        eventually(
            lambda: f"\nRequests\n{used.requests}\n" in body.inner_text(), 60, "the endpoint's requests"
        )
        eventually(lambda: "\nCost Over Time\n$" in body.inner_text(), 60, "the cost")
        shown = body.inner_text()
        costs = [float(text) for text in re.findall(r"\$([\d.]+) Total Cost", shown)]
        assert costs == [pytest.approx(used.cost, abs=1e-6)] * 2
        (thousands,) = re.findall(r"Token Usage\n([\d.]+)K", shown)
        assert float(thousands) == pytest.approx(used.tokens / 1000, abs=0.006)
        assert "0 (Overall error rate: 0.0%)" in shown
        _picture(page, "gateway-usage.png", height=1700)

    def test_the_budgets_page_shows_what_was_spent(self, page: Page, used: Used, product: Product) -> None:
        """Every cent, that of calls before the policy was made too."""
        (window,) = [
            window
            for window in product.api("GET", f"{GATEWAY}/budgets/windows")["windows"]
            if window["budget_policy_id"] in _policies(product, used)
        ]
        assert window["current_spend"] == pytest.approx(used.cost, abs=1e-9)
        page.goto(f"{used.url}/#/gateway/budgets")
        row = page.locator("[role=row]", has_text=f"${LIMIT}")
        expect(row).to_contain_text("Daily", timeout=60 * SECONDS)
        expect(row).to_contain_text("Reject")
        expect(row).to_contain_text(f"${used.cost:.2f}")
        _picture(page, "gateway-budgets.png", height=520)


def _endpoint(product: Product) -> str:
    """The id of the endpoint, made on the demo model."""
    product.endpoint(ENDPOINT)
    found = product.api("GET", f"{GATEWAY}/endpoints/get", params={"name": ENDPOINT})
    return found["endpoint"]["endpoint_id"]


def _policies(product: Product, used: Used) -> list[str]:
    policies = product.api("GET", f"{GATEWAY}/budgets/list")["budget_policies"]
    return [one["budget_policy_id"] for one in policies if one.get("target_value") == used.endpoint_id]


def _picture(page: Page, name: str, *, height: int) -> None:
    if target := os.environ.get("PADDOCK_SCREENSHOT"):
        page.set_viewport_size({"width": 1500, "height": height})
        # The charts move into their place for a moment.
        page.wait_for_timeout(2 * SECONDS)
        page.screenshot(path=str(Path(target).with_name(name)))
