"""What the plain ASGI middlewares of this package share: reading a body, giving it again, holding an answer back."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooLong(Exception):
    """A body is longer than its limit."""


class Disconnected(Exception):
    """The client went away before its body was complete: there is nobody to answer."""


async def read(receive: Receive, max_bytes: int | None = None) -> bytes:
    """The whole body.

    Raises:
        TooLong: it has more than `max_bytes`.
        Disconnected: it never came to its end.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if max_bytes is not None and len(body) > max_bytes:
            raise TooLong
        if not message.get("more_body", False):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, and then what `receive` gives."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


@dataclass
class Answer:
    """An application's answer, held back until it is known: `take` is its `send`."""

    messages: list[Message] = field(default_factory=list)

    async def take(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        """The HTTP status; 0 where the application sent none."""
        return next((int(m["status"]) for m in self.messages if m["type"] == "http.response.start"), 0)

    def text(self) -> str:
        """The body, as text."""
        parts = (m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")
        return b"".join(parts).decode(errors="replace")
