"""One run, from the command to its verdicts.

    python3 bench/run.py [RUNS]        three by default; medians

To the first model request: from the command's start to the start of the first model span. Imports: what an agent's
container takes to import OpenHands, on its own. Trace visible and verdicts: from the run's end (the end of its root span)
to the first answer of the REST API that holds them, asked every 50 ms.
"""

import base64
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

from stack import ROOT, TASK, Project, project, seconds, table

JUDGES = {"conduct", "relevance_to_query", "tool_call_efficiency"}
DEADLINE_SECONDS = 180


class Api:
    """MLflow's REST API, as its administrator."""

    def __init__(self, stack: Project) -> None:
        told = stack.paddock("password")
        self._url = told["url"]
        self._authorization = (
            "Basic " + base64.b64encode(f"{told['user']}:{told['password']}".encode()).decode()
        )

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            self._url + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def experiment_id(self) -> str:
        path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=agents"
        return self.call(path)["experiment"]["experiment_id"]

    def traces(self, experiment_id: str) -> list[dict[str, Any]]:
        location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
        return self.call("/api/3.0/mlflow/traces/search", {"locations": [location], "max_results": 100}).get(
            "traces", []
        )

    def spans(self, trace_id: str) -> list[dict[str, Any]]:
        return self.call(f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace_id}")["spans"]


class Watch(threading.Thread):
    """Notes when the first trace that was not there before is finished, and when its verdicts are."""

    def __init__(self, api: Api, experiment_id: str) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._experiment_id = experiment_id
        self._known = {trace["trace_id"] for trace in api.traces(experiment_id)}
        self.trace_id = ""
        self.visible = self.judged = 0.0

    def run(self) -> None:
        deadline = time.time() + DEADLINE_SECONDS
        while time.time() < deadline and not self.judged:
            for trace in self._api.traces(self._experiment_id):
                if trace["trace_id"] in self._known or trace["state"] == "IN_PROGRESS":
                    continue
                self.trace_id = trace["trace_id"]
                self.visible = self.visible or time.time()
                if {one["assessment_name"] for one in trace.get("assessments", [])} >= JUDGES:
                    self.judged = time.time()
            time.sleep(0.05)


def measure(stack: Project, api: Api, experiment_id: str) -> dict[str, float]:
    """Seconds of one run's parts."""
    watch = Watch(api, experiment_id)
    watch.start()
    start = time.time()
    document = stack.paddock("run", TASK, "--workspace", str(stack.workspace()), "--judge-timeout", "0")
    done = time.time()
    watch.join(DEADLINE_SECONDS)
    if not watch.judged:
        sys.exit(f"bench: no verdicts on {watch.trace_id or 'any new trace'} in {DEADLINE_SECONDS} s")
    spans = api.spans(watch.trace_id)
    models = [span for span in spans if span["name"] == "litellm.completion"]
    end = max(int(span["end_time_unix_nano"]) for span in spans) / 1e9
    return {
        "first model request": min(int(span["start_time_unix_nano"]) for span in models) / 1e9 - start,
        "whole command": done - start,
        "agent": document["run"]["seconds"],
        "visible": watch.visible - end,
        "judged": watch.judged - end,
    }


def imports() -> float:
    """Seconds that Python in an agent's container takes to import OpenHands."""
    code = (
        "import time; t = time.perf_counter(); import openhands.sdk, openhands.tools.terminal, "
        "openhands.tools.file_editor, openhands.tools.task_tracker; print(time.perf_counter() - t)"
    )
    command = [
        "docker",
        "compose",
        "--profile",
        "agent",
        "run",
        "--rm",
        "--no-deps",
        "-T",
        "agent",
        "exec",
        "python",
    ]
    told = subprocess.run(
        [*command, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=stack_variables
    ).stdout
    return float(told.strip().splitlines()[-1])


stack_variables: dict[str, str] = {}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with project() as stack:
        stack.paddock("up", "--no-build")
        stack_variables.update(stack.variables)
        api = Api(stack)
        experiment_id = api.experiment_id()
        measured = [measure(stack, api, experiment_id) for _ in range(count)]
        importing = statistics.median(imports() for _ in range(count))
    median = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
    share = importing / median["first model request"]
    table(
        f"A run (median of {count})",
        ["what", "time"],
        [
            ["from `run` to the first model request", seconds(median["first model request"])],
            ["… of which imports", f"{seconds(importing)} ({share:.0%})"],
            ["the whole command, without waiting for judges", seconds(median["whole command"])],
            ["from the run's end to its trace visible", seconds(max(0.0, median["visible"]))],
            ["from the run's end to all three verdicts visible", seconds(median["judged"])],
        ],
    )


if __name__ == "__main__":
    main()
