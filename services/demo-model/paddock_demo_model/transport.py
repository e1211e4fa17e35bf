"""An HTTP protocol whose connections can be reset, for scenarios that play a provider's crash."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

RESET = "paddock.reset"
CLOSE = "paddock.close"


class ResettableProtocol(H11Protocol):
    """uvicorn's h11 protocol; adds to ``scope["extensions"]`` functions that end the connection.

    ``paddock.reset`` resets it, ``paddock.close`` closes it without another word.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        inner: Callable[..., Awaitable[None]] = self.app

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {}).update({RESET: self._reset, CLOSE: self._close})
            await inner(scope, receive, send)

        self.app = app

    def _close(self) -> None:
        """Close the socket: the peer sees its end (FIN)."""
        self.transport.abort()

    def _reset(self) -> None:
        """Close the socket so that the peer gets a TCP RST instead of an answer."""
        transport: asyncio.Transport = self.transport
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Linger on with zero seconds: close() discards what is unsent and sends RST (socket(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
