"""The job process: runs what the UI's *Run judges* and the judging of new traces submit, and writes usage traces.

`mlflow server` starts a launcher, a runner, and a process for periodic tasks beside the web application. Here the
runner is a service of its own, which leaves web replicas stateless, and the periodic tasks are threads in it.
Exactly one may run: on its start it takes over the jobs that its predecessor left unfinished. (Judging by itself may run
in several: a judgment belongs to one of them at a time, `judges.queue`.)
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from paddock_mlflow import environment
from paddock_mlflow.settings import Settings

_logger = logging.getLogger(__name__)

CODE_INTERVAL_SECONDS = 2.0
ADMISSION_INTERVAL_SECONDS = 1.0
JUDGE_INTERVAL_SECONDS = 0.5
ARCHIVE_INTERVAL_SECONDS = 60.0
LEASE_INTERVAL_SECONDS = 1.0
ALERT_INTERVAL_SECONDS = 2.0
USAGE_INTERVAL_SECONDS = 0.5
RETRY_SECONDS = 2.0
"""At least so long after a failure: a database that is away should not fill the log."""
HEARTBEAT_ENV = "HEARTBEAT_FILE"


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    environment.export(settings)
    os.environ |= {
        # Job code reaches the store directly; judges reach the model by the gateway, over HTTP.
        "MLFLOW_TRACKING_URI": settings.tracking_database,
        # What _job_runner's children watch: they end when this process is gone.
        "MLFLOW_SERVER_PID": str(os.getpid()),
        "MLFLOW_SERVER_UP_TIME": str(int(time.time() * 1000)),
        # Online judges call the gateway in this name (upstream sends no name and is refused, facts in docs).
        "MLFLOW_TRACKING_USERNAME": settings.judge_user,
        "MLFLOW_TRACKING_PASSWORD": settings.secret("internal_token"),
        # An alert fires once: it must see a webhook that was made a moment ago.
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    }
    from mlflow.server.handlers import _get_model_registry_store, _get_tracking_store
    from mlflow.server.jobs._executor_runner import _select_executor, run_executor_loop

    from paddock_mlflow import declared_prices
    from paddock_mlflow.budgets import AlertTick
    from paddock_mlflow.judges.code import CodeCheck
    from paddock_mlflow.judges.service import Judging
    from paddock_mlflow.ledger.sweep import Sweep
    from paddock_mlflow.usage_traces import UsageTraces

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    store = _get_tracking_store()
    judging = Judging(store, settings, stop)
    usage = UsageTraces(settings.tracking_database)
    if again := usage.recover():
        _logger.info("%d record(s) without a usage trace were set aside; trying them again", again)
    alerts = AlertTick(settings.tracking_database, _get_model_registry_store())
    for name, tick, interval in (
        (
            "code-judges",
            CodeCheck(settings.tracking_database, settings.judges_code).tick,
            CODE_INTERVAL_SECONDS,
        ),
        ("admit-judgments", judging.admission.tick, ADMISSION_INTERVAL_SECONDS),
        ("judge", judging.work.tick, JUDGE_INTERVAL_SECONDS),
        ("renew-judgments", judging.work.renew, settings.judge_lease_seconds / 3),
        ("usage-traces", usage.tick, USAGE_INTERVAL_SECONDS),
        ("expire-leases", Sweep(settings.tracking_database).tick, LEASE_INTERVAL_SECONDS),
        ("budget-alerts", alerts.tick, ALERT_INTERVAL_SECONDS),
        (
            "declared-prices",
            declared_prices.Watch.of_environment(settings.tracking_database).look,
            declared_prices.LOOK_SECONDS,
        ),
        ("archive-traces", _archival_tick(store), ARCHIVE_INTERVAL_SECONDS),
    ):
        threading.Thread(target=_repeat, args=(name, tick, interval, stop), name=name, daemon=True).start()

    executor = _select_executor()
    executor.start_executor()
    _logger.info("ready")
    try:
        run_executor_loop(executor, stop)
    finally:
        judging.work.close()
        executor.stop_executor()


def _repeat(name: str, tick: Callable[[], object], interval: float, stop: threading.Event) -> None:
    heartbeat = Path(os.environ.get(HEARTBEAT_ENV, "/tmp/paddock-jobs"))
    while not stop.is_set():
        try:
            tick()
            heartbeat.touch()
        except Exception:
            # A thread that dies would leave traces unjudged in silence; the stale heartbeat tells the healthcheck.
            pause = max(interval, RETRY_SECONDS)
            _logger.exception("%s failed; trying again in %g s", name, pause)
            stop.wait(pause)
            continue
        stop.wait(interval)


def _archival_tick(store: object) -> Callable[[], object]:
    """Upstream's archival of old traces, which does nothing unless MLFLOW_TRACE_ARCHIVAL_CONFIG is set."""
    from mlflow.server.jobs import utils

    def tick() -> None:
        settings = utils._get_trace_archival_scheduler_settings()
        if settings is not None and utils._should_run_trace_archival_scheduler(settings.interval_seconds):
            utils._run_trace_archival_scheduler(store, settings=settings)

    return tick
