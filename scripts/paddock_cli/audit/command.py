"""The audit as a whole: a container for the probes, the probes, the rules."""

import time

from paddock_cli import console, selection
from paddock_cli.audit import agent, rules
from paddock_cli.audit.report import Audit, ordered
from paddock_cli.compose import ComposeStack
from paddock_cli.errors import NotRunning
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.settings import Paths, Settings


def audit(where: Paths, settings: Settings) -> Audit:
    """Look at the stack that runs.

    Raises:
        NotRunning: none runs, or one without containers, which has no fence.
        RunnerFailed: the probes could not be run.
    """
    stack = selection.running(where, settings)
    if not isinstance(stack, ComposeStack):
        raise NotRunning(
            "a stack in containers",
            "an embedded one, which has no fence",
            "start one: ./paddock up, with Docker",
        )
    began = time.monotonic()
    server = Mlflow(stack.connection())
    with stack.waiting_agent() as container:
        with console.step("asking the engine"):
            state = rules.State(tuple(stack.inspected()), stack.inspected_networks(), stack.secrets_held())
        with console.step("probing from an agent's container"):
            found = [*agent.lines(stack, server, container, state.containers), *rules.judge(state)]
    project = next(iter(state.networks.values()))["Labels"]["com.docker.compose.project"]
    return Audit(project, ordered(found), time.monotonic() - began)
