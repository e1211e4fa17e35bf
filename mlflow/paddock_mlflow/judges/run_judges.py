"""*Run judges* of the UI, and whoever else calls MLflow's `scorer/invoke`: its own job, with our judges and our calls.

Upstream's job makes the scorer from what its handler was sent, without the fence around what is judged and the answers
that the file allows, and tries a failing model for three minutes. Here the same job runs with the judge as `registry`
knows it, in a process of MLflow's job runner. The web application submits it in the place of upstream's.
"""

import json
import threading
from typing import Any

from mlflow.environment_variables import MLFLOW_SERVER_JUDGE_INVOKE_MAX_WORKERS
from mlflow.genai.scorers import Scorer
from mlflow.genai.scorers import job as upstream
from mlflow.server.jobs import job

from paddock_mlflow import settings
from paddock_mlflow.environment import RUN_JUDGES_JOB
from paddock_mlflow.judges import calls, fenced
from paddock_mlflow.judges.registry import Judges
from paddock_mlflow.judges.work import BUDGET_PAUSE_SECONDS
from paddock_mlflow.pricing import Prices

_stock = upstream.invoke_scorer_job


@job(name=RUN_JUDGES_JOB, max_workers=MLFLOW_SERVER_JUDGE_INVOKE_MAX_WORKERS.get())
def invoke(
    experiment_id: str,
    serialized_scorer: str,
    trace_ids: list[str],
    log_assessments: bool = True,
    username: str | None = None,
    scorer_version: int | None = None,
) -> dict[str, Any]:
    """As upstream's `invoke_scorer_job`, in a process of its own: arguments and result are the same."""
    given = settings.load()
    calls.install(
        calls.Sender(
            timeout_seconds=given.judge_call_seconds,
            prices=Prices.of_environment(),
            budget_pause_seconds=BUDGET_PAUSE_SECONDS,
            sleep=threading.Event().wait,
        )
    )

    class Ours:
        """What upstream's job makes its scorer by."""

        @staticmethod
        def model_validate_json(text: str) -> Scorer:
            return scorer_of(given.tracking_database, experiment_id, text)

    vars(upstream)["Scorer"] = Ours
    result: dict[str, Any] = _stock(
        experiment_id, serialized_scorer, trace_ids, log_assessments, username, scorer_version
    )
    return result


def scorer_of(database_url: str, experiment_id: str, serialized: str) -> Scorer:
    """The judge of that name where it is registered so; another one as it stands, in its fence.

    Raises:
        UnusableJudge: it can't be called; the text says why.
    """
    name = str(json.loads(serialized).get("name"))
    for judge in Judges(database_url).of_experiment(experiment_id):
        if judge.name == name and judge.serialized and _same(judge.serialized, serialized):
            return judge.scorer()
    return fenced.fenced(Scorer.model_validate_json(serialized))


def _same(one: str, other: str) -> bool:
    return bool(json.loads(one) == json.loads(other))


def register() -> None:
    """Let MLflow's handler submit our job. For the web application."""
    vars(upstream)["invoke_scorer_job"] = invoke
