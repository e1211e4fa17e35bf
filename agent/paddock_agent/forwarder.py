"""A proxy on loopback that hands everything on to the egress proxy, with the run's key as password.

`python -m paddock_agent.forwarder HOST:PORT LISTEN`, the key on standard input. The programs that an agent starts find
this one under `http_proxy` and need no password: what they print or log can't hold it. It understands no more of HTTP
than where a request's head ends; what may pass is decided at the other end.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import signal
import sys

PORT = 3128
READY = b"ready"
MAX_HEAD_BYTES = 32 * 1024
_HEAD_SECONDS = 30
_CHUNK = 64 * 1024
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_HEAD_END = b"\r\n\r\n"
_BROKEN = b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def with_key(head: bytes, key: str) -> bytes:
    """The head of a request with the key as the proxy's password, in place of what stands there."""
    lines = head.removesuffix(_HEAD_END).split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith(b"proxy-authorization:")]
    password = base64.b64encode(f"run:{key}".encode())
    return b"\r\n".join([kept[0], b"Proxy-Authorization: Basic " + password, *kept[1:]]) + _HEAD_END


class Forwarder:
    """Serves connections, each with one request: the egress proxy keeps none open for a second."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host = host
        self._port = port
        self._key = key

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its first byte to its end."""
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(_HEAD_END)
            try:
                far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                writer.write(_BROKEN)
                return
            try:
                far_writer.write(with_key(head, self._key))
                await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))
            finally:
                far_writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Somebody hung up, or sent no request.
            pass
        finally:
            with contextlib.suppress(OSError):
                writer.close()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        # One side broke off: so does the other.
        sink.transport.abort()
        raise


async def run(host: str, port: int, key: str, listen: int = PORT) -> None:
    """Serve on loopback for ever; says on standard output when it listens."""
    forwarder = Forwarder(host, port, key)
    server = await asyncio.start_server(forwarder.serve, "127.0.0.1", listen, limit=MAX_HEAD_BYTES)
    sys.stdout.buffer.write(READY + b"\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Take address and port from the command line, and the key from standard input."""
    host, _, port = sys.argv[1].rpartition(":")
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # From here on other processes of this user read neither memory nor environment.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    key = sys.stdin.readline().strip()
    asyncio.run(run(host, int(port), key, int(sys.argv[2])))


if __name__ == "__main__":
    main()
