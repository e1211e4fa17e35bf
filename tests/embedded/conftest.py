"""One embedded stack for the folder, in a state folder of its own, on a free port."""

import os
from collections.abc import Iterator

import pytest
from cases import ROOT, Product


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The embedded stack, brought up by the command line."""
    # A blank in the path: every part must bear it.
    state = tmp_path_factory.mktemp("embedded") / "the state"
    env = {
        "PADDOCK_STATE_DIR": str(state),
        "PADDOCK_ENV_FILE": os.devnull,
        "MLFLOW_PORT": "0",
        "DEMO_SCENARIOS": str(ROOT / "tests" / "scenarios"),
        "DEMO_RECORD": "true",
    }
    running = Product("embedded", env, model_url="")
    answer = running.paddock("up", "--embedded", "--json", timeout=600)
    try:
        assert answer.code == 0, answer.err
        secrets = running.api("GET", "/api/3.0/mlflow/gateway/secrets/list")["secrets"]
        demo = next(secret for secret in secrets if secret["secret_name"] == "demo-key")
        running.model_url = demo["auth_config"]["api_base"]
        yield running
    finally:
        running.paddock("down", "--volumes", "--yes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A failed test's report carries what the processes said."""
    report = yield
    running = getattr(item, "funcargs", {}).get("product")
    if report.failed and isinstance(running, Product):
        report.sections.append(("the stack's logs", running.paddock("logs", "--tail", "30").out))
    return report
