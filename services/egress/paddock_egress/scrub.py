"""Takes a secret out of what comes back, whatever the server does with it: an answer that repeats its request would
otherwise hand the agent what it must not hold."""

from collections.abc import Iterable


class Scrubber:
    """Replaces secrets in a stream by asterisks of the same length, also where one is split over two pieces."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._needles = sorted({secret.encode() for secret in secrets if secret}, key=len, reverse=True)
        self._held = b""

    def text(self, text: str) -> str:
        """A text that is there as a whole."""
        return self._replaced(text.encode("latin-1", "replace")).decode("latin-1")

    def feed(self, data: bytes) -> bytes:
        """What may go on of a stream; what could be the beginning of a secret waits for the rest."""
        data = self._replaced(self._held + data)
        keep = max((_overlap(data, needle) for needle in self._needles), default=0)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def end(self) -> bytes:
        """What waited."""
        held, self._held = self._held, b""
        return held

    def _replaced(self, data: bytes) -> bytes:
        for needle in self._needles:
            data = data.replace(needle, b"*" * len(needle))
        return data


def _overlap(data: bytes, needle: bytes) -> int:
    """How many bytes at the end of data are the beginning of the needle."""
    for size in range(min(len(needle) - 1, len(data)), 0, -1):
        if needle.startswith(data[-size:]):
            return size
    return 0
