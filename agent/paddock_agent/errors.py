"""What can go wrong before or beside a run.

Exception
└── AgentRunnerError
    ├── UsageError          the caller's mistake: exit code 2
    └── BudgetExhausted     the gateway refused a call because a budget is spent
BaseException
└── RunStopped              a signal, the wall clock or a missing MCP server ended the run
"""

from __future__ import annotations

from .outcomes import Outcome


class AgentRunnerError(Exception):
    """Base of the runner's own errors; its text says what was expected, what was found and what to do."""


class UsageError(AgentRunnerError):
    """A setting, a flag or a file that the caller gave can't be used."""


class BudgetExhausted(AgentRunnerError):
    """The gateway refused a call because a budget policy's limit is reached. Asking again can't help."""


class RunStopped(BaseException):
    """Ends a run from inside the SDK. Not an `Exception`, so that no retry loop or tool swallows it."""

    def __init__(self, outcome: Outcome, message: str | None = None) -> None:
        super().__init__(message or outcome.value)
        self.outcome = outcome
        self.message = message
