"""The calls that judges make to the gateway: kept connections, bounded tries, and limits that hold for all of them.

Upstream opens a connection for each call, tries a failing model eleven times over about three minutes whatever it answers
(`mlflow.genai.judges.adapters.utils.send_chat_request`: 1+2+4+8+16+30+… s), takes a spent budget for a passing failure,
and does not look at Retry-After. Where `install` ran, judges of this process send by `Sender` instead.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import requests
from mlflow.genai.judges.adapters import gateway_adapter
from mlflow.genai.judges.adapters.utils import ChatCompletionError, is_context_window_error
from requests.adapters import HTTPAdapter

from paddock_mlflow.database import now
from paddock_mlflow.judges.errors import (
    BadVerdict,
    BudgetSpent,
    ModelRefused,
    ModelUnavailable,
    NoVerdict,
    RateLimited,
)
from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.pricing import Prices

_logger = logging.getLogger(__name__)

TRIES = 3
"""Of one call whose model does not answer; the judgment as a whole has tries of its own."""
WAIT_SECONDS = (1.0, 3.0)
LONGEST_WAIT_SECONDS = 10.0
"""A rate limit that ends sooner is waited for within the call; others send the judgment back to the queue."""
DEFAULT_RETRY_AFTER_SECONDS = 5.0
_CONNECTIONS = 64
_TEXT = 500


@dataclass
class Spending:
    """What the calls of one judgment came to."""

    endpoint: "Endpoint | None"
    cost_usd: Decimal | None = None
    priced: bool = True
    failure: NoVerdict | None = None
    """Why the last call gave nothing. Upstream wraps or swallows what is raised, so it is kept here."""

    def add(self, cost: Decimal | None) -> None:
        """Count a call; one without a price leaves the sum unknown."""
        self.priced = self.priced and cost is not None
        self.cost_usd = (self.cost_usd or Decimal(0)) + (cost or Decimal(0)) if self.priced else None


_spending: contextvars.ContextVar[Spending | None] = contextvars.ContextVar(
    "paddock_judge_spending", default=None
)


class Endpoint:
    """What this process knows of an endpoint that judges ask: until when it is better left alone, and why."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._until = 0.0
        self._why: NoVerdict | None = None
        self.closed_at = now()
        """When it was last closed."""

    def close(self, seconds: float, why: NoVerdict) -> None:
        """Leave it alone for so long; a longer pause that it is in stays."""
        with self._lock:
            until = time.monotonic() + seconds
            if until > self._until:
                self._until, self._why, self.closed_at = until, why, now()

    def open(self) -> None:
        """End a pause."""
        with self._lock:
            self._until = 0.0

    @property
    def closed(self) -> NoVerdict | None:
        """Why it is to be left alone; None where it may be asked."""
        with self._lock:
            return self._why if time.monotonic() < self._until else None

    @property
    def seconds_left(self) -> float:
        """Of the pause."""
        with self._lock:
            return max(0.0, self._until - time.monotonic())


class Endpoints:
    """Every endpoint that judges of this process asked."""

    def __init__(self) -> None:
        self._by_name: dict[str, Endpoint] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Endpoint:
        with self._lock:
            return self._by_name.setdefault(name, Endpoint(name))

    def all(self) -> list[Endpoint]:
        """Those that were asked."""
        with self._lock:
            return list(self._by_name.values())

    def closed(self) -> list[str]:
        """The names of those to be left alone now."""
        return [one.name for one in self.all() if one.closed]


