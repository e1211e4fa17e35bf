"""MLflow's pages of the gateway in headless Chromium: what they show is what the API says. On both stacks.

A folder's conftest gives a session fixture `product`, a `Product`; a test class takes the cases by inheriting
`GatewayPages`. With PADDOCK_SCREENSHOT set to a path, pictures for docs/ are saved beside that path.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

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


class JudgePages:
    """*Run judges*, as a person clicks it; each test gets the running stack as `product`."""

    def test_run_judges_fills_its_column(self, product: Product, chromium_path: str) -> None:
        """Of a judge that looks only when it is asked, on a trace with an expectation."""
        access = product.paddock("password", "--json").document
        task = f"Which lighthouse? {secrets.token_hex(4)}"
        experiment, trace_id = _trace(product, task, "The one at the harbour.")
        expectation = {
            "assessment_name": "expected_facts",
            "trace_id": trace_id,
            "source": {"source_type": "HUMAN", "source_id": "ada"},
            "expectation": {
                "serialized_value": {
                    "serialization_format": "JSON_FORMAT",
                    "value": json.dumps(["The one at the harbour."]),
                }
            },
        }
        path = f"/api/3.0/mlflow/traces/{trace_id}/assessments"
        product.api("POST", path, json={"assessment": expectation})
        dialog_id = "mlflow.experiment-scorers.traces-view-judge-select-modal"
        with logged_in(chromium_path, access["password"]) as page:
            page.set_viewport_size({"width": 2600, "height": 950})
            page.goto(f"{access['url']}/#/experiments/{experiment}/traces")
            row = page.locator("[role=row]", has_text=task)
            row.locator("input[type=checkbox]").first.click(timeout=60 * SECONDS)
            page.locator('[data-component-id="mlflow.traces-v4.actions.trigger"]').click()
            page.locator('[data-component-id="mlflow.traces-v4.actions.run-judges"]').click()
            judge = page.get_by_role("dialog").locator("[role=checkbox]", has_text="correctness")
            # What stands around the box hands its click on, and would undo it.
            judge.locator("input[type=checkbox]").click(force=True)
            page.locator(f'[data-component-id="{dialog_id}.footer.ok"]').click()
            done = page.get_by_text('Judge "correctness" completed successfully.')
            expect(done).to_be_visible(timeout=60 * SECONDS)
            columns = page.locator("[role=row]").first.locator("[role=columnheader]")
            (place,) = [
                n for n, text in enumerate(columns.all_inner_texts()) if text.strip() == "correctness"
            ]
            expect(row.locator("[role=cell]").nth(place)).to_contain_text("Yes", timeout=60 * SECONDS)
        (found,) = [
            one for one in product.trace(trace_id)["assessments"] if one["assessment_name"] == "correctness"
        ]
        assert found["feedback"]["value"] == "yes"


def _trace(product: Product, task: str, answer: str) -> tuple[str, str]:
    """A trace of one span, sent as any client of OpenTelemetry would; the ids of its experiment and itself."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    moment = time.time_ns()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(
            trace_id=os.urandom(16),
            span_id=os.urandom(8),
            name="conversation",
            start_time_unix_nano=moment - 1_000_000_000,
            end_time_unix_nano=moment,
        )
    )
    for key, value in {"mlflow.spanInputs": task, "mlflow.spanOutputs": answer}.items():
        span.attributes.add(key=key).value.string_value = json.dumps(value)
    variables = product.paddock("env", "--json").document
    headers = dict(unquote(one).split("=", 1) for one in variables["OTEL_EXPORTER_OTLP_HEADERS"].split(","))
    sent = httpx.post(
        f"{variables['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces",
        content=request.SerializeToString(),
        headers={"content-type": "application/x-protobuf"} | headers,
        timeout=30,
    )
    assert sent.status_code == 200, sent.text
    return headers["x-mlflow-experiment-id"], f"tr-{span.trace_id.hex()}"


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
