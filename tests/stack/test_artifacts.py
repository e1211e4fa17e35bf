"""Artifacts, from a client outside of the stack with MLflow's default settings."""

import os
import subprocess
import sys
from pathlib import Path

from stack_under_test import StackUnderTest

CLIENT = """
import hashlib, os, sys, mlflow
mlflow.set_experiment("artifacts")
with mlflow.start_run() as run:
    mlflow.log_artifact(sys.argv[1])
    mlflow.log_text("three bytes: abc", "small.txt")
here = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=os.path.basename(sys.argv[1]))
print(hashlib.sha256(open(here, "rb").read()).hexdigest())
print(mlflow.artifacts.load_text(run.info.artifact_uri + "/small.txt"))
print(sorted(found.path for found in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)))
"""


def test_artifacts_travel_from_and_to_the_host(stack: StackUnderTest, tmp_path: Path) -> None:
    import hashlib

    content = os.urandom(12_000_000)
    (tmp_path / "large.bin").write_bytes(content)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(tmp_path / "large.bin")],
        env=kept
        | {
            "MLFLOW_TRACKING_URI": stack.url,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": stack.password,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        # The defect that this guards against is a client that waits for ever.
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    digest, text, listed = [line for line in done.stdout.splitlines() if not line.startswith(("🏃", "🧪"))]
    assert digest == hashlib.sha256(content).hexdigest()
    assert text == "three bytes: abc"
    assert listed == "['large.bin', 'small.txt']"
    assert "large.bin" in stack.execute("object-store", "find", "/data/mlflow", "-name", "large.bin").stdout
