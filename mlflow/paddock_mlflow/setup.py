"""Bring a running server to the declared state: experiment, users, providers, endpoints, judges.

Every step looks first and writes only what differs, so a second run changes nothing, and a run that was cut off is
finished by the next. What people made by hand in the UI is left alone.
"""

import logging
import os
import secrets as random_secrets
from dataclasses import dataclass
from typing import Any

import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from paddock_mlflow.errors import SettingsError, SetupError
from paddock_mlflow.settings import Settings

_logger = logging.getLogger(__name__)

GATEWAY = "/api/3.0/mlflow/gateway"
TIMEOUT_SECONDS = 30
DEMO_MODEL = "demo"


@dataclass(frozen=True)
class Provider:
    """A model provider with its key, as the gateway keeps it.

    `kind` is MLflow's name of the protocol; `api_base` is empty for the provider's public address.
    """

    name: str
    kind: str
    key: str
    model: str
    api_base: str = ""


DEFAULT_MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}


def providers(settings: Settings) -> list[Provider]:
    """The providers whose keys are set, the one that serves by default first; the demo model where there is none.

    Raises:
        SettingsError: half a setting (an address without a key, say), or nothing at all.
    """
    found = []
    base, key = settings.llm_base_url, settings.optional_secret("llm_api_key")
    if bool(base) != bool(key):
        given, missing = ("LLM_BASE_URL", "LLM_API_KEY") if base else ("LLM_API_KEY", "LLM_BASE_URL")
        raise SettingsError(
            f"expected LLM_BASE_URL and LLM_API_KEY together, found only {given}; set {missing} in .env"
        )
    if base:
        if not settings.coder_model:
            raise SettingsError(
                "expected CODER_MODEL to name a model of LLM_BASE_URL, found none; set CODER_MODEL=custom/<model> in .env"
            )
        found.append(Provider("custom", "openai", key, "", base))
    for name, model in DEFAULT_MODELS.items():
        if key := settings.optional_secret(f"{name}_api_key"):
            found.append(Provider(name, name, key, model))
    if not found:
        if not settings.demo_model_url:
            raise SettingsError(
                "expected a provider's key or the demo model, found neither; set OPENAI_API_KEY, ANTHROPIC_API_KEY,"
                " GEMINI_API_KEY, or LLM_BASE_URL and LLM_API_KEY in .env"
            )
        found.append(
            Provider(
                "demo",
                "openai",
                settings.optional_secret("demo_api_key") or "none",
                DEMO_MODEL,
                settings.demo_model_url,
            )
        )
    return found


def model_of(setting: str, variable: str, available: list[Provider]) -> tuple[Provider, str]:
    """Which provider and model a setting like `anthropic/claude-sonnet-4-5` names.

    Raises:
        SettingsError: the provider before the slash has no key.
    """
    if not setting:
        return available[0], available[0].model
    prefix, slash, rest = setting.partition("/")
    for provider in available:
        if slash and provider.name == prefix:
            return provider, rest
    if len(available) == 1 or not slash:
        return available[0], setting
    names = ", ".join(provider.name for provider in available)
    raise SettingsError(
        f"expected {variable} to begin with a provider that has a key ({names}), found {setting!r}; mend it in .env"
    )


def setup(settings: Settings) -> None:
    """Apply everything. Raises SetupError or SettingsError with the step that failed."""
    available = providers(settings)
    coder = model_of(settings.coder_model, "CODER_MODEL", available)
    judge = model_of(settings.judge_model or settings.coder_model, "JUDGE_MODEL", available)

    server = Server(settings.mlflow_url, settings.admin_user, settings.secret("admin_password"))
    server.wait()
    experiment_id = server.experiment(settings.experiment)
    secret_ids = {provider.name: server.secret(provider) for provider in available}
    coder_model = server.model(f"coder-{coder[0].name}", secret_ids[coder[0].name], *coder)
    judge_model = server.model(f"judge-{judge[0].name}", secret_ids[judge[0].name], *judge)
    coder_endpoint = server.endpoint("coder", coder_model)
    judge_endpoint = server.endpoint("judge", judge_model)

    server.user(settings.agent_user)
    # The stack's own key, which is the gate's identity: the server holds it, and learns here what it opens.
    opens = {"endpoints": ["coder"], "experiments": [settings.experiment]}
    server.call("PUT", "/api/3.0/paddock/keys/stack", json=opens)
    server.user(settings.judge_user)
    server.grant(settings.judge_user, "gateway_endpoint", judge_endpoint, "USE")

    _judges(settings, experiment_id)
    if settings.handover_dir:
        _hand_over(settings, experiment_id)
    served_by = "the demo model" if coder[0].name == "demo" else f"{coder[0].name}/{coder[1]}"
    _logger.info("ready: experiment %s, endpoint coder served by %s", experiment_id, served_by)


