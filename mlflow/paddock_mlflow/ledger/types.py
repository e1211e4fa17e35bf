"""What the gateway asks of the ledger, and what it is told. Money is USD, as Decimal; never float."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True)
class KeyCredential:
    """A bearer key, as the SHA-256 of its text; whether it is valid is decided where the call is admitted."""

    sha256: bytes
    opens_run_keys: bool = False
    """Whether the call came in where a run's key counts: through the gate."""


@dataclass(frozen=True)
class UserCredential:
    """An MLflow user who was authenticated, and may use the endpoint, by MLflow's own rules."""

    username: str


Credential = KeyCredential | UserCredential


@dataclass(frozen=True)
class Usage:
    """Tokens of one model call. `input` counts all of the prompt, cached and cache-writing tokens included; `output`
    counts all that was generated, reasoning included."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    """Of `cache_write`, what was written for an hour rather than five minutes, at another price (Anthropic)."""
    service_tier: str = ""
    """As the response names it (`priority`, `flex`, `batch`), at another price; empty where it does not."""


@dataclass(frozen=True)
class Admission:
    """A call that wants to be made.

    `bound` is an upper bound of what one attempt costs; None where a model of the endpoint has no price, which
    `unpriced` then names. `tokens` is an upper bound of prompt and answer together. `config_version` is that of the
    endpoint's configuration which both were computed from.
    """

    call_id: str
    credential: Credential
    endpoint_id: str
    endpoint_name: str
    tokens: int
    bound: Decimal | None
    lease_seconds: float
    config_version: int
    unpriced: str = ""


@dataclass(frozen=True)
class Admitted:
    """The call may be made; `remaining` is what is left of the tightest budget, this call's reservation taken off."""

    username: str
    key_id: str | None = None
    run_id: str | None = None
    remaining: Decimal | None = None


class Reason(StrEnum):
    """Why a call is refused."""

    UNKNOWN_KEY = "unknown_key"
    EXPIRED_KEY = "expired_key"
    REVOKED_KEY = "revoked_key"
    RUN_KEY_ELSEWHERE = "run_key_elsewhere"
    """The key of a run, and the call did not come through the gate."""
    FORBIDDEN_ENDPOINT = "forbidden_endpoint"
    UNPRICED_MODEL = "unpriced_model"
    BUDGET_EXCEEDED = "budget_exceeded"
    """The budget is spent: no sense in trying before `resets_at`."""
    BUDGET_RESERVED = "budget_reserved"
    """It would fit once calls in flight are settled: worth another try after `retry_after` seconds."""
    REQUEST_RATE = "request_rate"
    TOKEN_RATE = "token_rate"


@dataclass(frozen=True)
class Refused:
    """The call may not be made. `limit` and `remaining` are USD for budgets, a minute's number for rates."""

    reason: Reason
    username: str = ""
    key_id: str | None = None
    scope: str = ""
    """Whose limit it is, for people: `key pdk_3f…`, `user ada`, `endpoint coder`, `all calls`."""
    limit: Decimal | None = None
    remaining: Decimal | None = None
    period: str = ""
    """`1 day`, `2 hours`; empty for a budget without a window."""
    resets_at: datetime | None = None
    retry_after: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class StaleConfiguration:
    """Endpoints, models, secrets or prices changed since the snapshot that the admission was computed from."""

    config_version: int


class Outcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    ERROR = "error"
    """No provider answered well; nothing was billed, or `cost` says what may have been."""
    ABANDONED = "abandoned"
    """The client left in mid-stream: charged its bound, since the provider may bill all of it."""
    EXPIRED = "expired"
    """Its server died: charged its bound when the lease ended. Set by the ledger alone."""


@dataclass(frozen=True)
class Settlement:
    """What an admitted call came to. `record` becomes the usage trace; None where the endpoint is untracked."""

    call_id: str
    outcome: Outcome
    cost: Decimal | None
    """None charges the bound that was reserved."""
    usage: Usage = field(default_factory=Usage)
    provider: str = ""
    model: str = ""
    status: int = 200
    attempts: int = 1
    experiment_id: str = ""
    record: bytes | None = None


class Ledger(Protocol):
    """Keys, budgets and rates, decided in the database: exact over any number of servers, at once everywhere.

    Every method raises `LedgerUnavailable` where the database does not answer; the gateway then answers 503.
    """

    async def admit(self, admission: Admission) -> Admitted | Refused | StaleConfiguration:
        """Check key, endpoint, rates and budgets and reserve the bound, all or nothing, in one round trip."""

    async def extend(self, call_id: str, amount: Decimal) -> Refused | None:
        """Reserve more for a call: an attempt that may have been billed is followed by another."""

    async def settle(self, settlement: Settlement) -> None:
        """Replace the reservation by the real cost and hand the record to the usage traces. Twice is as good as once."""

    async def note(self, experiment_id: str, record: bytes) -> None:
        """Hand over the record of a call that was refused: it has no settlement."""

    async def config_version(self) -> int:
        """The version of the endpoints' configuration; any change in MLflow's tables raises it."""

    async def close(self) -> None:
        """Let go of connections, after what was given is written."""
