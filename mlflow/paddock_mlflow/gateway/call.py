"""What is known of one model call, more with each step."""

import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from mlflow.gateway.constants import MLFLOW_GATEWAY_CALLER_HEADER
from mlflow.gateway.providers.base import _CLIENT_AUTH_HEADERS

from paddock_mlflow import keys
from paddock_mlflow.gateway import bounds
from paddock_mlflow.gateway.endpoints import Endpoint, Model
from paddock_mlflow.gateway.hooks import Check, Guards
from paddock_mlflow.gateway.records import Attempted
from paddock_mlflow.gateway.routes import Route
from paddock_mlflow.guardrails.judges import is_internal
from paddock_mlflow.ledger.types import Admitted


@dataclass
class Call:
    """What is known of a call, more with each step."""

    route: Route
    headers: dict[str, str]
    rest: str
    started: float
    start_ns: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    body: dict[str, Any] = field(default_factory=dict)
    loggable: dict[str, Any] | None = None
    """The body as the trace may show it; the body itself where None."""
    endpoint: Endpoint | None = None
    bound: bounds.Bound | None = None
    reserved: Decimal | None = None
    admitted: Admitted | None = None
    billed: Decimal = Decimal(0)
    """Bounds of attempts that failed but may be paid for."""
    provider_seconds: float = 0.0
    attempts: list[Attempted] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    model: Model | None = None
    """The model of the last attempt."""
    stream: bool = False
    settled: bool = False
    begun: bool = False
    """Whether an answer is on its way: no other can be sent."""
    held: bool = False
    """Whether the client gets a stream, but the provider is asked for a whole answer, which is checked first."""

    @property
    def guards(self) -> Guards | None:
        """The guardrails that look at it. A judge's own call is asked of no judge: that would have no end."""
        guards = self.endpoint.guards if self.endpoint else None
        return guards.without_judges() if guards and is_internal(self.headers) else guards

    @property
    def has_own_auth(self) -> bool:
        """Whether the client identified itself in MLflow's own header, and its other credentials are not ours either."""
        return "x-mlflow-authorization" in self.headers and not any(
            keys.PREFIX in self.headers.get(name, "") for name in _CLIENT_AUTH_HEADERS
        )

    @property
    def caller(self) -> str | None:
        """As upstream's `_extract_caller` (mlflow/gateway/tracing_utils.py)."""
        if caller := self.headers.get(MLFLOW_GATEWAY_CALLER_HEADER.lower()):
            return caller
        return self.headers.get("user-agent", "").split("/")[0].strip() or None
