"""What lies in a workspace, or stands in the environment, does not change a run; what the run leaves is the user's."""

import json
import stat
from pathlib import Path

import pytest
from conftest import Runner


def test_dotenv_redirects_nothing(runner: Runner) -> None:
    content = (
        "LMNR_PROJECT_API_KEY=stolen\nLMNR_BASE_URL=http://127.0.0.1:9\nOTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9\n"
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:9\nLMNR_DISABLE_TRACING=true\n"
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS=x-mlflow-experiment-id=666\nLLM_BASE_URL=http://127.0.0.1:9\n"
        "PADDOCK_AGENT_ENDPOINT=scenario/down\nPADDOCK_AGENT_MAX_ITERATIONS=1\nLITELLM_MODE=DEV\n"
    )
    for folder in (runner.workspace, runner.folder, runner.home):
        (folder / ".env").write_text(content)
    ended = runner.run("make it", "--endpoint", "scenario/short", cold=True)
    assert (ended.code, ended.result["trace_delivered"]) == (0, True), ended.err
    assert (
        runner.collector.root(ended.result["trace_id"]).attributes["mlflow.traceTag.paddock.outcome"]
        == "finished"
    )
    assert {headers["x-mlflow-experiment-id"] for headers in runner.collector.headers} == {"7"}
    assert not any(
        "authorization" in {name.lower() for name in headers} for headers in runner.collector.headers
    )


def test_plugin_in_the_workspace_is_not_loaded(runner: Runner) -> None:
    marker = runner.folder / "hook-ran"
    for base in (runner.workspace / ".agents", runner.workspace / ".openhands", runner.home / ".agents"):
        plugin = base / "plugins" / "stowaway"
        (plugin / ".plugin").mkdir(parents=True)
        (plugin / ".plugin" / "plugin.json").write_text(
            '{"name": "stowaway", "version": "1.0.0", "description": "x"}'
        )
        (plugin / "hooks").mkdir()
        hook = {"type": "command", "command": f"touch {marker}"}
        (plugin / "hooks" / "hooks.json").write_text(
            json.dumps({"hooks": {"SessionStart": [{"matcher": "*", "hooks": [hook]}]}})
        )
    ended = runner.run("make it", "--endpoint", "scenario/short")
    assert ended.code == 0
    assert not marker.exists()


def test_laminar_key_in_the_environment_redirects_nothing(runner: Runner) -> None:
    ended = runner.run(
        "make it",
        "--endpoint",
        "scenario/short",
        cold=True,
        LMNR_PROJECT_API_KEY="x",
        LMNR_BASE_URL="http://127.0.0.1:9",
    )
    assert (ended.code, ended.result["trace_delivered"]) == (0, True)


def test_the_agents_shell_sees_no_key_and_none_of_the_runners_switches(runner: Runner) -> None:
    ended = runner.run("look", "--endpoint", "scenario/environment", DEBUG="yes", PROJECT_SETTING="kept")
    assert ended.code == 0
    seen = dict(line.partition("=")[::2] for line in (runner.workspace / "env.txt").read_text().splitlines())
    assert "key-of-the-run" not in (runner.workspace / "env.txt").read_text()
    assert seen["PROJECT_SETTING"] == "kept"
    assert seen["DEBUG"] == "yes"
    assert seen["HOME"] == str(runner.home)
    unwanted = ("PADDOCK_", "OTEL_EXPORTER", "LITELLM_", "PYTHON_DOTENV", "LOG_")
    assert [name for name in seen if name.startswith(unwanted)] == []


def test_the_files_have_the_mode_of_the_users_umask(runner: Runner) -> None:
    runner.umask = 0o027
    ended = runner.run("Write 3 facts about the current project into FACTS.txt.", "--endpoint", "demo")
    assert ended.code == 0, ended.err
    assert stat.S_IMODE((runner.workspace / "FACTS.txt").stat().st_mode) == 0o640
    assert len((runner.workspace / "FACTS.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize("locale", ["POSIX", None])
def test_the_terminal_works_without_a_utf8_locale(runner: Runner, locale: str | None) -> None:
    ended = runner.run("make it", "--endpoint", "scenario/short", LC_ALL=locale, LANG=None)
    assert (ended.code, ended.result["message"]) == (0, "all done")


def test_state_is_the_users_alone(runner: Runner) -> None:
    runner.run("make it", "--endpoint", "scenario/short")
    assert stat.S_IMODE((runner.state / "runs").stat().st_mode) == 0o700


def test_readme_is_read_in_a_workspace_with_a_space_in_its_name(runner: Runner, tmp_path: Path) -> None:
    workspace = tmp_path / "my project"
    workspace.mkdir()
    (workspace / "README.md").write_text("# Seven horses\n")
    ended = runner.run(
        "Write 3 facts about the current project into FACTS.txt.",
        "--endpoint",
        "demo",
        "--workspace",
        str(workspace),
    )
    assert ended.code == 0, ended.err
    assert "Seven horses" in (workspace / "FACTS.txt").read_text()
