"""What can become of a judgment."""

from enum import StrEnum


class State(StrEnum):
    """Of a row of `paddock_judgments`."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    """It has its verdict."""
    FAILED = "failed"
    """The judge could not say; the assessment and the row have its message."""
    SAMPLED_OUT = "sampled_out"
    FILTERED = "filtered"
    """Excluded by the judge's filter."""
    NO_EXPECTATION = "no_expectation"
    """The judge compares with an expectation, and there is none. One that comes later is enough."""
    BUDGET = "budget"
    """The budget of the judge's endpoint is spent. It is tried again for as long as its trace is new."""
    TOO_LARGE = "too_large"
    """The trace is larger than a judge may be given."""


PASSED_OVER = (State.SAMPLED_OUT, State.FILTERED, State.NO_EXPECTATION, State.BUDGET, State.TOO_LARGE)
"""States without an assessment: their reasons stand on the trace, in a tag."""


class Origin(StrEnum):
    """Who wants it judged."""

    ONLINE = "online"
    ASKED = "asked"


class Level(StrEnum):
    """What a judge looks at."""

    TRACE = "trace"
    SESSION = "session"
