"""Kept-alive connections to model providers, for our own requests and for those of MLflow's provider classes.

MLflow opens a session, and so a TCP and TLS connection, for every model call (mlflow/gateway/providers/utils.py,
`_aiohttp_post`). Here two sessions serve a worker: one whose connector lets only public addresses through, for endpoints
whose address somebody could write into a secret, and one for addresses that are in MLflow's own code.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from fastapi import HTTPException
from mlflow.environment_variables import (
    MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS,
    MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS,
)
from mlflow.gateway import ssrf
from mlflow.gateway.providers import utils as provider_utils
from mlflow.utils.uri import append_to_uri_path

CONNECT_SECONDS = 10.0
"""A host that does not take connections is given up long before a model that thinks."""

KEEP_ALIVE_SECONDS = 60.0
MAX_CONNECTIONS = 1024
READ_BUFFER_BYTES = 2**20
"""As upstream: some providers send events of hundreds of kilobytes."""


def call_seconds() -> float:
    """How long one attempt may take, its stream included (MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS)."""
    return float(MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS.get())


stock_post = provider_utils._aiohttp_post
"""MLflow's own, before `share`."""


def timeout() -> aiohttp.ClientTimeout:
    """The limits of one attempt."""
    return aiohttp.ClientTimeout(total=call_seconds(), sock_connect=CONNECT_SECONDS)


class Connections:
    """The sessions of one event loop, opened at their first use."""

    def __init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def are_of_this_loop(self) -> bool:
        """Whether the sessions are of the event loop that asks: they can't be used in another one."""
        return self._loop is asyncio.get_running_loop()

    def session(self, guarded: bool) -> aiohttp.ClientSession:
        """
        Args:
            guarded: whether only public addresses may be connected to.
        """
        guarded = guarded and not MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS.get()
        session = self._sessions.get(guarded)
        if session is None or session.closed:
            self.use_here()
            session = self._sessions[guarded] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=ssrf.SSRFGuardedResolver() if guarded else None,
                    limit=MAX_CONNECTIONS,
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                ),
                # Providers' cookies of one caller are no business of the next.
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER_BYTES,
                headers={"Accept-Encoding": provider_utils.SUPPORTED_ACCEPT_ENCODING},
            )
        return session

    def use_here(self) -> None:
        """Let MLflow's provider classes use the sessions in the event loop that calls this."""
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Close what is open; calls in flight break."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def share(connections: Connections) -> None:
    """Let MLflow's provider classes use the same sessions."""

    @asynccontextmanager
    async def post(
        headers: dict[str, str],
        base_url: str,
        path: str,
        payload: dict[str, Any],
        *,
        ssrf_protect: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if not connections.are_of_this_loop:
            # A judge in a thread, with an event loop for a single call.
            async with stock_post(headers, base_url, path, payload, ssrf_protect=ssrf_protect) as response:
                yield response
            return
        url = append_to_uri_path(base_url, path)
        guarded = ssrf_protect and ssrf.upstream_protection_enabled()
        try:
            if guarded:
                ssrf.assert_public_upstream_url(url)
            stripped = provider_utils._STRIPPED_HEADERS
            sent = {name: value for name, value in headers.items() if name.lower() not in stripped}
            sent["Content-Type"] = "application/json"
            async with connections.session(guarded).post(
                url, data=orjson.dumps(payload), headers=sent, allow_redirects=False, timeout=timeout()
            ) as response:
                yield response
        except ssrf.GatewaySSRFProtectionError as error:
            raise HTTPException(status_code=502, detail=str(error)) from error

    provider_utils._aiohttp_post = post
