"""The two proxies of the stack in front of this server, and how it knows them: each adds a secret of its own.

The gate stands before agents. Only through it may a run's key be used, so that a key which leaves its container opens
nothing. The TLS proxy stands before people, and is the only one whose word for a client's address is taken. Addresses of
containers would prove neither: they change, and whoever is on the same network can take a free one.

Both secrets are files that are read again when they have changed, as the proxies do: a new one needs no restart.
"""

import hmac
import time
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from paddock_mlflow import exposure
from paddock_mlflow.errors import SettingsError
from paddock_mlflow.settings import Settings

GATE_HEADER = b"x-paddock-gate"
TLS_HEADER = b"x-paddock-tls"
_OURS = (GATE_HEADER, TLS_HEADER)

OVERLAP_SECONDS = 30.0
"""How long the secret before the present one is still taken: the two ends don't read the new one at the same moment."""


@dataclass(frozen=True)
class Origin:
    """Where a request came in. The default is what opens least."""

    opens_run_keys: bool = False
    """It came through the gate, or this stack has none and says so."""
    address: str = ""
    """The client's, as the server or the TLS proxy saw it."""
    local: bool = False
    """It came by the port that only this machine reaches."""


_NOWHERE = Origin()

ORIGIN: ContextVar[Origin] = ContextVar("paddock_origin", default=_NOWHERE)
"""Of the present request."""


class ProxySecret:
    """What one of the proxies adds to each request.

    Args:
        path: the file that holds it.

    Raises:
        SettingsError: the file is missing or empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = (0, 0)
        self._value = b""
        self._earlier = b""
        self._earlier_until = 0.0
        self._read()

    def accepts(self, value: bytes) -> bool:
        """Whether that is the secret, or until some seconds ago was. Takes as long for each value of a length."""
        self._read_again()
        present = hmac.compare_digest(value, self._value)
        earlier = hmac.compare_digest(value, self._earlier)
        return present or (earlier and bool(self._earlier) and time.monotonic() < self._earlier_until)

    def _read_again(self) -> None:
        # One call of the kernel a request. A file that is away or empty for a moment leaves things as they are.
        try:
            status = self._path.stat()
            if (status.st_ino, status.st_mtime_ns) != self._stamp:
                self._read()
        except (OSError, SettingsError):
            return

    def _read(self) -> None:
        try:
            status = self._path.stat()
            value = self._path.read_bytes()
        except OSError as error:
            raise self._missing(str(error.strerror)) from None
        if not value:
            raise self._missing("an empty file")
        if self._value and value != self._value:
            self._earlier, self._earlier_until = self._value, time.monotonic() + OVERLAP_SECONDS
        self._stamp, self._value = (status.st_ino, status.st_mtime_ns), value

    def _missing(self, found: str) -> SettingsError:
        return SettingsError(
            f"expected the proxy's secret at {self._path}, found: {found}; the one-shot service `secrets` makes it."
            " Where no gate stands before agents, as in the embedded stack, set RUN_KEYS_NEED_GATE=false"
        )


class ProxiesMiddleware:
    """Finds out where a request came in, and takes away what it is told by: nothing behind sees a secret of a proxy.

    Plain ASGI; goes outermost.

    Args:
        gate: None where no gate is needed for keys of runs.
        tls: None where there is no TLS proxy.
        on_loopback: whether the server's own port is published on loopback alone.
    """

    def __init__(
        self, app: ASGIApp, gate: ProxySecret | None, tls: ProxySecret | None, on_loopback: bool
    ) -> None:
        self._app = app
        self._gate = gate
        self._tls = tls
        self._on_loopback = on_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        at_gate = self._gate is None or _shows(headers, GATE_HEADER, self._gate)
        at_tls = self._tls is not None and _shows(headers, TLS_HEADER, self._tls)
        client = scope.get("client")
        address = client[0] if client else ""
        if at_tls and (forwarded := _last(headers, b"x-forwarded-for")):
            address = forwarded
            scope = {**scope, "client": (address, 0), "scheme": "https"}
        # Werkzeug takes an underscore for a dash.
        kept = [header for header in headers if header[0].lower().replace(b"_", b"-") not in _OURS]
        token = ORIGIN.set(Origin(at_gate, address, self._on_loopback and not at_tls))
        try:
            await self._app({**scope, "headers": kept}, receive, send)
        finally:
            ORIGIN.reset(token)


def middleware_arguments(settings: Settings) -> dict[str, ProxySecret | bool | None]:
    """The arguments of `ProxiesMiddleware`.

    Raises:
        SettingsError: run keys need the gate, and its secret is not there.
    """
    gate = ProxySecret(settings.secret_file("gate_secret")) if settings.run_keys_need_gate else None
    # A stack without that profile has the secret all the same: nobody adds it.
    path = settings.secret_file("tls_secret")
    return {
        "gate": gate,
        "tls": ProxySecret(path) if path.exists() else None,
        "on_loopback": exposure.is_loopback(settings.bind_address),
    }


def _shows(headers: list[tuple[bytes, bytes]], name: bytes, secret: ProxySecret) -> bool:
    """Whether the header is there once and is the secret."""
    values = [value for found, value in headers if found.lower() == name]
    return len(values) == 1 and secret.accepts(values[0])


def _last(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    """The last address in a list of them: the one that our own proxy wrote. What stands before it is a client's word."""
    values = [value for found, value in headers if found.lower() == name]
    return values[-1].decode("latin-1").rpartition(",")[2].strip() if values else ""
