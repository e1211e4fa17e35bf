"""What MLflow has of a suite run: a run with one nested in it for each attempt, their traces, and the suite as a dataset.

The suite run's own MLflow run is an evaluation run over its traces, as `mlflow.genai.evaluate` leaves one: the page shows
the assessments that the traces have already, so no judge is asked, or paid, a second time. See docs/decisions.md.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from paddock_cli import mlflow_runs
from paddock_cli.mlflow_api import EXPECTATION, Mlflow
from paddock_cli.mlflow_runs import Run
from paddock_cli.suites.attempts import EVENTS, LOG, PATCH
from paddock_cli.suites.definitions import Suite
from paddock_cli.suites.journal import Plan
from paddock_cli.suites.model import Task
from paddock_cli.suites.results import Attempt, SuiteRun
from paddock_cli.suites.store import LABEL_TAG, RESULTS, RUN_TAG, SUITE_TAG

ATTEMPT_TAG = "paddock.run_id"
_DATASETS = "/api/3.0/mlflow/datasets"
_EVALUATION = {"mlflow.runType": "genai_evaluate"}
"""What MLflow's page of evaluation runs knows them by (mlflow.utils.mlflow_tags)."""
_PAGE = 1000


class Records:
    """The records of one suite run."""

    def __init__(self, server: Mlflow, suite: Suite, plan: Plan) -> None:
        self._server = server
        self._suite = suite
        self._plan = plan
        self.experiment_id = server.experiment_id()
        self.parent = self._begun()

    @property
    def url(self) -> str:
        """The page of the suite run."""
        return mlflow_runs.link(self._server, self.parent)

    def attempt(self, attempt: Attempt, folder: Path) -> str:
        """Record an attempt that has ended, once. Returns the id of its MLflow run."""
        assert attempt.run_id is not None
        found = mlflow_runs.search(
            self._server, self.experiment_id, f"tags.`{ATTEMPT_TAG}` = '{attempt.run_id}'"
        )
        run = found[0] if found else self._nested(attempt)
        mlflow_runs.log(
            self._server,
            run.run_id,
            metrics=_metrics_of(attempt),
            tags={"paddock.state": attempt.state, "paddock.outcome": attempt.outcome or "none"},
        )
        for name in (PATCH, EVENTS, LOG):
            if (folder / name).exists():
                mlflow_runs.put(self._server, run, name, (folder / name).read_bytes())
        checks = [check.model_dump(mode="json") for check in attempt.checks]
        mlflow_runs.put(self._server, run, "checks.json", _document(checks))
        mlflow_runs.put(self._server, run, RESULTS, _document(attempt.model_dump(mode="json")))
        if attempt.trace_id is not None and attempt.trace_url:
            for owner in (run, self.parent):
                mlflow_runs.link_traces(self._server, owner.run_id, [attempt.trace_id])
        mlflow_runs.end(self._server, run.run_id, "FINISHED" if attempt.state == "done" else "FAILED")
        return run.run_id

    def judged(self, attempt: Attempt) -> None:
        """Add what the judges said of an attempt that is recorded."""
        if attempt.mlflow_run_id is None:
            return
        verdicts = {
            f"judge {_metric_name(name)}": float(judge.passed)
            for name, judge in attempt.judges.items()
            if judge.passed is not None
        }
        mlflow_runs.log(self._server, attempt.mlflow_run_id, metrics=verdicts)
        run = mlflow_runs.get(self._server, attempt.mlflow_run_id)
        mlflow_runs.put(self._server, run, RESULTS, _document(attempt.model_dump(mode="json")))

    def results(self, results: SuiteRun) -> None:
        """Keep the document of the suite run, as far as it has come."""
        mlflow_runs.put(
            self._server, self.parent, RESULTS, (results.model_dump_json(indent=2) + "\n").encode()
        )

    def close(self, results: SuiteRun) -> None:
        """The figures of the suite run over its attempts, and its end."""
        mlflow_runs.log(self._server, self.parent.run_id, metrics=_summary(results.attempts))
        self.results(results)
        mlflow_runs.end(self._server, self.parent.run_id, "FINISHED" if results.complete else "KILLED")

    def dataset(self) -> None:
        """The suite as an evaluation dataset: a record for each task, those of tasks that are gone or changed removed."""
        name = f"suite {self._suite.file.name}"
        body = {"experiment_ids": [self.experiment_id], "filter_string": f"name = '{name}'"}
        found = self._server.call("POST", f"{_DATASETS}/search", json=body).get("datasets", [])
        if not found:
            wanted = {
                "name": name,
                "experiment_ids": [self.experiment_id],
                "tags": json.dumps({SUITE_TAG: self._suite.file.name}),
            }
            found = [self._server.call("POST", f"{_DATASETS}/create", json=wanted)["dataset"]]
        dataset_id = found[0]["dataset_id"]
        address = f"{_DATASETS}/{dataset_id}/records"
        there = self._records(address)
        records = [_record(self._suite, task) for task in self._suite.file.tasks]
        stale = [
            one["dataset_record_id"]
            for one in there
            if (one.get("tags") or {}).get(SUITE_TAG) == self._suite.file.name
            and not any(_same(one, record) for record in records)
        ]
        if stale:
            self._server.call("DELETE", address, json={"dataset_record_ids": stale})
        new = [record for record in records if not any(_same(one, record) for one in there)]
        if new:
            self._server.call("POST", address, json={"records": json.dumps(new)})
        self._use(found[0], name)

    def _records(self, address: str) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        token = ""
        while True:
            query = {"max_results": _PAGE} | ({"page_token": token} if token else {})
            answer = self._server.call("GET", address, params=query)
            records += json.loads(answer.get("records") or "[]")
            token = answer.get("next_page_token", "")
            if not token:
                return records

    def _use(self, dataset: Mapping[str, Any], name: str) -> None:
        """Tell which dataset the suite run was made with, as `evaluate` does."""
        used = {
            "name": name,
            "digest": self._plan.sha256[:8],
            "source_type": "mlflow_evaluation_dataset",
            "source": json.dumps({"dataset_id": dataset["dataset_id"]}),
        }
        body = {"run_id": self.parent.run_id, "datasets": [{"dataset": used}]}
        self._server.call("POST", f"{mlflow_runs.RUNS}/log-inputs", json=body)

    def _begun(self) -> Run:
        plan = self._plan
        found = mlflow_runs.search(self._server, self.experiment_id, f"tags.`{RUN_TAG}` = '{plan.id}'")
        if found:
            return found[0]
        tags = {RUN_TAG: plan.id, SUITE_TAG: plan.suite, "mlflow.user": plan.user, **_EVALUATION}
        tags |= {LABEL_TAG: plan.label} if plan.label else {}
        run = mlflow_runs.create(self._server, self.experiment_id, plan.id, tags)
        parameters = {
            "suite": plan.suite,
            "suite_sha256": plan.sha256,
            "tasks": len(plan.tasks),
            "endpoints": ",".join(plan.endpoints),
            "repeat": plan.repeat,
            "parallel": plan.parallel,
            "budget_usd": plan.budget_usd or "none",
            "stack": plan.stack,
        }
        mlflow_runs.log(self._server, run.run_id, parameters=parameters)
        return run

    def _nested(self, attempt: Attempt) -> Run:
        name = f"{attempt.task} {attempt.endpoint} {attempt.repeat}"
        tags = {
            "mlflow.parentRunId": self.parent.run_id,
            "mlflow.user": self._plan.user,
            ATTEMPT_TAG: str(attempt.run_id),
            SUITE_TAG: self._plan.suite,
            "paddock.suite_run_of": self._plan.id,
        }
        run = mlflow_runs.create(self._server, self.experiment_id, name, tags)
        limits = self._suite.limits(next(one for one in self._suite.file.tasks if one.id == attempt.task))
        parameters = {
            "task": attempt.task,
            "endpoint": attempt.endpoint,
            "model": attempt.model or "unknown",
            "repeat": attempt.repeat,
            "difficulty": attempt.difficulty or "none",
            "tags": ",".join(attempt.tags) or "none",
            **limits.model_dump(mode="json", exclude_none=True),
        }
        mlflow_runs.log(self._server, run.run_id, parameters=parameters)
        return run


