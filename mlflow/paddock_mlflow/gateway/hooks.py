"""What the gateway asks of the guardrails (`paddock_mlflow/guardrails`), and what it is told."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from paddock_mlflow.usage import Protocol as Words

type Stage = Literal["BEFORE", "AFTER"]


@dataclass(frozen=True)
class Check:
    """What one guardrail found in one call. `rationale` never repeats the value that was found."""

    name: str
    stage: Stage
    action: Literal["VALIDATION", "SANITIZATION"]
    passed: bool
    rationale: str

    def record(self) -> dict[str, Any]:
        """As the usage record holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Guarded:
    """A body that may go on: as it came, or with what was found masked (`changed`)."""

    body: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    changed: bool = False


class GuardrailStop(Exception):
    """The call must not go on.

    `status` is 400 where a guardrail found something, and 503 where one could not be run: what can't be checked does not
    pass. `kind` is the error's type and code for clients. `loggable` is the request with every deterministic finding
    masked, for the usage record: the body that was sent must not be written anywhere.
    """

    def __init__(
        self, status: int, kind: str, message: str, checks: list[Check], loggable: dict[str, Any]
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.checks = checks
        self.loggable = loggable


class Guards(Protocol):
    """The guardrails of one endpoint, ready to run; `paddock_mlflow.guardrails.load(endpoint_id)` makes them, in a thread
    since it asks the database. False where the endpoint has none.

    Calls with the internal token (`paddock_mlflow.guardrails.judges.is_internal(headers)`) are the judges' own: they meet
    only the guardrails of `without_judges`. A client's `X-MLflow-Guardrail-Bypass` means nothing; where a call falls
    through to MLflow's handler after these were run, that header with the value 1 keeps MLflow from running them again.
    """

    def __bool__(self) -> bool: ...

    def without_judges(self) -> "Guards":
        """Those that decide by themselves, without a model call."""

    @property
    def after_needs_whole(self) -> bool:
        """Whether a guardrail wants to see the whole answer.

        A streamed call is then made without a stream (`paddock_mlflow.guardrails.streams.whole_request`), and its answer
        is sent as a stream that comes at once (`paddock_mlflow.guardrails.streams.as_stream`).
        """

    async def before(self, words: Words, body: dict[str, Any]) -> Guarded:
        """Check a request before any provider sees it. Raises GuardrailStop."""

    async def after(self, words: Words, request: dict[str, Any], response: dict[str, Any]) -> Guarded:
        """Check a whole answer before the caller sees it. Raises GuardrailStop; `loggable` is then the answer, masked."""
