"""What the job process does for the ledger every second or two."""

import logging
import time

from sqlalchemy import text

from paddock_mlflow.database import engine
from paddock_mlflow.ledger.sqlite import Book

_logger = logging.getLogger(__name__)

FORGET_SECONDS = 3600.0


class Sweep:
    """Charges calls of dead servers, and forgets old windows.

    Args:
        url: SQLAlchemy's URL of the tracking database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._book = Book(url) if url.startswith("sqlite") else None
        self._forgot = float("-inf")

    def tick(self) -> int:
        """Charge every call whose lease has run out its bound; returns how many there were."""
        expired = 0
        while found := self._expire():
            expired += found
        if expired:
            _logger.warning("%d call(s) never ended; charged what was reserved for them", expired)
        if time.monotonic() - self._forgot > FORGET_SECONDS:
            self._forget()
            self._forgot = time.monotonic()
        return expired

    def _expire(self) -> int:
        return self._book.expire() if self._book else self._call("paddock_expire")

    def _forget(self) -> int:
        return self._book.forget_windows() if self._book else self._call("paddock_forget_windows")

    def _call(self, function: str) -> int:
        with engine(self._url).begin() as connection:
            return int(connection.execute(text(f"SELECT {function}()")).scalar_one())
