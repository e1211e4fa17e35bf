"""What the stack tells the plugin, and what it says of settings that make no sense."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from identities import SECRETS

from paddock_mlflow.compatibility import CHECKED_RELEASES, require_checked_release
from paddock_mlflow.errors import IncompatibleMlflow, PaddockError, SettingsError
from paddock_mlflow.settings import Variables, load

VARIABLES = (
    "DATABASE_URL",
    "AUTH_DATABASE_URL",
    "DEMO_MODEL_URL",
    "LLM_BASE_URL",
    "CODER_MODEL",
    "ARTIFACTS_DESTINATION",
    *(name.upper() for name in ("llm_api_key", "openai_api_key", "anthropic_api_key", "gemini_api_key")),
)


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of secrets, and no setting at all."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_file_is_a_secret(secrets: Path) -> None:
    (secrets / "admin_password").write_text("from-a-file")
    settings = load()
    assert settings.secret("admin_password") == "from-a-file"
    assert "from-a-file" not in repr(settings)


def test_a_missing_secret_is_named_with_the_place_for_it(secrets: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load().secret("kek_passphrase")
    assert str(refused.value) == (
        f"expected the secret kek_passphrase, found none; put it into the file {secrets}/kek_passphrase"
        " or into the variable KEK_PASSPHRASE"
    )


def test_a_missing_folder_of_secrets_is_no_error_by_itself(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(secrets / "missing"))
    assert load().optional_secret("agent_key") == ""


def test_a_value_of_the_wrong_kind_is_named_and_not_shown(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PORT", "five-thousand")
    with pytest.raises(
        SettingsError, match=r"^expected LISTEN_PORT to be valid, found: .*integer.*mend the variable"
    ):
        load()


def test_databases_by_parts_and_by_url(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "postgres_mlflow_password").write_text("p@ss:/word")
    assert load().tracking_database == "postgresql+psycopg2://mlflow:p%40ss%3A%2Fword@postgres/mlflow"
    assert load().auth_database.endswith("@postgres/mlflow_auth")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@elsewhere:5433/db")
    assert load().tracking_database == "postgresql+psycopg2://u:p@elsewhere:5433/db"


def test_private_upstreams_are_the_named_hosts_at_the_named_ports(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMO_MODEL_URL", "http://demo-model:8000/v1")
    monkeypatch.setenv("LLM_BASE_URL", "https://LLM.lan/v1")
    assert load().private_upstreams == {("demo-model", 8000), ("llm.lan", 443)}


def test_what_a_configuration_may_refer_to(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "some_api_key").write_text("from-a-file")
    monkeypatch.setenv("CODER_MODEL", "openai/x")
    variables = Variables()
    assert (variables["SOME_API_KEY"], variables["CODER_MODEL"]) == ("from-a-file", "openai/x")
    assert {"SOME_API_KEY", "CODER_MODEL"} <= set(variables)
    assert variables.get("OTHER_API_KEY") is None


def test_another_mlflow_is_refused() -> None:
    require_checked_release()
    with pytest.raises(IncompatibleMlflow, match=r"expected MLflow 3\.17\.2, found 3\.18\.0; install"):
        require_checked_release("3.18.0")


def test_the_checked_release_is_the_pinned_one(root: Path) -> None:
    pinned = [
        line.partition("==")[2].partition(" ")[0].strip()
        for line in (root / "mlflow" / "requirements.txt").read_text().splitlines()
        if line.startswith("mlflow==")
    ]
    assert set(pinned) == set(CHECKED_RELEASES)


@pytest.mark.parametrize("command", ["migrate", "serve", "jobs", "setup"])
def test_a_users_mistake_ends_with_a_line_and_no_stack_trace(
    tmp_path: Path, root: Path, command: str
) -> None:
    environment = {"PYTHONPATH": str(root / "mlflow"), "SECRETS_DIR": str(tmp_path), "LISTEN_PORT": "x"}
    done = subprocess.run(
        [sys.executable, "-m", "paddock_mlflow", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("paddock-mlflow: expected LISTEN_PORT to be valid")
    assert "Traceback" not in done.stderr


def test_a_command_without_its_secrets_says_which(tmp_path: Path, root: Path) -> None:
    environment = {"PYTHONPATH": str(root / "mlflow"), "SECRETS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "paddock_mlflow", "migrate"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "expected the secret postgres_mlflow_password, found none" in done.stderr


def test_every_error_is_of_one_tree() -> None:
    assert issubclass(SettingsError, PaddockError)
    assert issubclass(IncompatibleMlflow, PaddockError)
    # Those of the proxies are read from their files each time.
    assert set(SECRETS) - {"gate_secret", "tls_secret"} <= set(load.__globals__["Settings"].model_fields)


@pytest.mark.parametrize("name", ["MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS", "MAX_TRACE_BODY_BYTES"])
def test_what_messages_tell_to_raise_can_be_set(name: str) -> None:
    root = Path(__file__).parents[3]
    web = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]["mlflow"]
    value = re.fullmatch(r"\$\{" + name + r":-(\d+)\}", web["environment"][name])
    assert value is not None
    assert f"#{name}={value[1]}\n" in (root / ".env.example").read_text()
