"""What the ledger raises."""

from paddock_mlflow.errors import PaddockError


class LedgerUnavailable(PaddockError):
    """The database did not answer: nothing was decided, and the call may not be made."""
