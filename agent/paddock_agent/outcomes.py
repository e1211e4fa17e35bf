"""How a run can end, the exit code of each end, and which end an exception of the SDK stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum


class Outcome(StrEnum):
    """The end of a run, as result lines, trace tags and exit codes name it."""

    FINISHED = "finished"
    ERROR = "error"
    MAX_ITERATIONS = "max_iterations"
    BUDGET = "budget"
    STUCK = "stuck"
    WAITING = "waiting"
    AUTHENTICATION = "authentication"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    UNKNOWN_ENDPOINT = "unknown_endpoint"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"

    @property
    def exit_code(self) -> int:
        """The process's exit code."""
        return EXIT_CODES[self]


EXIT_CODES: dict[Outcome, int] = {
    Outcome.FINISHED: 0,
    Outcome.ERROR: 1,
    Outcome.MAX_ITERATIONS: 3,
    Outcome.BUDGET: 4,
    Outcome.STUCK: 5,
    Outcome.WAITING: 6,
    Outcome.AUTHENTICATION: 7,
    Outcome.PROVIDER_UNAVAILABLE: 8,
    Outcome.UNKNOWN_ENDPOINT: 9,
    Outcome.TIMEOUT: 124,
    Outcome.INTERRUPTED: 130,
    Outcome.TERMINATED: 143,
}
USAGE_EXIT_CODE = 2

# MLflow's gateway: "Budget limit exceeded. Limit: $0.00 USD per 1 hour…". The others are what LiteLLM's proxy and the
# OpenAI API say of a spent budget or an account without credit; none of them is cured by asking again.
_BUDGET_WORDS = (
    "budget limit exceeded",
    "budget_exceeded",
    "budget has been exceeded",
    "insufficient_quota",
    "usage_limit_reached",
)
# The class names of openhands.sdk.llm.exceptions, litellm.exceptions, openai and httpx for "no answer to be had".
_UNAVAILABLE_CLASSES = frozenset(
    {
        "LLMServiceUnavailableError",
        "LLMTimeoutError",
        "LLMRateLimitError",
        "LLMNoResponseError",
        "APIConnectionError",
        "APITimeoutError",
        "BadGatewayError",
        "InternalServerError",
        "RateLimitError",
        "ServiceUnavailableError",
        "Timeout",
        "ConnectError",
        "ConnectTimeout",
        "ReadTimeout",
    }
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it carries as `original_exception`, and everything it was raised from, each once."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [getattr(current, "original_exception", None), current.__cause__, current.__context__]


def is_spent_budget(error: BaseException) -> bool:
    """Whether the error is the refusal of a spent budget."""
    text = str(error).lower()
    return any(words in text for words in _BUDGET_WORDS)


def status_code(error: BaseException) -> int | None:
    """The HTTP status that an SDK error carries, if it carries one."""
    status = getattr(error, "status_code", None)
    if isinstance(status, str) and status.isdigit():
        status = int(status)
    return status if isinstance(status, int) and 400 <= status < 600 else None


def outcome_of(error: BaseException) -> Outcome:
    """The outcome that an exception out of `Conversation.run` stands for."""
    chain = list(causes(error))
    if any(is_spent_budget(cause) for cause in chain):
        return Outcome.BUDGET
    names = {cls.__name__ for cause in chain for cls in type(cause).__mro__}
    statuses = {status for cause in chain if (status := status_code(cause)) is not None}
    # LiteLLM gives a refused connection the status 500 and a hopeless request 400, so names come before numbers.
    if statuses & {401, 403} or names & {
        "LLMAuthenticationError",
        "AuthenticationError",
        "PermissionDeniedError",
    }:
        return Outcome.AUTHENTICATION
    if 404 in statuses or "NotFoundError" in names:
        return Outcome.UNKNOWN_ENDPOINT
    if names & _UNAVAILABLE_CLASSES or any(status in {408, 429} or status >= 500 for status in statuses):
        return Outcome.PROVIDER_UNAVAILABLE
    return Outcome.ERROR


def detail_of(error: BaseException) -> str:
    """One line of what the provider or the SDK said, without the wrappers' prefixes; at most 600 characters."""
    innermost = error
    for cause in causes(error):
        if getattr(cause, "original_exception", None) is None:
            innermost = cause
            break
    text = re.sub(r"\s+", " ", str(innermost)).strip() or type(innermost).__name__
    text = re.sub(r"^(?:litellm\.)?(?:\w+(?:Error|Exception|Timeout): )+", "", text)
    text = re.sub(r"^(?:Litellm_proxyException|OpenAIException) - ", "", text)
    return text if len(text) <= 600 else text[:599] + "…"
