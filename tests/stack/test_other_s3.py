"""Another S3 store in place of ours, by four settings: SeaweedFS, which serves a whole stack from outside of it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cases import EndToEnd, Product
from stack_under_test import ROOT, StackUnderTest, new_project

ACCESS, SECRET = "somebody-elses-key", "somebody-elses-secret"


@pytest.fixture(scope="module")
def other(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackUnderTest]:
    """A project of its own whose `S3_*` settings name a store that it did not make."""
    settings = tmp_path_factory.mktemp("settings") / "settings.env"
    settings.write_text(f"S3_ACCESS_KEY={ACCESS}\nS3_SECRET_KEY={SECRET}\n")
    own = StackUnderTest(
        context=str(ROOT),
        project=f"{new_project()}-s3",
        env=stack.env
        | {
            # Its ports are taken by the other stack.
            "COMPOSE_PROFILES": "",
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
        own.compose(
            "--file", "docker-compose.yml", "--file", "docker-compose.seaweedfs.yml", "build", "object-store"
        )
        told = own.compose(
            *["--file", "docker-compose.yml", "--file", "docker-compose.seaweedfs.yml"],
            *["config", "--images", "object-store"],
        )
        image = next(line for line in told.stdout.splitlines() if "seaweedfs" in line)
        # An account that the stack has only by its settings.
        start = f"mkdir /tmp/s && printf {ACCESS} >/tmp/s/s3_root_user && printf {SECRET} >/tmp/s/s3_root_password"
        options = [
            "--network",
            f"{own.project}_core",
            "--network-alias",
            "elsewhere",
            "--env",
            "SECRETS_DIR=/tmp/s",
        ]
        subprocess.run(
            [
                *["docker", "run", "--detach", "--name", elsewhere, *options, "--entrypoint", "bash", image],
                *["-c", f"{start} && exec entrypoint.sh"],
            ],
            capture_output=True,
            check=True,
        )
        own.compose("up", "--detach", "--wait", timeout=300)
        yield own
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", elsewhere], capture_output=True, check=False)
        own.stop()


@pytest.fixture(scope="module")
def product(other: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Product:
    """That project as the command line sees it."""
    state = tmp_path_factory.mktemp("state")
    env = other.env | {"COMPOSE_PROJECT_NAME": other.project, "PADDOCK_STATE_DIR": str(state)}
    return Product("compose", env, model_url="http://demo-model:8000/v1")


class TestAWholeStackOnSeaweedfs:
    """The core of the end-to-end cases, and artifacts."""

    test_a_run_ends_judged_with_its_figures = EndToEnd.test_a_run_ends_judged_with_its_figures

    def test_artifacts_go_to_the_other_store(self, other: StackUnderTest) -> None:
        path = f"{other.url}/api/2.0/mlflow-artifacts/artifacts/probe/hello.txt"
        login = ("admin", other.password)
        # SeaweedFS compresses what can be.
        content = os.urandom(2_000_000)
        put = httpx.put(path, content=content, auth=login, timeout=60)
        assert put.status_code == 200, put.text
        assert httpx.get(path, auth=login, timeout=60).content == content

        def kept(container: str) -> int:
            size = subprocess.run(
                ["docker", "exec", container, "du", "--bytes", "--summarize", "/data"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            return int(size.split()[0])

        assert kept(f"{other.project}-elsewhere") > len(content)
        assert kept(other.containers()["object-store"]) < len(content)

        def listed() -> list[str]:
            answer = httpx.get(path.rpartition("/probe")[0], params={"path": "probe"}, auth=login, timeout=60)
            return [file["path"] for file in answer.json().get("files", [])]

        assert listed() == ["hello.txt"]
        removed = httpx.delete(path, auth=login, timeout=60)
        assert removed.status_code == 200, removed.text
        assert listed() == []


def test_half_a_pair_of_keys_is_refused(stack: StackUnderTest, tmp_path: Path) -> None:
    settings = tmp_path / "settings.env"
    settings.write_text("S3_ACCESS_KEY=alone\n")
    done = stack.compose(
        "run", "--rm", "--no-TTY", "secrets", check=False, variables={"PADDOCK_ENV_FILE": str(settings)}
    )
    assert done.returncode == 1
    assert "expected S3_ACCESS_KEY and S3_SECRET_KEY together" in done.stderr
