"""Why there is no verdict.

PaddockError
├── UnknownJudge         no judge of that name in the experiment
├── NotJudgeable         what was asked about can't be judged at all
└── NoVerdict            a judge that looked, or was to, has none
    ├── UnusableJudge    it is registered and can't be called
    ├── BudgetSpent      the budget of its endpoint is spent
    ├── RateLimited      its endpoint takes no more calls for a while
    ├── ModelUnavailable its model does not answer
    ├── ModelRefused     its model refuses the call
    ├── BadVerdict       what it said is no verdict
    ├── ScorerFailed     its code threw
    ├── TraceUnreadable  the trace has no root, or can't be read
    └── Interrupted      its process ended each time
"""

from typing import ClassVar

from paddock_mlflow.errors import PaddockError


class UnknownJudge(PaddockError):
    """No judge of that name in the experiment."""


class NotJudgeable(PaddockError):
    """A trace that has not ended, or one that no judge may look at."""


class NoVerdict(PaddockError):
    """Base of what keeps a judge from a verdict."""

    code: ClassVar[str]
    """As MLflow shows it, in the assessment's error."""
    again: ClassVar[bool] = False
    """Whether another try can help."""
    status = 400
    """The nearest status of HTTP."""


class UnusableJudge(NoVerdict):
    """A judge that is registered and can't be called.

    Args:
        expected: what should have been so.
        found: what was so.
        remedy: what to do.
    """

    code = "JUDGE_UNUSABLE"

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, found {found}; {remedy}")
        self.expected = expected
        self.found = found
        self.remedy = remedy


class BudgetSpent(NoVerdict):
    """429 that a later call does not change until the budget's window ends."""

    code = "BUDGET_SPENT"
    status = 429


class RateLimited(NoVerdict):
    """429 with a time after which to ask again."""

    code = "RATE_LIMITED"
    again = True
    status = 429

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        """Seconds."""


class ModelUnavailable(NoVerdict):
    """5xx, a connection that fails, a time-out."""

    code = "MODEL_UNAVAILABLE"
    again = True

    def __init__(self, text: str, status: int = 503) -> None:
        super().__init__(text)
        self.status = status


class ModelRefused(NoVerdict):
    """Any other 4xx: the call is wrong, or not allowed."""

    code = "MODEL_REFUSED"

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class BadVerdict(NoVerdict):
    """Malformed JSON, or a value that is not in the judge's scale. A model may do better the next time."""

    code = "BAD_VERDICT"
    again = True


class ScorerFailed(NoVerdict):
    """The scorer's own code threw."""

    code = "SCORER_ERROR"


class TraceUnreadable(NoVerdict):
    """A trace without a root, or one that MLflow can't read."""

    code = "TRACE_UNREADABLE"


class Interrupted(NoVerdict):
    """Its process ended each time that it looked."""

    code = "INTERRUPTED"
