"""The way into the gateway: model calls are taken out of the request path before MLflow's own middlewares.

MLflow puts five layers of Starlette's BaseHTTPMiddleware around its handlers, each a task and two queues a request. Its
checks of Host and Origin stay: they are plain ASGI, and are put around this handler as MLflow put them around its own.
"""

import logging

from mlflow.environment_variables import MLFLOW_ENABLE_AI_GATEWAY
from mlflow.gateway.constants import GATEWAY_DISABLED_MESSAGE
from mlflow.server import fastapi_security
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddock_mlflow import guardrails
from paddock_mlflow.gateway import connections as connections_module
from paddock_mlflow.gateway import routes
from paddock_mlflow.gateway.callers import Callers
from paddock_mlflow.gateway.calls import Calls
from paddock_mlflow.gateway.connections import Connections
from paddock_mlflow.gateway.endpoints import Endpoints
from paddock_mlflow.gateway.errors import GatewayError
from paddock_mlflow.ledger.types import Ledger
from paddock_mlflow.pricing import Prices

_logger = logging.getLogger(__name__)

_SECURITY = (
    fastapi_security.HostValidationMiddleware,
    fastapi_security.SecurityHeadersMiddleware,
    fastapi_security.CORSBlockingMiddleware,
    CORSMiddleware,
)


class GatewayMiddleware:
    """Plain ASGI. Goes outside of everything of MLflow's.

    Args:
        security: the application's middlewares, of which MLflow's checks are taken.
        ledger: opened in this worker; closed at the application's shutdown.
        database_url: SQLAlchemy's URL of the tracking database.
    """

    def __init__(
        self,
        app: ASGIApp,
        ledger: Ledger,
        database_url: str,
        security: list[Middleware],
        prices: Prices | None = None,
    ) -> None:
        self._app = app
        self._ledger = ledger
        self._connections = Connections()
        connections_module.share(self._connections)
        self._calls = Calls(
            ledger,
            Endpoints(ledger, guardrails.load),
            self._connections,
            prices or Prices.of_environment(),
            Callers(database_url),
        )
        guarded: ASGIApp = self._serve
        for middleware in reversed(security):
            if middleware.cls in _SECURITY:
                guarded = middleware.cls(guarded, *middleware.args, **middleware.kwargs)
        self._guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
        elif (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"].startswith("/gateway/")
            and (match := routes.match(scope["path"])) is not None
        ):
            await self._guarded({**scope, "paddock.route": match}, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        match: routes.Match = scope["paddock.route"]
        if not MLFLOW_ENABLE_AI_GATEWAY.get():
            error = GatewayError(501, "gateway_disabled", GATEWAY_DISABLED_MESSAGE)
            body = error.render(match.route.protocol)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._calls.serve(match, scope, receive, send)

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._connections.close()
                await self._ledger.close()
            await send(message)

        return closing
