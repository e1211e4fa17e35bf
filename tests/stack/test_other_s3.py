"""Another S3 store in place of ours, by four settings."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from stack_under_test import ROOT, StackUnderTest, new_project

ACCESS, SECRET = "somebody-elses-key", "somebody-elses-secret"


@pytest.fixture
def other(stack: StackUnderTest, tmp_path: Path) -> Iterator[StackUnderTest]:
    """A project of its own whose `S3_*` settings name a store that it did not make."""
    settings = tmp_path / "settings.env"
    settings.write_text(f"S3_ACCESS_KEY={ACCESS}\nS3_SECRET_KEY={SECRET}\n")
    own = StackUnderTest(
        context=str(ROOT),
        project=f"{new_project()}-s3",
        env=stack.env
        | {
            "PADDOCK_ENV_FILE": str(settings),
            "S3_ENDPOINT_URL": "http://elsewhere:9000",
            "S3_BUCKET": "their-bucket",
            "S3_ACCESS_KEY": ACCESS,
            "S3_SECRET_KEY": SECRET,
        },
    )
    elsewhere = f"{own.project}-elsewhere"
    try:
        own.compose("up", "--no-start", "postgres")
        image = stack.inspect("object-store")["Config"]["Image"]
        # The same program, but with an account that the stack has only by its settings.
        start = f"mkdir /tmp/s && printf {ACCESS} >/tmp/s/s3_root_user && printf {SECRET} >/tmp/s/s3_root_password"
        subprocess.run(
            [
                *["docker", "run", "--detach", "--name", elsewhere, "--network", f"{own.project}_core"],
                *[
                    "--network-alias",
                    "elsewhere",
                    "--env",
                    "SECRETS_DIR=/tmp/s",
                    "--entrypoint",
                    "bash",
                    image,
                ],
                *["-c", f"{start} && exec entrypoint.sh"],
            ],
            capture_output=True,
            check=True,
        )
        own.compose("up", "--detach", "--wait", "mlflow", timeout=240)
        yield own
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", elsewhere], capture_output=True, check=False)
        own.stop()


def test_artifacts_go_to_the_other_store(other: StackUnderTest) -> None:
    path = f"{other.url}/api/2.0/mlflow-artifacts/artifacts/probe/hello.txt"
    login = ("admin", other.password)
    put = httpx.put(path, content=b"hello", auth=login, timeout=60)
    assert put.status_code == 200, put.text
    assert httpx.get(path, auth=login, timeout=60).content == b"hello"

    def found(container: str) -> str:
        return subprocess.run(
            ["docker", "exec", container, "find", "/data", "-name", "hello.txt"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "/data/their-bucket/" in found(f"{other.project}-elsewhere")
    assert not found(other.containers()["object-store"])


def test_half_a_pair_of_keys_is_refused(stack: StackUnderTest, tmp_path: Path) -> None:
    settings = tmp_path / "settings.env"
    settings.write_text("S3_ACCESS_KEY=alone\n")
    done = stack.compose(
        "run", "--rm", "--no-TTY", "secrets", check=False, variables={"PADDOCK_ENV_FILE": str(settings)}
    )
    assert done.returncode == 1
    assert "expected S3_ACCESS_KEY and S3_SECRET_KEY together" in done.stderr
