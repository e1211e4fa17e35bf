"""What an agent leaves in its workspace or its state does not run, redirect or be followed outside of its fence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddock_cli import environments, processes, pythons
from paddock_cli.embedded import EmbeddedStack
from paddock_cli.settings import load


def test_an_environment_is_made_outside_of_the_workspace(tmp_path, monkeypatch):
    """uv obeys a uv.toml, a pyproject.toml and a .python-version where it is started, and above."""
    seen = tmp_path / "seen"
    fake = tmp_path / "uv"
    fake.write_text(f"#!{sys.executable}\nimport os\nopen({str(seen)!r}, 'a').write(os.getcwd() + '\\n')\n")
    fake.chmod(0o755)
    monkeypatch.setattr(environments, "uv", lambda: fake)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)

    environments._run([fake, "venv"], dict(os.environ))

    assert str(project) not in seen.read_text().splitlines()


def test_a_python_of_the_workspace_is_none_to_run(tmp_path, monkeypatch):
    """uv offers the .venv of the folder that it is asked in: an agent may have put one there."""
    seen = tmp_path / "seen"
    fake = tmp_path / "uv"
    fake.write_text(f"#!{sys.executable}\nimport os\nopen({str(seen)!r}, 'a').write(os.getcwd())\n")
    fake.chmod(0o755)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "nothing"))

    assert list(pythons._candidates(fake))

    assert not Path(seen.read_text()).is_relative_to(project)


@pytest.fixture
def stack(where):
    return EmbeddedStack(where, load(where))


def test_notes_that_an_agent_writes_into_its_state_end_and_remove_nothing(stack, where, tmp_path):
    """In a container too its state is a folder of this machine, which `stop` looks at."""
    precious = tmp_path / "precious"
    precious.mkdir()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        state = where.runs / "11111111-1111-4111-8111-111111111111"
        state.mkdir(parents=True)
        processes.note(state / "agent.pid", bystander.pid)
        (state / "agent.tmux").write_text(str(precious))

        assert stack.end_agents() == 0

        assert bystander.poll() is None
        assert precious.is_dir()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_run_that_is_noted_beside_its_state_is_ended(stack, where, tmp_path):
    agent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    terminals = tmp_path / "terminals"
    terminals.mkdir()
    where.runs.mkdir(exist_ok=True)
    processes.note(where.runs / "22222222-2222-4222-8222-222222222222.agent.pid", agent.pid)
    (where.runs / "22222222-2222-4222-8222-222222222222.agent.tmux").write_text(str(terminals))

    assert stack.end_agents() == 1

    # psutil has taken its exit code.
    assert agent.poll() is not None
    assert not terminals.exists()


def test_settings_in_the_workspace_are_nobodys(where, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    (project / ".env").write_text(
        "MLFLOW_PORT=1\nPADDOCK_STATE_DIR=/nowhere\nOPENAI_API_KEY=sk-planted-0123456789\n"
    )
    (project / "mlflow").mkdir()
    (project / "mlflow" / "gateway.yaml").write_text("version: 1\n")
    (project / "docker-compose.yml").write_text(json.dumps({"services": {}}))
    monkeypatch.chdir(project)

    settings = load(where)

    assert settings.port == 5000
    assert settings.keys == {}
    assert settings.gateway_config == where.root / "mlflow" / "gateway.yaml"
