"""One Compose stack for all tests that need one: it takes a minute to start.

A plugin rather than a conftest, so that tests/stack and tests/escape get the same fixtures and so the same stack.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from cases import Product
from stack_under_test import ROOT, StackUnderTest, sweep

PROFILES = ("egress",)


@pytest.fixture(scope="session")
def built() -> dict[str, str]:
    """Build every image, as `./paddock up` does; returns the variables that the machine needs."""
    from paddock_cli import preflight, settings
    from paddock_cli.compose import ComposeStack

    where = settings.paths()
    loaded = settings.load(where)
    # With the optional services that tests bring up.
    exposed = replace(loaded.exposed, profiles=(*loaded.exposed.profiles, *PROFILES))
    ComposeStack(where, replace(loaded, exposed=exposed)).build()
    variables = {"MLFLOW_PORT": "0", "DEMO_SCENARIOS": str(ROOT / "tests" / "scenarios"), **_tls()}
    if mtu := loaded.mtu or preflight.uplink_mtu():
        variables["NETWORK_MTU"] = str(min(mtu, 1500))
    return variables


def _tls() -> dict[str, str]:
    """The TLS proxy beside it, under a name that only its clients know, on ports that were free just now."""
    ports = []
    with ExitStack() as held:
        for _ in range(2):
            taken = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(str(taken.getsockname()[1]))
    return {
        "COMPOSE_PROFILES": "tls",
        "SITE_ADDRESS": "paddock.test",
        "HTTPS_PORT": ports[0],
        "HTTP_PORT": ports[1],
    }


@pytest.fixture(scope="session")
def stack(built: dict[str, str]) -> Iterator[StackUnderTest]:
    """The stack, with the demo model able to play scripted scenarios."""
    sweep()
    with StackUnderTest(context=str(ROOT), env=built) as running:
        yield running


@pytest.fixture(scope="session")
def product(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Product:
    """The same stack as the command line sees it."""
    state = tmp_path_factory.mktemp("state")
    env = stack.env | {
        "COMPOSE_PROJECT_NAME": stack.project,
        "PADDOCK_STATE_DIR": str(state / "the state"),
        "PADDOCK_ENV_FILE": os.devnull,
    }
    return Product("compose", env, model_url="http://demo-model:8000/v1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A failed test's report carries what the services said."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(running, StackUnderTest):
        report.sections.append(("services' logs", running.logs(tail=30)))
    return report
