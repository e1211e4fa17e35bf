"""Finished traces are judged by themselves: each one once, soon after its end, and never before it.

Upstream counts from a trace's *start* (`OnlineTraceCheckpointManager`): a run longer than its buffer is judged
half-done or never, and a run that was abandoned gets a verdict on nothing. Here a trace is taken when its state is no
longer IN_PROGRESS. The scorers, their sampling rates and filters are MLflow's own, as started from its UI or API.
"""

import json
import logging
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mlflow.entities import AssessmentError, AssessmentSource, AssessmentSourceType, Feedback
from mlflow.entities.trace_state import TraceState
from mlflow.genai.scorers.base import Scorer
from mlflow.genai.scorers.job import invoke_scorer_job
from mlflow.genai.scorers.online.constants import EXCLUDE_EVAL_RUN_TRACES_FILTER
from mlflow.genai.scorers.online.entities import OnlineScorer
from mlflow.genai.scorers.online.sampler import OnlineScorerSampler
from mlflow.server.handlers import _get_tracking_store
from mlflow.server.jobs import job, submit_job
from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from paddock_mlflow.database import engine, judged_traces, now
from paddock_mlflow.environment import JUDGE_JOB

_logger = logging.getLogger(__name__)

LOOK_BACK_SECONDS = 3600
"""A trace that ended longer ago is not judged by itself, as upstream: starting a scorer does not judge history."""

SETTLE_SECONDS = 1.0
"""Rest after a trace's end, in which a batch that was overtaken by the one with the root span can still arrive."""

MAX_TRACES_A_JOB = 20


@dataclass(frozen=True)
class Finished:
    """A finished trace that no judge has seen."""

    trace_id: str
    experiment_id: str


@job(name=JUDGE_JOB, max_workers=2)
def judge_trace(experiment_id: str, tasks: list[dict[str, Any]], username: str) -> dict[str, Any]:
    """Run scorers over traces, in a process of MLflow's job runner.

    Args:
        experiment_id: where the traces are.
        tasks: each `{"scorer": serialized scorer, "version": int, "trace_ids": [...]}`.
        username: the MLflow user in whose name the judges call the gateway.

    Returns:
        Trace id → list of results as MLflow's own `invoke_scorer_job` gives them.
    """
    results: dict[str, list[Any]] = defaultdict(list)
    with ThreadPoolExecutor(max_workers=max(1, len(tasks)), thread_name_prefix="judge") as pool:
        for task_results in pool.map(lambda task: _run(experiment_id, task, username), tasks):
            for trace_id, result in task_results.items():
                results[trace_id].append(result)
    return dict(results)


def _run(experiment_id: str, task: dict[str, Any], username: str) -> dict[str, Any]:
    """One scorer over its traces. A trace that gets no verdict gets an assessment that says why."""
    try:
        results = invoke_scorer_job(
            experiment_id=experiment_id,
            serialized_scorer=task["scorer"],
            trace_ids=task["trace_ids"],
            log_assessments=True,
            username=username,
            scorer_version=task["version"],
        )
    except Exception as error:
        _logger.exception("a judge failed on %d trace(s)", len(task["trace_ids"]))
        failure = {"error_code": type(error).__name__, "error_message": str(error)}
        results = {trace_id: {"assessments": [], "failures": [failure]} for trace_id in task["trace_ids"]}
    name = json.loads(task["scorer"])["name"]
    for trace_id, result in results.items():
        # Upstream stores the error of a scorer that answered with one, and drops that of a scorer that broke.
        if result["failures"] and not result["assessments"]:
            _store_failure(trace_id, name, result["failures"][0])
    return results


def _store_failure(trace_id: str, scorer_name: str, failure: dict[str, str]) -> None:
    _get_tracking_store().create_assessment(
        Feedback(
            name=scorer_name,
            trace_id=trace_id,
            source=AssessmentSource(source_type=AssessmentSourceType.LLM_JUDGE, source_id=scorer_name),
            error=AssessmentError(error_code=failure["error_code"], error_message=failure["error_message"]),
        )
    )