class Sender:
    """Sends what a judge asks, in place of upstream's `send_chat_request`.

    Args:
        timeout_seconds: of one call.
        prices: those that the gateway charges by.
        budget_pause_seconds: how long an endpoint is left alone whose budget is spent.
        sleep: how to wait; it returns early, with true, where the process stops.
    """

    def __init__(
        self,
        timeout_seconds: float,
        prices: Prices,
        budget_pause_seconds: float,
        sleep: Callable[[float], bool],
    ) -> None:
        self._timeout = timeout_seconds
        self._prices = prices
        self._budget_pause = budget_pause_seconds
        self._sleep = sleep
        self._session = requests.Session()
        # Settings of a proxy or a netrc are for the Internet: the gateway is the stack's own.
        self._session.trust_env = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=_CONNECTIONS))

    def __call__(
        self, endpoint: str, headers: Mapping[str, str], payload: dict[str, Any], num_retries: int
    ) -> Any:
        """Send one request; the arguments are upstream's, of whose number of tries ours is the upper bound.

        Raises:
            ChatCompletionError: as upstream, with the answer's status.
        """
        spending = _spending.get() or Spending(None)
        tries = min(TRIES, 1 + num_retries)
        for attempt in range(tries):
            answer, failure = self._post(endpoint, headers, payload)
            if answer is not None:
                return self._read(answer, spending)
            assert failure is not None
            spending.failure = failure
            wait = self._wait(failure, attempt, spending.endpoint)
            if wait is None or attempt + 1 == tries or self._sleep(wait):
                text = str(failure)
                raise ChatCompletionError(failure.status, text, is_context_window_error(text))
        raise AssertionError("the last try raises")

    def _post(
        self, endpoint: str, headers: Mapping[str, str], payload: dict[str, Any]
    ) -> tuple[requests.Response | None, NoVerdict | None]:
        try:
            answer = self._session.post(endpoint, headers={**headers}, json=payload, timeout=self._timeout)
        except requests.Timeout:
            return None, ModelUnavailable(f"the judge's model did not answer within {self._timeout:g} s", 504)
        except requests.RequestException as error:
            return None, ModelUnavailable(f"the gateway did not answer: {error}")
        return (answer, None) if answer.ok else (None, self._failure(answer))

    def _wait(self, failure: NoVerdict, attempt: int, endpoint: Endpoint | None) -> float | None:
        """How long to wait for the next try, in seconds; None where it is not worth one."""
        if isinstance(failure, BudgetSpent):
            if endpoint is not None:
                endpoint.close(self._budget_pause, failure)
            return None
        if isinstance(failure, RateLimited):
            if endpoint is not None:
                endpoint.close(failure.retry_after, failure)
            return failure.retry_after if failure.retry_after <= LONGEST_WAIT_SECONDS else None
        if isinstance(failure, ModelRefused):
            return None
        return WAIT_SECONDS[min(attempt, len(WAIT_SECONDS) - 1)]

    def _read(self, answer: requests.Response, spending: Spending) -> Any:
        try:
            body = answer.json()
            usage = body.get("usage") or {}
        except (ValueError, AttributeError):
            failure = BadVerdict(f"the judge's model answered no JSON object: {answer.text[:_TEXT]}")
            spending.failure = failure
            raise ChatCompletionError(failure.status, str(failure)) from None
        spending.failure = None
        provider, _, model = answer.headers.get("x-paddock-model", "").partition("/")
        cost = self._prices.cost(provider, model, _usage(usage)) if model else None
        spending.add(cost.total if cost else None)
        return body

    @staticmethod
    def _failure(answer: requests.Response) -> NoVerdict:
        status = answer.status_code
        code, text = "", answer.text[:_TEXT]
        try:
            error = answer.json().get("error") or {}
            code, text = str(error.get("code") or ""), str(error.get("message") or text)[:_TEXT]
        except (ValueError, AttributeError):
            pass
        if status == 429:
            if code == "insufficient_quota" or answer.headers.get("x-should-retry") == "false":
                return BudgetSpent(text)
            return RateLimited(text, _seconds(answer.headers.get("retry-after")))
        if status >= 500 or status == 408:
            return ModelUnavailable(f"{status}: {text}", status)
        return ModelRefused(f"{status}: {text}", status)


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or ""), 0.1), 3600.0)
    except ValueError:
        return DEFAULT_RETRY_AFTER_SECONDS


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Of the chat protocol, whose prompt tokens have the cached ones in them."""

    def number(value: object) -> int:
        return value if isinstance(value, int) and value > 0 else 0

    details = usage.get("prompt_tokens_details")
    cached = number(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    return Usage(
        input=number(usage.get("prompt_tokens")),
        output=number(usage.get("completion_tokens")),
        cache_read=cached,
    )


def install(sender: Sender) -> None:
    """Let the judges of this process send by it."""
    vars(gateway_adapter)["send_chat_request"] = sender


def counted(spending: Spending, judge: Callable[[], Any]) -> Any:
    """What a judge says, with its calls counted. The judge's own threads are counted too: they take the context along."""
    token = _spending.set(spending)
    try:
        return judge()
    finally:
        _spending.reset(token)
