"""What the database decided, in the words of the interface."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from paddock_mlflow.ledger.types import Admission, Admitted, Reason, Refused, StaleConfiguration

NEVER = 9999
"""The year in which a budget without a window ends."""

RESERVED_RETRY_SECONDS = 1.0
"""When to try again where only calls in flight stand in the way."""

BUDGETS = (Reason.BUDGET_EXCEEDED, Reason.BUDGET_RESERVED)
RATES = (Reason.REQUEST_RATE, Reason.TOKEN_RATE)


@dataclass
class Verdict:
    """The result of `paddock_admit` and of `paddock_extend`; fields are explained in functions.sql."""

    verdict: str
    version: int = 0
    username: str = ""
    key_id: str | None = None
    run_id: str | None = None
    subject: str | None = None
    amount: Decimal | None = None
    remaining: Decimal | None = None
    unit: str | None = None
    count: int | None = None
    resets_at: datetime | None = None
    retry_after: float | None = None
    moment: datetime | None = None
    some_expired: bool = False


def answer(verdict: Verdict, admission: Admission) -> Admitted | Refused | StaleConfiguration:
    """The interface's answer to an admission."""
    if verdict.verdict == "admitted":
        return Admitted(verdict.username, verdict.key_id, verdict.run_id, verdict.remaining)
    if verdict.verdict == "stale":
        return StaleConfiguration(verdict.version)
    return refusal(verdict, admission.endpoint_name, admission.unpriced)


def refusal(verdict: Verdict, endpoint_name: str, unpriced: str = "") -> Refused:
    """The interface's words for a verdict that is a `Reason`."""
    if verdict.verdict == "gone":
        return Refused(Reason.BUDGET_EXCEEDED, verdict.username or "", detail="the call's lease has run out")
    reason = Reason(verdict.verdict)
    resets_at = verdict.resets_at if verdict.resets_at and verdict.resets_at.year < NEVER else None
    retry_after = verdict.retry_after
    if reason is Reason.BUDGET_RESERVED:
        retry_after = RESERVED_RETRY_SECONDS
    elif reason is Reason.BUDGET_EXCEEDED and resets_at and verdict.moment:
        retry_after = max((resets_at - verdict.moment).total_seconds(), 0.0)
    detail = ""
    if reason in (Reason.EXPIRED_KEY, Reason.REVOKED_KEY) and verdict.moment:
        detail = f"{verdict.moment:%Y-%m-%dT%H:%M:%SZ}"
    elif reason is Reason.UNPRICED_MODEL:
        detail = unpriced
    return Refused(
        reason,
        username=verdict.username or "",
        key_id=verdict.key_id,
        scope=_scope(verdict.subject, endpoint_name),
        limit=verdict.amount,
        remaining=verdict.remaining,
        period=_period(verdict.unit, verdict.count) if reason in BUDGETS else "1 minute" * (reason in RATES),
        resets_at=resets_at,
        retry_after=retry_after,
        detail=detail,
    )


def _scope(subject: str | None, endpoint_name: str) -> str:
    if not subject:
        return ""
    kind, _, target = subject.partition(":")
    if kind == "all":
        return "all calls"
    return f"{kind} {endpoint_name if kind == 'endpoint' else target}"


def _period(unit: str | None, count: int | None) -> str:
    if not unit or not count:
        return ""
    word = unit.lower().removesuffix("s")
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
