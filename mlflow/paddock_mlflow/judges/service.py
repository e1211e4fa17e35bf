"""Judging as the job process runs it."""

import threading

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from paddock_mlflow.judges import calls
from paddock_mlflow.judges.admission import Admission
from paddock_mlflow.judges.work import BUDGET_PAUSE_SECONDS, Limits, Work
from paddock_mlflow.pricing import Prices
from paddock_mlflow.settings import Settings


class Judging:
    """What admits to the queue and what works it off, with the judges' calls sent by `calls.Sender`.

    Args:
        store: of MLflow.
        settings: of this process.
        stop: set when it is to end.
    """

    def __init__(self, store: SqlAlchemyStore, settings: Settings, stop: threading.Event) -> None:
        url = settings.tracking_database
        calls.install(
            calls.Sender(
                timeout_seconds=settings.judge_call_seconds,
                prices=Prices.of_environment(),
                budget_pause_seconds=BUDGET_PAUSE_SECONDS,
                sleep=stop.wait,
            )
        )
        self.admission = Admission(store, url, settings.judge_session_idle_seconds)
        limits = Limits(
            settings.judge_parallelism, settings.judge_max_trace_bytes, settings.judge_lease_seconds
        )
        self.work = Work(store, url, limits, stop, settings.judges_code)
