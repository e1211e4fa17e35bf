"""What can be wrong with `egress.yaml`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with a file. `line` and `column` count from 1; 0 where the whole file is meant."""

    line: int
    column: int
    path: str
    """The field, like `services.git.paths[1]`."""
    expected: str
    found: str
    remedy: str

    def text(self, file: str) -> str:
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        field = f" {self.path}:" if self.path else ""
        return f"{place}:{field} expected {self.expected}, found {self.found}; {self.remedy}"

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class InvalidConfiguration(Exception):
    """Every problem of a file.

    Args:
        file: its name, as a user would write it.
        problems: in the order of their lines.
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(problem.text(file) for problem in self.problems))
