"""The exceptions of the declared configuration.

ConfigError
├── InvalidConfiguration  the file, with every problem found in it
├── Refused               the server refused a request, or did not answer
├── Conflict              what the server has can't be brought to what the file says
└── Incomplete            an apply stopped in the middle; what was done and what was not
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from paddock_mlflow.errors import PaddockError


class ConfigError(PaddockError):
    pass


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with a file. `line` and `column` count from 1; 0 where the whole file is meant."""

    line: int
    column: int
    path: str
    """The field, like `endpoints.coder.fallbacks[1]`."""
    expected: str
    found: str
    remedy: str

    def text(self, file: str) -> str:
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        field = f" {self.path}:" if self.path else ""
        return f"{place}:{field} expected {self.expected}, found {self.found}; {self.remedy}"

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class InvalidConfiguration(ConfigError):
    """Every problem of a file.

    Args:
        file: its name, as a user would write it.
        problems: in the order of their lines.
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(problem.text(file) for problem in self.problems))


class Refused(ConfigError):
    """The server refused a request; `status` is 0 where it did not answer at all."""

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        self.status = status
        self.message = message
        what = str(status) if status else "no answer"
        super().__init__(f"expected {method} {path} to succeed, found {what}: {message}")


class Conflict(ConfigError):
    """What the server has can't be brought to what the file says. Nothing was written."""


class Incomplete(ConfigError):
    """An apply stopped in the middle: what it had done stays, and the next apply goes on from there.

    Args:
        done: the changes that were made, in words.
        failed: the change that was refused.
        left: the changes that were not tried.
        cause: the refusal.
    """

    def __init__(self, done: Sequence[str], failed: str, left: Sequence[str], cause: Exception) -> None:
        self.done = tuple(done)
        self.failed = failed
        self.left = tuple(left)
        self.cause = str(cause)
        super().__init__(
            f"expected {len(done) + 1 + len(left)} changes, found that {len(done)} were made, then `{failed}` failed:"
            f" {cause}; mend what it names and apply again: what is done stays done"
        )
