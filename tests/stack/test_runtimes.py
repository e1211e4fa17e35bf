"""AGENT_RUNTIME: a run in a runtime that is not named runc, and the refusal of one that the engine does not have.

gVisor itself can't be tested where only runc is installed. What a runtime with a network stack of its own needs is: names
that resolve without the engine's name server.
"""

import json
import signal
import subprocess
from pathlib import Path

from cases import TASK, Product, eventually, lines_of

OTHER = "io.containerd.runc.v2"
"""The engine's second name for the same program, so it is there wherever an engine is."""


def test_a_run_in_another_runtime_finds_the_stack_without_a_name_server(
    product: Product, tmp_path: Path
) -> None:
    other = Product("compose", product.env | {"AGENT_RUNTIME": OTHER}, product.model_url)
    endpoint = product.scenario("long-run")
    call = other.start("run", TASK, "--endpoint", endpoint, "--json", cwd=tmp_path)
    try:
        eventually(lambda: lines_of(tmp_path / "steps.log"), 90, "a step")
        listed = ["docker", "ps", "--quiet", "--filter", "label=com.docker.compose.oneoff=True"]
        listed += ["--filter", f"label=com.docker.compose.project={product.env['COMPOSE_PROJECT_NAME']}"]
        ids = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
        told = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True).stdout
        (host,) = [
            found["HostConfig"] for found in json.loads(told) if found["HostConfig"]["Runtime"] == OTHER
        ]
        named = {entry.partition(":")[0] for entry in host["ExtraHosts"]}
        assert "gate" in named
        assert not named & {"mlflow", "postgres", "object-store", "mlflow-jobs"}, (
            "an agent needs no such address"
        )
    finally:
        call.send_signal(signal.SIGINT)
        out, err = call.communicate(timeout=90)
    assert json.loads(out)["run"]["outcome"] == "interrupted", err


def test_a_runtime_that_the_engine_lacks_is_refused_with_those_that_it_has(
    product: Product, tmp_path: Path
) -> None:
    for command in (["up", "--no-build"], ["run", TASK]):
        answer = product.paddock(*command, "--json", cwd=tmp_path, env={"AGENT_RUNTIME": "no-such-runtime"})
        assert answer.code == 25
        error = answer.document["error"]
        assert error["found"].startswith("'no-such-runtime'; the engine has ")
        assert "runc" in error["found"]
        assert "unset AGENT_RUNTIME" in error["remedy"]
    assert not (tmp_path / "FACTS.txt").exists()