class TraceJudging:
    """Hands finished traces to the started scorers of their experiment."""

    def __init__(self, store: SqlAlchemyStore, database_url: str, judge_user: str) -> None:
        self._store = store
        self._engine = engine(database_url)
        self._judge_user = judge_user

    def recover(self) -> int:
        """Let go of traces that a predecessor claimed and did not live to submit; for the start of the only judge.

        Returns:
            How many there were.
        """
        claimed = delete(judged_traces).where(judged_traces.c.job_id.is_(None), judged_traces.c.note == "")
        with self._engine.begin() as connection:
            return connection.execute(claimed).rowcount

    def tick(self) -> int:
        """Submit what has finished since the last call.

        Returns:
            How many traces were taken.
        """
        scorers = self._scorers_by_experiment()
        taken = 0
        for experiment_id, group in scorers.items():
            waiting = [trace for trace in self._finished(experiment_id) if self._take(trace)]
            if waiting:
                self._submit(experiment_id, group, [trace.trace_id for trace in waiting])
                taken += len(waiting)
        return taken

    def _scorers_by_experiment(self) -> dict[str, list[OnlineScorer]]:
        groups: dict[str, list[OnlineScorer]] = defaultdict(list)
        for scorer in self._store.get_active_online_scorers():
            if not _is_session_level(scorer):
                groups[scorer.online_config.experiment_id].append(scorer)
        return groups

    def _finished(self, experiment_id: str) -> list[Finished]:
        current_ms = int(time.time() * 1000)
        ended_ms = SqlTraceInfo.timestamp_ms + SqlTraceInfo.execution_time_ms
        query = (
            select(SqlTraceInfo.request_id)
            .outerjoin(judged_traces, judged_traces.c.trace_id == SqlTraceInfo.request_id)
            .where(
                SqlTraceInfo.experiment_id == int(experiment_id),
                SqlTraceInfo.status.in_([TraceState.OK.value, TraceState.ERROR.value]),
                judged_traces.c.trace_id.is_(None),
                ended_ms >= current_ms - LOOK_BACK_SECONDS * 1000,
                ended_ms <= current_ms - SETTLE_SECONDS * 1000,
            )
            .order_by(SqlTraceInfo.timestamp_ms)
            .limit(MAX_TRACES_A_JOB)
        )
        with self._engine.connect() as connection:
            return [Finished(trace_id, experiment_id) for (trace_id,) in connection.execute(query)]

    def _take(self, trace: Finished) -> bool:
        """Claim a trace. Of two processes that try at once, the primary key lets one win."""
        row = {
            "trace_id": trace.trace_id,
            "experiment_id": trace.experiment_id,
            "taken_at": now(),
            "note": "",
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(judged_traces).values(**row))
        except IntegrityError:
            return False
        return True

    def _submit(self, experiment_id: str, scorers: list[OnlineScorer], trace_ids: list[str]) -> None:
        sampler = OnlineScorerSampler(scorers)
        by_scorer: dict[str, list[str]] = defaultdict(list)
        for filter_string, group in sampler.group_scorers_by_filter(session_level=False).items():
            for trace_id in self._matching(experiment_id, trace_ids, filter_string):
                for selected in sampler.sample(trace_id, group):
                    by_scorer[selected.name].append(trace_id)
        if not by_scorer:
            self._note(trace_ids, None, "sampled out, or excluded by every scorer's filter")
            return
        online = {scorer.name: scorer for scorer in scorers}
        tasks = [
            {
                "scorer": online[name].serialized_scorer,
                "version": online[name].scorer_version,
                "trace_ids": ids,
            }
            for name, ids in by_scorer.items()
        ]
        submitted = submit_job(
            judge_trace,
            {"experiment_id": experiment_id, "tasks": tasks, "username": self._judge_user},
            creator=self._judge_user,
        )
        self._note(trace_ids, submitted.job_id, "")
        _logger.info(
            "job %s judges %d trace(s) by %s", submitted.job_id, len(trace_ids), ", ".join(by_scorer)
        )

    def _matching(self, experiment_id: str, trace_ids: list[str], filter_string: str | None) -> list[str]:
        conditions = [EXCLUDE_EVAL_RUN_TRACES_FILTER, *([filter_string] if filter_string else [])]
        matching: list[str] = []
        for trace_id in trace_ids:
            found, _ = self._store.search_traces(
                experiment_ids=[experiment_id],
                filter_string=" AND ".join([f"trace.request_id = '{trace_id}'", *conditions]),
                max_results=1,
            )
            matching.extend(info.trace_id for info in found)
        return matching

    def _note(self, trace_ids: list[str], job_id: str | None, note: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                update(judged_traces)
                .where(judged_traces.c.trace_id.in_(trace_ids))
                .values(job_id=job_id, note=note)
            )


class SessionJudging:
    """Submits upstream's own job for session-level scorers, as upstream's periodic process would."""

    def __init__(self, store: SqlAlchemyStore) -> None:
        self._store = store

    def tick(self) -> int:
        """Submit a job for each experiment with a started session-level scorer; returns how many."""
        from dataclasses import asdict

        from mlflow.genai.scorers.job import run_online_session_scorer_job

        groups: dict[str, list[OnlineScorer]] = defaultdict(list)
        for scorer in self._store.get_active_online_scorers():
            if _is_session_level(scorer):
                groups[scorer.online_config.experiment_id].append(scorer)
        for experiment_id, scorers in groups.items():
            submit_job(
                run_online_session_scorer_job,
                {"experiment_id": experiment_id, "online_scorers": [asdict(scorer) for scorer in scorers]},
            )
        return len(groups)


def _is_session_level(scorer: OnlineScorer) -> bool:
    return Scorer.model_validate(json.loads(scorer.serialized_scorer)).is_session_level_scorer
