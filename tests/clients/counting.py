"""A relay before the gateway that counts a client's requests, whatever library sends them."""

import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlparse


class CountingRelay:
    """Passes bytes on between `url` and a server, and notes when each POST came. A context manager."""

    def __init__(self, server: str) -> None:
        parts = urlparse(server)
        self._server = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.posts: list[float] = []
        """When each request came (time.monotonic)."""

    def __enter__(self) -> "CountingRelay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for source, target, counts in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=(source, target, counts), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                # A client waits for its answer before it sends the next request, so one begins its own piece.
                if counts and data.startswith(b"POST "):
                    self.posts.append(time.monotonic())
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
