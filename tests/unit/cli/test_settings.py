"""Where a setting comes from, and what is refused."""

import stat

import pytest

from paddock_cli.errors import BadSettings
from paddock_cli.settings import forget, load, remember


def test_without_a_file_the_defaults_hold(where):
    settings = load(where, {})

    assert (settings.port, settings.base_image, settings.keys) == (5000, "debian:trixie-slim", {})


def test_the_shell_wins_over_the_file(where):
    (where.root / ".env").write_text("MLFLOW_PORT=5001\nOPENAI_API_KEY=from-file\n")

    assert load(where, {}).port == 5001
    settings = load(where, {"MLFLOW_PORT": "5002", "OPENAI_API_KEY": "from-shell"})
    assert (settings.port, settings.keys) == (5002, {"OPENAI_API_KEY": "from-shell"})


@pytest.mark.parametrize("value", ["abc", "-1", "65536", "50 00"])
def test_a_port_that_is_none_is_refused(where, value):
    with pytest.raises(BadSettings, match="MLFLOW_PORT"):
        load(where, {"MLFLOW_PORT": value})


@pytest.mark.parametrize("name", ["AGENT_CPUS", "SERVICE_CPUS"])
@pytest.mark.parametrize("value", ["1.5", "-1", "many"])
def test_cores_that_are_no_whole_number_are_refused(where, name, value):
    with pytest.raises(BadSettings, match=f"{name} to be a number"):
        load(where, {name: value})


def test_the_first_certificate_bundle_that_exists_is_taken(where, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.touch()

    assert load(where, {"SSL_CERT_FILE": "/no/such/file", "PIP_CERT": str(bundle)}).ca_bundle == bundle


def test_a_named_bundle_that_is_missing_is_refused(where):
    with pytest.raises(BadSettings, match="CA_BUNDLE"):
        load(where, {"CA_BUNDLE": "/no/such/file"})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"LLM_BASE_URL": "http://models:8000/v1", "CODER_MODEL": "custom/m"}, "LLM_API_KEY"),
        ({"LLM_API_KEY": "k"}, "LLM_BASE_URL"),
        ({"LLM_BASE_URL": "http://models:8000/v1", "LLM_API_KEY": "k"}, "CODER_MODEL"),
        ({"LLM_BASE_URL": "models:8000", "LLM_API_KEY": "k", "CODER_MODEL": "custom/m"}, "http"),
        ({"OPENAI_API_KEY": "two words"}, "OPENAI_API_KEY"),
    ],
)
def test_half_a_provider_is_refused(where, given, named):
    with pytest.raises(BadSettings, match=named):
        load(where, given)


def test_a_key_of_the_shell_is_remembered_privately_until_it_is_forgotten(where):
    remember(where, load(where, {"OPENAI_API_KEY": "sk-1"}))

    kept = where.state / "provider.env"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert load(where, {}).keys == {"OPENAI_API_KEY": "sk-1"}
    forget(where)
    assert load(where, {}).keys == {}


def test_a_shell_that_is_a_client_of_the_gateway_names_no_provider(where):
    """As after `eval "$(./paddock env)"`, or with a key of ours where a client looks for it."""
    remember(where, load(where, {"GEMINI_API_KEY": "of-google"}))
    client = {"LLM_BASE_URL": "http://127.0.0.1:5000/gateway/mlflow/v1", "LLM_API_KEY": "of-the-stack"}
    own = {"OPENAI_API_KEY": "pdk_0123456789abcdef", "CODER_MODEL": "gemini/g"}

    settings = load(where, client | own)

    assert (settings.provider, settings.keys) == (
        {"CODER_MODEL": "gemini/g"},
        {"GEMINI_API_KEY": "of-google"},
    )
    # Somebody else's gateway may well be a provider.
    other = {
        "LLM_BASE_URL": "https://models.example/gateway/mlflow/v1",
        "LLM_API_KEY": "pdk_0123456789abcdef",
    }
    assert load(where, other | own).provider["LLM_BASE_URL"] == other["LLM_BASE_URL"]


def test_a_key_of_the_shell_that_is_empty_is_forgotten(where):
    remember(where, load(where, {"OPENAI_API_KEY": "sk-1"}))

    settings = load(where, {"OPENAI_API_KEY": ""})
    assert settings.keys == {}
    remember(where, settings)
    assert load(where, {}).keys == {}


def test_the_file_wins_over_what_was_remembered(where):
    remember(where, load(where, {"OPENAI_API_KEY": "sk-1"}))
    (where.root / ".env").write_text("OPENAI_API_KEY=sk-2\n")

    assert load(where, {}).keys == {"OPENAI_API_KEY": "sk-2"}


def test_a_key_of_the_file_is_not_remembered(where):
    (where.root / ".env").write_text("OPENAI_API_KEY=sk-2\n")
    remember(where, load(where, {}))
    (where.root / ".env").unlink()

    assert load(where, {}).keys == {}


def test_keys_do_not_show_in_a_settings_text(where):
    assert "sk-1" not in repr(load(where, {"OPENAI_API_KEY": "sk-1"}))


def test_secrets_that_the_configuration_names_are_keys_too(where):
    own = where.root / "mine.yaml"
    own.write_text("providers:\n  x: {kind: mistral, secret: SOME_API_KEY}  # not OTHER_API_KEY\n")
    (where.root / ".env").write_text("GATEWAY_CONFIG=./mine.yaml\nOTHER_API_KEY=no\n")

    settings = load(where, {"SOME_API_KEY": "from-shell"})
    assert settings.gateway_config == own
    assert settings.keys == {"SOME_API_KEY": "from-shell"}
    remember(where, settings)
    assert load(where, {}).keys == {"SOME_API_KEY": "from-shell"}


def test_secrets_of_a_file_that_is_looked_at_beside_it_count_too(where, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        "providers:\n  x: {kind: mistral, secret: SOME_API_KEY}\n  y: {kind: xai, secret: OTHER_API_KEY}\n"
    )
    (where.root / ".env").write_text("OTHER_API_KEY=from-file\n")
    shell = {"SOME_API_KEY": "from-shell"}

    assert load(where, shell).keys == {}
    assert load(where, shell, beside=other).keys == {
        "SOME_API_KEY": "from-shell",
        "OTHER_API_KEY": "from-file",
    }
    assert load(where, shell, beside=tmp_path / "none.yaml").keys == {}


def test_a_configuration_that_is_missing_is_refused(where):
    with pytest.raises(BadSettings, match="GATEWAY_CONFIG to name a readable file"):
        load(where, {"GATEWAY_CONFIG": "./no-such.yaml"})


def test_a_configuration_of_ones_own_may_name_the_servers_models_itself(where):
    (where.root / "mine.yaml").write_text("version: 1\n")
    given = {"LLM_BASE_URL": "http://models:8000/v1", "LLM_API_KEY": "k", "GATEWAY_CONFIG": "mine.yaml"}
    assert load(where, given).provider == {"LLM_BASE_URL": "http://models:8000/v1"}