def _hand_over(settings: Settings, experiment_id: str) -> None:
    folder = settings.handover_dir
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "experiment_id"
    if target.exists() and target.read_text() == experiment_id:
        return
    # Renamed into place: a reader sees the old id or the new one, never half of it.
    partial = folder / ".experiment_id.partial"
    partial.write_text(experiment_id)
    partial.chmod(0o644)
    partial.replace(target)


def _judges(settings: Settings, experiment_id: str) -> None:
    """Register the built-in judges. Those that need no expectation are started; what people changed is kept."""
    os.environ |= {
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_TRACKING_USERNAME": settings.admin_user,
        "MLFLOW_TRACKING_PASSWORD": settings.secret("admin_password"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    from mlflow.genai.scorers import (
        Correctness,
        RelevanceToQuery,
        ScorerSamplingConfig,
        ToolCallEfficiency,
        list_scorers,
    )

    present = {scorer.name: scorer for scorer in list_scorers(experiment_id=experiment_id)}
    for scorer_class, started in ((RelevanceToQuery, True), (ToolCallEfficiency, True), (Correctness, False)):
        scorer = scorer_class(model="gateway:/judge")
        registered = present.get(scorer.name) or scorer.register(experiment_id=experiment_id)
        # A judge that somebody stopped has the rate 0; none at all means that a set-up was cut off in between.
        if started and registered.sample_rate is None:
            registered.start(
                experiment_id=experiment_id, sampling_config=ScorerSamplingConfig(sample_rate=1.0)
            )
        if scorer.name not in present:
            _logger.info("registered judge %s%s", scorer.name, ", on every new trace" if started else "")


class Server:
    """The few calls of MLflow's REST API that the set-up needs, each idempotent."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = (user, password)

    def call(
        self, method: str, path: str, missing_ok: bool = False, **arguments: Any
    ) -> dict[str, Any] | None:
        """One request; returns the JSON answer, or None for a 404 where `missing_ok`.

        Raises:
            SetupError: any other refusal, with the server's own words.
        """
        answer = self._session.request(method, self._url + path, timeout=TIMEOUT_SECONDS, **arguments)
        if answer.status_code == 404 and missing_ok:
            return None
        if answer.status_code >= 400:
            raise SetupError(
                f"expected {method} {path} to succeed, found {answer.status_code}: {answer.text[:500]};"
                " the server's log has the rest"
            )
        return answer.json() if answer.content else {}

    @retry(
        retry=retry_if_exception_type((requests.ConnectionError, requests.Timeout, SetupError)),
        stop=stop_after_delay(60),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    def wait(self) -> None:
        """Until the server answers an authenticated query of its database."""
        self.call("POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 1})

    def experiment(self, name: str) -> str:
        """The id of the experiment, made where it is missing and restored where it was deleted."""
        path = "/api/2.0/mlflow/experiments"
        if found := self.call(
            "GET", f"{path}/get-by-name", missing_ok=True, params={"experiment_name": name}
        ):
            experiment = found["experiment"]
            if experiment.get("lifecycle_stage") == "deleted":
                self.call("POST", f"{path}/restore", json={"experiment_id": experiment["experiment_id"]})
            return experiment["experiment_id"]
        made = self.call("POST", f"{path}/create", json={"name": name})
        assert made is not None
        _logger.info("made experiment %s", name)
        return made["experiment_id"]

    def secret(self, provider: Provider) -> str:
        """The id of the gateway's copy of a provider's key, brought up to date."""
        name = f"{provider.name}-key"
        value = {"api_key": provider.key}
        config = {"api_base": provider.api_base} if provider.api_base else {}
        for known in (self.call("GET", f"{GATEWAY}/secrets/list") or {}).get("secrets", []):
            if known["secret_name"] == name:
                # The server shows keys masked only, so whether this one changed can't be seen: write it.
                body = {"secret_id": known["secret_id"], "secret_value": value, "auth_config": config}
                self.call("POST", f"{GATEWAY}/secrets/update", json=body)
                return known["secret_id"]
        body = {"secret_name": name, "secret_value": value, "provider": provider.kind, "auth_config": config}
        made = self.call("POST", f"{GATEWAY}/secrets/create", json=body)
        assert made is not None
        _logger.info("stored the key of provider %s", provider.name)
        return made["secret"]["secret_id"]

    def model(self, name: str, secret_id: str, provider: Provider, model: str) -> str:
        """The id of the model definition."""
        wanted = {"name": name, "secret_id": secret_id, "provider": provider.kind, "model_name": model}
        known = self._by_name(f"{GATEWAY}/model-definitions/list", "model_definitions", name)
        if known is None:
            made = self.call("POST", f"{GATEWAY}/model-definitions/create", json=wanted)
            assert made is not None
            return made["model_definition"]["model_definition_id"]
        if any(known.get(field) != value for field, value in wanted.items()):
            body = {"model_definition_id": known["model_definition_id"], **wanted}
            self.call("POST", f"{GATEWAY}/model-definitions/update", json=body)
        return known["model_definition_id"]

    def endpoint(self, name: str, model_definition_id: str) -> str:
        """The id of the endpoint; where it exists, its primary model is set and the rest of it kept."""
        link = {"model_definition_id": model_definition_id, "linkage_type": "PRIMARY", "weight": 1.0}
        known = self._by_name(f"{GATEWAY}/endpoints/list", "endpoints", name)
        if known is None:
            body = {"name": name, "usage_tracking": True, "model_configs": [link]}
            made = self.call("POST", f"{GATEWAY}/endpoints/create", json=body)
            assert made is not None
            _logger.info("made endpoint %s", name)
            return made["endpoint"]["endpoint_id"]
        mappings = known.get("model_mappings", [])
        primaries = [m["model_definition_id"] for m in mappings if m.get("linkage_type") == "PRIMARY"]
        if model_definition_id not in primaries:
            others = [
                {
                    "model_definition_id": m["model_definition_id"],
                    "linkage_type": m["linkage_type"],
                    "weight": m.get("weight", 1.0),
                    "fallback_order": m.get("fallback_order", 0),
                }
                for m in mappings
                if m.get("linkage_type") == "FALLBACK"
            ]
            body = {"endpoint_id": known["endpoint_id"], "model_configs": [link, *others]}
            self.call("POST", f"{GATEWAY}/endpoints/update", json=body)
            _logger.info("endpoint %s has a new model", name)
        return known["endpoint_id"]

    def user(self, name: str) -> None:
        """A user that nobody can log in as: its random password is kept nowhere."""
        if self.call("GET", "/api/2.0/mlflow/users/get", missing_ok=True, params={"username": name}) is None:
            body = {"username": name, "password": random_secrets.token_urlsafe(32)}
            self.call("POST", "/api/2.0/mlflow/users/create", json=body)
            _logger.info("made user %s", name)

    def grant(self, user: str, resource_type: str, resource_id: str, permission: str) -> None:
        """Give a user a permission on one resource."""
        query = {"username": user, "resource_type": resource_type, "resource_id": resource_id}
        found = self.call("GET", "/api/3.0/mlflow/users/permissions/get", missing_ok=True, params=query)
        if found and found.get("permission") == permission:
            return
        self.call("POST", "/api/3.0/mlflow/users/permissions/grant", json={**query, "permission": permission})

    def _by_name(self, path: str, key: str, name: str) -> dict[str, Any] | None:
        return next(
            (item for item in (self.call("GET", path) or {}).get(key, []) if item["name"] == name), None
        )
