"""Judging by several processes at once, and by one that is killed."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judging_made import Bench, PlayedGateway, Reply, played_gateway, verdict
from postgres import ROOT
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

PROCESS = Path(__file__).with_name("judging_process.py")
PASSED_ON = ("PATH", "HOME", "MLFLOW_MODEL_CATALOG_URI", "MLFLOW_GENAI_JUDGE_DEFAULT_MODEL")
TRACES = 24

eventually = retry(
    retry=retry_if_exception_type(AssertionError),
    stop=stop_after_delay(60),
    wait=wait_fixed(0.1),
    reraise=True,
)


class Process:
    """One that judges."""

    def __init__(self, bench: Bench, gateway: PlayedGateway, lease: float) -> None:
        environment = {
            "MLFLOW_GATEWAY_URI": gateway.url,
            "MLFLOW_TRACKING_USERNAME": "judge",
            "MLFLOW_TRACKING_PASSWORD": "internal",
        }
        given = {"url": bench.url, "lease": lease, "environment": environment}
        self.process = subprocess.Popen(
            [sys.executable, str(PROCESS), json.dumps(given)],
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ}
            | {"PYTHONPATH": str(ROOT / "mlflow")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.communicate(timeout=30)


@pytest.fixture
def gateway() -> Iterator[PlayedGateway]:
    with played_gateway() as made:
        yield made


def test_a_killed_process_s_judgments_are_taken_up_and_given_once(
    server: Any, postgres_url: str, gateway: PlayedGateway
) -> None:
    """Two processes on one database, each with four judges in the middle of their calls, of which one is killed."""
    from mlflow.genai.scorers import RelevanceToQuery, Safety

    bench = Bench(postgres_url)
    experiment = bench.experiment()
    for scorer in (RelevanceToQuery(model="gateway:/judge"), Safety(model="gateway:/judge")):
        bench.register(experiment, scorer)
    traces = [bench.trace(experiment) for _ in range(TRACES)]
    release = threading.Event()
    gateway.answer = lambda _: Reply(**vars(verdict()) | {"hold": release})
    first, second = Process(bench, gateway, lease=2.0), Process(bench, gateway, lease=2.0)
    try:
        for process in (first, second):
            process.wait()

        @eventually
        def both_in_the_middle() -> None:
            assert gateway.at_once == 8

        both_in_the_middle()
        first.kill()
        release.set()

        @eventually
        def judged() -> None:
            assert list(bench.states(experiment).values()) == ["done"] * (2 * TRACES)

        judged()
    finally:
        release.set()
        for process in (first, second):
            process.end()

    for trace in traces:
        found = bench.assessments(trace, valid=False)
        assert [one.name for one in found] == ["relevance_to_query", "safety"]
    attempts = [row["attempts"] for row in bench.rows(experiment).values()]
    # Those that the killed one held were tried twice.
    assert attempts.count(2) >= 4
    assert max(attempts) == 2
