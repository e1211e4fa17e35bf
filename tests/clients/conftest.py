"""One gateway for the folder."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# LiteLLM fetches a price list at import otherwise; telemetry goes nowhere.
os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
}

from counting import CountingRelay
from processes import Gateway, Model, running


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway, up."""
    python = os.environ.get("PADDOCK_TEST_STACK_PYTHON")
    if not python:
        pytest.skip("no environment with MLflow's packages: run ./paddock test tests/clients")
    with running(tmp_path_factory.mktemp("gateway"), python) as gateway:
        yield gateway


@pytest.fixture
def gateway(served: Gateway) -> Gateway:
    """The gateway, its providers without memory of other tests."""
    served.forget()
    return served


@pytest.fixture
def relay(gateway: Gateway) -> Iterator[CountingRelay]:
    """A way to the gateway that counts requests."""
    with CountingRelay(gateway.url) as relay:
        yield relay


@pytest.fixture
def priced(gateway: Gateway) -> str:
    """An endpoint on a model of a known price."""
    return gateway.endpoint("priced", Model("gpt-4o-mini"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A failed test's report carries what the processes said."""
    report = yield
    running_gateway = getattr(item, "funcargs", {}).get("gateway")
    if report.failed and isinstance(running_gateway, Gateway):
        report.sections.append(("the gateway's logs", running_gateway.logs()))
    return report
