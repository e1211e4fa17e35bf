"""The key of one run: made before it, revoked after it, worth no more than its budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from paddock_cli import console, keys
from paddock_cli.errors import CliError, UsageFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.stack import Request

AGENT_USER = "agent"
DEFAULT_TIMEOUT_SECONDS = 3600
"""The runner's own, where none is given."""
GRACE_SECONDS = 600
"""How much longer than its run a key lives that could not be revoked."""
BUDGET_OUTPUT_TOKENS = 8192
"""Of one model call in a run with a budget. What a call may cost at most is reserved before it: without a maximum that
would be 16384 tokens of output, more than a small budget has."""


@dataclass
class RunKey:
    """The key of a run; what was `spent` (USD) is known once it has ended."""

    id: str
    text: str = field(repr=False)
    budget: Decimal | None
    spent: Decimal | None = None

    def as_json(self) -> dict[str, Any]:
        """For a report: amounts as text."""
        return {
            "key_id": self.id,
            "limit_usd": None if self.budget is None else f"{self.budget:f}",
            "spent_usd": None if self.spent is None else f"{self.spent:f}",
        }


def parse_budget(text: str | None) -> Decimal | None:
    """`--budget` of a run: USD, for all of it.

    Raises:
        UsageFailed: it is no amount, or one for a window.
    """
    if text is None:
        return None
    if "/" in text:
        raise UsageFailed(
            "--budget in USD for the whole run, like 0.50", repr(text), "leave out what is after the slash"
        )
    return keys.usd_of(text, "--budget")


@contextmanager
def made_for(server: Mlflow, request: Request, budget: Decimal | None) -> Iterator[RunKey]:
    """A key that opens the run's endpoint as long as the block lasts. Spans are the run's by it, a little longer: the
    last of them leave when it is revoked already.

    Raises:
        ServerFailed: the server made none.
    """
    made = server.call(
        "POST",
        keys.PATH,
        json={
            "user": AGENT_USER,
            "endpoints": [request.endpoint],
            "name": f"run {request.run_id}",
            "run_id": request.run_id,
            "budget": None if budget is None else keys.Budget(budget).as_json(),
            "egress_allow": list(request.allow),
            "expires_in": (request.timeout or DEFAULT_TIMEOUT_SECONDS) + GRACE_SECONDS,
        },
    )
    key = RunKey(made["id"], made["key"], budget)
    try:
        yield key
    finally:
        try:
            key.spent = end(server, key.id)
        except CliError as error:
            console.warn(
                f"the run's key {key.id} could not be revoked ({error.found}); it ends by itself at"
                f" {made['expires_at']}, or by: ./paddock keys revoke {key.id}"
            )


def end(server: Mlflow, key_id: str) -> Decimal:
    """Revoke the key of a run. Returns what was spent with it, in USD."""
    return Decimal(keys.revoke(server, key_id)["spent_usd"])


def spent(server: Mlflow, key_id: str) -> Decimal:
    """What was spent with a key, in USD."""
    return Decimal(server.call("GET", f"{keys.PATH}/{key_id}")["spent_usd"])
