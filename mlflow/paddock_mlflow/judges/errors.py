"""Why a judge can't judge."""

from paddock_mlflow.errors import PaddockError


class UnusableJudge(PaddockError):
    """A judge that is registered and can't be called.

    Args:
        expected: what should have been so.
        found: what was so.
        remedy: what to do.
    """

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, found {found}; {remedy}")
        self.expected = expected
        self.found = found
        self.remedy = remedy


class UnknownJudge(PaddockError):
    """No judge of that name in the experiment."""
