"""Keys, budgets and rates, decided in the database that all servers share."""

from paddock_mlflow.ledger.errors import LedgerUnavailable
from paddock_mlflow.ledger.types import Ledger

__all__ = ["Ledger", "LedgerUnavailable", "open_ledger"]


def open_ledger(url: str) -> Ledger:
    """The ledger in a tracking database.

    It connects at its first use, in the event loop that uses it: open one in each worker process, and close it there.

    Args:
        url: SQLAlchemy's URL of the tracking database, `sqlite:///…` or `postgresql+psycopg2://…`.
    """
    if url.startswith("sqlite"):
        from paddock_mlflow.ledger.sqlite import SqliteLedger

        return SqliteLedger(url)
    from paddock_mlflow.ledger.postgres import PostgresLedger

    return PostgresLedger(url)