def _document(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _metrics_of(attempt: Attempt) -> dict[str, float | None]:
    failed = sum(not check.passed for check in attempt.checks)
    return {
        "passed": float(attempt.passed),
        "error": float(attempt.state == "error"),
        "checks": len(attempt.checks),
        "checks_failed": failed,
        "cost_usd": attempt.cost_usd,
        "seconds": attempt.seconds,
        "steps": attempt.steps,
        "input_tokens": attempt.tokens.input,
        "cached_input_tokens": attempt.tokens.cached_input,
        "output_tokens": attempt.tokens.output,
    }


def _summary(attempts: Sequence[Attempt]) -> dict[str, float | None]:
    """The suite run's figures; `…/mean` as `evaluate` names them. Attempts in error are no failures of the model."""
    done = [one for one in attempts if one.state == "done"]
    costs = [one.cost_usd for one in attempts if one.cost_usd is not None]
    values: dict[str, list[float]] = defaultdict(list)
    for one in done:
        values["passed"].append(float(one.passed))
        for check in one.checks:
            values["checks"].append(float(check.passed))
        for name, judge in one.judges.items():
            if judge.passed is not None:
                values[name].append(float(judge.passed))
    return {
        **{f"{_metric_name(name)}/mean": fmean(given) for name, given in values.items()},
        "pass_rate": fmean(values["passed"]) if done else None,
        "attempts": len(attempts),
        "attempts_in_error": len(attempts) - len(done),
        "cost_usd": sum(costs) if costs else None,
        "seconds": sum(one.seconds for one in attempts),
        "input_tokens": sum(one.tokens.input for one in attempts),
        "output_tokens": sum(one.tokens.output for one in attempts),
    }


def _metric_name(name: str) -> str:
    """A judge's name in the characters that MLflow takes in the name of a metric."""
    return "".join(one if one.isalnum() or one in "_-. " else "_" for one in name)[:200]


def _record(suite: Suite, task: Task) -> dict[str, Any]:
    expected: dict[str, Any] = {"checks": [check.name for check in task.checks]}
    if task.expect:
        expected[EXPECTATION] = list(task.expect)
    return {
        "inputs": {"task": task.id, "prompt": task.prompt.strip()},
        "expectations": expected,
        "tags": {
            SUITE_TAG: suite.file.name,
            "tags": ",".join(task.tags),
            "difficulty": str(task.difficulty or ""),
        },
    }


def _same(there: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    return all(
        (there.get(name) or {}) == (record.get(name) or {}) for name in ("inputs", "expectations", "tags")
    )
