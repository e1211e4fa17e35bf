"""What calls came to, on its way into the database: written in batches, and kept until it is written.

While one batch is being written the next one gathers, so a lone call waits for nobody and many share a transaction.
A database that is away delays settlements; nobody who waits for an answer of a model waits for it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from paddock_mlflow.ledger.errors import LedgerUnavailable
from paddock_mlflow.ledger.types import Settlement

_logger = logging.getLogger(__name__)

BATCH = 64
RETRY_SECONDS = 1.0
KEPT = 20_000
"""How many are kept while the database is away. What does not fit is charged its bound, at its lease's end."""

_DROPPED = "call %s could not be settled; it is charged its bound when its lease ends"

Write = Callable[[Sequence[Settlement]], Awaitable[None]]


class Settlements:
    """The queue of one event loop.

    Args:
        write: brings a batch into the database, or raises `LedgerUnavailable` and changes nothing.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: deque[tuple[Settlement, asyncio.Future[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def add(self, settlement: Settlement) -> None:
        """Return when it is written, or when the database proved to be away and it is kept for later.

        Raises:
            LedgerUnavailable: too many are kept already.
        """
        await asyncio.shield(self.add_later(settlement))

    def add_later(self, settlement: Settlement) -> asyncio.Future[None]:
        """Queue it, without waiting."""
        if len(self._waiting) >= KEPT:
            raise LedgerUnavailable(
                f"expected the ledger's database to answer, found it away for {KEPT} settlements;"
                " the call is charged its bound when its lease ends; bring PostgreSQL back"
            )
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((settlement, written))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="paddock-settlements")
        return written

    async def close(self, timeout_seconds: float) -> None:
        """Write what is waiting, for so long as the database takes, but no longer than the timeout."""
        self._closing = True
        if self._task is None:
            return
        try:
            await asyncio.wait_for(asyncio.shield(self._task), timeout_seconds)
        except TimeoutError:
            self._task.cancel()
            _logger.error(
                "%d settlement(s) could not be written; their calls are charged their bounds",
                len(self._waiting),
            )

    async def _drain(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await self._write([settlement for settlement, _ in batch])
            except LedgerUnavailable as error:
                self._keep(batch, error)
                await asyncio.sleep(RETRY_SECONDS)
            except asyncio.CancelledError:
                self._waiting.extendleft(reversed(batch))
                raise
            except Exception:
                # One that can't be written must not hold up the others.
                if len(batch) > 1:
                    for item in batch:
                        await self._alone(*item)
                else:
                    _logger.exception(_DROPPED, batch[0][0].call_id)
                    _done(batch[0][1])
            else:
                for _, written in batch:
                    _done(written)

    async def _alone(self, settlement: Settlement, written: asyncio.Future[None]) -> None:
        try:
            await self._write([settlement])
        except LedgerUnavailable as error:
            self._keep([(settlement, written)], error)
        except Exception:
            _logger.exception(_DROPPED, settlement.call_id)
            _done(written)
        else:
            _done(written)

    def _keep(self, batch: list[tuple[Settlement, asyncio.Future[None]]], error: LedgerUnavailable) -> None:
        if any(not written.done() for _, written in batch):
            _logger.warning("%d settlement(s) wait for the database: %s", len(batch), error)
        for _, written in batch:
            _done(written)
        self._waiting.extendleft(reversed(batch))


def _done(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)
