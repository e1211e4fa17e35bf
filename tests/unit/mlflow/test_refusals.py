"""What a refused call is told, in the words of each protocol: one status, one code and one message for each reason."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from paddock_mlflow.gateway import errors
from paddock_mlflow.ledger.types import Admission, Reason, Refused, UserCredential

ASKED = Admission(
    "c", UserCredential("ada"), "e-1", "coder", 100, Decimal("0.35"), 60, 1, unpriced="openai/mine"
)
RESETS = datetime(2026, 3, 10, tzinfo=UTC)
BUDGET = {
    "scope": "user ada",
    "limit": Decimal(5),
    "remaining": Decimal("0.20"),
    "period": "1 day",
    "resets_at": RESETS,
}

REFUSALS: dict[Reason, tuple[dict[str, Any], int, str, str, str | None]] = {
    Reason.UNKNOWN_KEY: ({}, 401, "invalid_api_key", "found none that the gateway knows", None),
    Reason.EXPIRED_KEY: ({"key_id": "pk_1"}, 401, "invalid_api_key", "found one that has expired: pk_1", None),
    Reason.REVOKED_KEY: ({"key_id": "pk_1"}, 401, "invalid_api_key", "found one that was revoked: pk_1", None),
    Reason.RUN_KEY_ELSEWHERE: ({"key_id": "pk_1"}, 403, "permission_denied", "found it elsewhere: pk_1", None),
    Reason.FORBIDDEN_ENDPOINT: ({}, 404, "endpoint_not_found", "does not exist or is closed to it", None),
    Reason.UNPRICED_MODEL: ({}, 403, "unpriced_model", "a price for the model 'mine' of openai", None),
    Reason.BUDGET_EXCEEDED: (
        BUDGET, 429, "insufficient_quota",
        "($5 per 1 day), found $4.8 spent and $0.2 left, where it may cost $0.35; it resets at 2026-03-10T00:00:00Z",
        None,
    ),
    Reason.BUDGET_RESERVED: (
        BUDGET | {"retry_after": 1.0}, 429, "rate_limit_exceeded", "found the rest held for calls in flight", "1"
    ),
    Reason.REQUEST_RATE: (
        {"scope": "key pk_1", "limit": Decimal(20), "retry_after": 2.1}, 429, "rate_limit_exceeded",
        "at most 20 requests a minute for key pk_1, found more; try again in 3 s", "3",
    ),
    Reason.TOKEN_RATE: (
        {"scope": "endpoint coder", "limit": Decimal(1000), "retry_after": 0.2}, 429, "rate_limit_exceeded",
        "at most 1000 tokens a minute for endpoint coder, found more; try again in 1 s", "1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_status_its_code_and_its_words(reason: Reason) -> None:
    given, status, code, says, retry_after = REFUSALS[reason]
    error = errors.refusal(Refused(reason, "ada", **given), ASKED)
    told = json.loads(error.render("openai_chat"))["error"]
    assert (error.status, told["code"], told["type"]) == (status, code, code)
    assert says in told["message"]
    # Rounded up: a client that obeys must not come too early.
    assert error.headers.get("Retry-After") == retry_after
    stops = reason not in (
        Reason.BUDGET_RESERVED,
        Reason.REQUEST_RATE,
        Reason.TOKEN_RATE,
        Reason.FORBIDDEN_ENDPOINT,
    )
    assert (error.headers.get("x-should-retry") == "false") == stops
    has_left = reason in (Reason.BUDGET_EXCEEDED, Reason.BUDGET_RESERVED)
    assert error.headers.get(errors.REMAINING_HEADER) == ("0.2" if has_left else None)


def test_a_budget_without_a_window_says_that_it_does_not_reset() -> None:
    refused = Refused(Reason.BUDGET_EXCEEDED, scope="key pk_1", limit=Decimal(1), remaining=Decimal(0))
    told = errors.refusal(refused, ASKED).message
    assert "the budget of key pk_1 ($1), found $1 spent and $0 left" in told
    assert "it does not reset by itself" in told


@pytest.mark.parametrize(
    ("reason", "anthropic", "google"),
    [
        (Reason.REVOKED_KEY, "invalid_api_key", "UNAUTHENTICATED"),
        (Reason.FORBIDDEN_ENDPOINT, "not_found_error", "NOT_FOUND"),
        (Reason.UNPRICED_MODEL, "permission_error", "PERMISSION_DENIED"),
        (Reason.BUDGET_EXCEEDED, "insufficient_quota", "RESOURCE_EXHAUSTED"),
        (Reason.REQUEST_RATE, "rate_limit_exceeded", "RESOURCE_EXHAUSTED"),
    ],
)
def test_the_same_in_other_protocols(reason: Reason, anthropic: str, google: str) -> None:
    given, status, code, says, _ = REFUSALS[reason]
    error = errors.refusal(Refused(reason, "ada", **given), ASKED)
    told = json.loads(error.render("anthropic_messages"))
    assert (told["type"], told["error"]["type"]) == ("error", anthropic)
    assert says in told["error"]["message"]
    told = json.loads(error.render("gemini"))["error"]
    assert (told["code"], told["status"], told["reason"]) == (status, google, code)
    assert says in told["message"]
