"""The web application: MLflow's own, under its authentication, with the gaps closed.

`create_app` is the factory that uvicorn calls in each worker.
"""

import logging

from starlette.middleware import Middleware

from paddock_mlflow import environment, exposure, proxies
from paddock_mlflow.compatibility import require_checked_release
from paddock_mlflow.settings import Settings, load

_logger = logging.getLogger(__name__)


def create_app() -> object:
    """The ASGI application of one worker."""
    settings = load()
    require_checked_release()

    from mlflow.server import auth

    from paddock_mlflow import (
        admin_api,
        artifacts,
        budgets,
        declared_prices,
        deleted_users,
        egress_api,
        listed_models,
        upstreams,
    )
    from paddock_mlflow.collected import CollectorMiddleware
    from paddock_mlflow.gateway import errors as gateway_errors
    from paddock_mlflow.gateway.middleware import GatewayMiddleware
    from paddock_mlflow.guardrails import configuration
    from paddock_mlflow.ingest import BodyLimitMiddleware, IngestMiddleware
    from paddock_mlflow.judges import run_judges
    from paddock_mlflow.ledger import open_ledger

    upstreams.allow(settings.private_upstreams)
    artifacts.register()
    configuration.register()
    budgets.install(settings)
    app = auth.create_app()
    gateway_errors.register(app)
    admin_api.register(app)
    egress_api.register(app)
    listed_models.register()
    run_judges.register()
    deleted_users.register(settings.tracking_database)
    declared_prices.Watch.of_environment(settings.tracking_database).start()
    # Appended, so inside MLflow's authentication: what a stranger sends is refused before it is parsed.
    app.user_middleware.append(Middleware(IngestMiddleware))
    app.add_middleware(gateway_errors.RefusalMiddleware)
    # Outside of MLflow's five layers, with those of its checks that it takes along.
    app.add_middleware(
        GatewayMiddleware,
        ledger=open_ledger(settings.tracking_database),
        database_url=settings.tracking_database,
        security=list(app.user_middleware),
    )
    # Outside of authentication too, which each part of what the collector brings passes in its own name.
    app.add_middleware(
        CollectorMiddleware,
        collector_key=settings.optional_secret("collector_key"),
        database_url=settings.tracking_database,
    )
    # An oversized body is refused before anything reads it.
    app.add_middleware(BodyLimitMiddleware, max_body_bytes=settings.max_trace_body_bytes)
    # Added last, so outermost: what the proxies add is seen by nobody else.
    app.add_middleware(proxies.ProxiesMiddleware, **proxies.middleware_arguments(settings))
    return app


def serve(settings: Settings) -> None:
    """Run uvicorn until SIGTERM or SIGINT.

    Raises:
        SettingsError: it must not be served like this; the text says why.
    """
    exposure.require_safe(settings)
    # Found out here rather than in each worker, where uvicorn would show a stack trace.
    proxies.middleware_arguments(settings)
    environment.export(settings)
    environment.export_web(settings)
    import uvicorn

    uvicorn.run(
        "paddock_mlflow.server:create_app",
        factory=True,
        host=settings.listen_host,
        port=settings.listen_port,
        workers=settings.workers if settings.workers > 1 else None,
        loop="uvloop",
        http="httptools",
        log_level="info",
        access_log=False,
        # Whose word for a client's address counts, `proxies` decides.
        proxy_headers=False,
        timeout_graceful_shutdown=20,
        # A worker that waits for a slow query must not be taken for dead (uvicorn's default is 5 s).
        timeout_worker_healthcheck=120,
    )
