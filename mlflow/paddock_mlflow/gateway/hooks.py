"""What guardrails are to the gateway: asked before a call is admitted, and before its answer goes out.

`paddock_mlflow.guardrails` has them; this is the interface. `load` is called in a thread whenever an endpoint's
configuration is read anew, so it may ask the database; what it returns is kept in memory until the next change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Verdict:
    """What one guardrail found, for the trace. `stage` is `BEFORE` or `AFTER`, `action` `VALIDATION` or `SANITIZATION`."""

    name: str
    stage: str
    action: str
    passed: bool
    rationale: str = ""


@dataclass(frozen=True)
class Refusal:
    """A guardrail stops the call: `message` is what the client reads, and must not repeat what was found in the text."""

    guardrail: str
    message: str
    status: int = 400
    code: str = "content_policy_violation"


@dataclass
class GuardedCall:
    """A call as guardrails see it."""

    endpoint_id: str
    endpoint_name: str
    protocol: str
    """`openai_chat`, `openai_responses`, `openai_embeddings`, `anthropic_messages`, `gemini`, `unknown` (as in `usage`)."""
    request: dict[str, Any]
    """The body as parsed, `model` still in it. Not to be changed in place: return a new one."""
    stream: bool
    headers: Mapping[str, str]
    """The client's, names in lower case: an internal call of a guardrail forwards `authorization` or
    `x-mlflow-authorization`."""
    server_url: str
    username: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    """Each guardrail that ran adds its own, whatever it found."""


class Guardrails(Protocol):
    """The guardrails of one endpoint. Exceptions fail the call with 500: nothing passes unguarded."""

    @property
    def checks_answers(self) -> bool:
        """Whether `after` has something to do: streams are then held back until they are complete."""

    async def before(self, call: GuardedCall) -> dict[str, Any] | Refusal | None:
        """None lets the call pass, a dict replaces its body, a refusal stops it."""

    async def after(self, call: GuardedCall, response: dict[str, Any]) -> dict[str, Any] | Refusal | None:
        """The same for the answer, in the client's protocol (of a stream: put together). A replaced answer of a stream is
        sent as one piece."""


class LoadGuardrails(Protocol):
    """`paddock_mlflow.guardrails.load`."""

    def __call__(self, endpoint_id: str) -> Guardrails | None:
        """The endpoint's guardrails; None where it has none. Blocking. Raises where one cannot work: its endpoint is then
        closed with 500 rather than served unguarded."""
