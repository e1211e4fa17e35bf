"""What was asked, kept for tests: the last calls, within a bound on their number and size."""

import time
from collections import deque
from typing import Any


class Recorder:
    """Keeps at most ``max_calls`` calls and ``max_bytes`` of their bodies, oldest out first."""

    def __init__(self, max_calls: int = 1000, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._calls: deque[tuple[int, dict[str, Any]]] = deque()
        self._bytes = 0

    def add(self, *, size: int, **call: Any) -> dict[str, Any]:
        """Keep a call whose body has ``size`` bytes; returns its record, which may be completed later."""
        record = {"at": time.time(), **call}
        self._calls.append((size, record))
        self._bytes += size
        while self._calls and (len(self._calls) > self._max_calls or self._bytes > self._max_bytes):
            self._bytes -= self._calls.popleft()[0]
        return record

    def calls(self) -> list[dict[str, Any]]:
        """The calls, oldest first."""
        return [record for _, record in self._calls]

    def clear(self) -> None:
        """Forget all calls."""
        self._calls.clear()
        self._bytes = 0
