"""Bring a running server to the declared state: experiment, the stack's users, the gateway's configuration, judges.

Every step looks first and writes only what differs, so a second run changes nothing, and a run that was cut off is
finished by the next. What people made by hand in the UI is reported and left alone.
"""

import logging
import secrets as random_secrets
from collections.abc import Mapping
from typing import Any

import requests
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from paddock_mlflow.config import apply, desired, validation
from paddock_mlflow.config.desired import Desired
from paddock_mlflow.config.errors import Refused
from paddock_mlflow.judges import apply as judges_apply
from paddock_mlflow.judges import validation as judges_validation
from paddock_mlflow.settings import Settings, Variables

_logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30
CODER, JUDGE = "coder", "judge"
DEMO_PROVIDER = "demo"


def setup(settings: Settings) -> None:
    """Apply everything.

    Raises:
        ConfigError: the configuration is not valid, or the server refused a step; the text says which.
        SettingsError: the administrator's password is missing.
    """
    variables = Variables()
    checked = validation.load(settings.gateway_config, variables)
    for note in checked.notes:
        _logger.info("%s", note)
    wanted = desired.resolve(checked.configuration, variables)
    # Looked at before anything is written, as the gateway's is.
    judges = judges_validation.load(settings.judges_config, settings.judges_code, wanted.endpoints)

    server = Server(settings.mlflow_url, settings.admin_user, settings.secret("admin_password"))
    server.wait()
    experiment_id = server.experiment(settings.experiment)
    server.user(settings.agent_user)
    server.user(settings.judge_user)
    endpoints = _gateway(server, wanted)
    # The stack's own key, which is the gate's identity: the server holds it, and learns here what it opens.
    agent = (wanted.users or {}).get(settings.agent_user)
    granted = {title for kind, title, _ in agent.grants if kind == "gateway_endpoint"} if agent else set()
    opens = {"endpoints": [CODER, *sorted(granted - {CODER})], "experiments": [settings.experiment]}
    server.call("PUT", "/api/3.0/paddock/keys/stack", json=opens)
    server.grant(settings.judge_user, "gateway_endpoint", endpoints[JUDGE], "USE")

    _judges(server, judges, experiment_id)
    if settings.handover_dir:
        _hand_over(settings, experiment_id)
    _logger.info("ready: experiment %s, endpoint coder served by %s", experiment_id, _served_by(wanted))


def _gateway(server: "Server", wanted: Desired) -> dict[str, str]:
    """Apply the declared configuration; returns the id of each endpoint by its name."""
    state, planned = apply.compare(server, wanted)
    for note in planned.notes:
        _logger.info("%s", note)
    changed = apply.apply(server, state, planned, told=lambda change: _logger.info("%s", change.text()))
    for change in planned.unmanaged:
        _logger.warning(
            "not in the configuration, and left alone: %s %s (./paddock config plan)",
            change.kind,
            change.name,
        )
    known = {endpoint.name: endpoint.id for endpoint in state.endpoints.values()}
    if {CODER, JUDGE} <= known.keys():
        return known
    assert changed, "endpoints that were missing were made"
    return server.endpoints()


def _served_by(wanted: Desired) -> str:
    model = wanted.models[wanted.endpoints[CODER].primaries[0][0]]
    provider = model.secret.removesuffix("-key")
    return "the demo model" if provider == DEMO_PROVIDER else f"{provider}/{model.model}"


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


def _judges(server: "Server", checked: judges_validation.Checked, experiment_id: str) -> None:
    """Apply the declared judges. What people made or changed beyond them is kept."""
    state, planned = judges_apply.compare(server, experiment_id, checked.source, checked.definitions)
    for note in [*checked.notes, *planned.notes]:
        _logger.info("%s", note)
    judges_apply.apply(
        server, state, planned, checked.definitions, told=lambda change: _logger.info("%s", change.text())
    )
    for change in planned.unmanaged:
        _logger.warning("not in judges.yaml, and left alone: judge %s (./paddock judges plan)", change.name)


class Server:
    """The server, as its administrator: what the declared configuration needs, and a few steps around it."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = (user, password)

    def call(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request; returns the JSON answer.

        Raises:
            Refused: with the server's own words, or status 0 where it did not answer.
        """
        try:
            answer = self._session.request(
                method, self._url + path, json=json, params=params, timeout=TIMEOUT_SECONDS
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Refused(method, path, 0, str(error)) from None
        if answer.status_code >= 400:
            raise Refused(method, path, answer.status_code, answer.text[:500])
        return dict(answer.json()) if answer.content else {}

    @retry(
        retry=retry_if_exception_type(Refused), stop=stop_after_delay(60), wait=wait_fixed(0.5), reraise=True
    )
    def wait(self) -> None:
        """Until the server answers an authenticated query of its database."""
        self.call("POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 1})

    def experiment(self, name: str) -> str:
        """The id of the experiment, made where it is missing and restored where it was deleted."""
        path = "/api/2.0/mlflow/experiments"
        found = self._look(f"{path}/get-by-name", {"experiment_name": name})
        if found is None:
            made = self.call("POST", f"{path}/create", json={"name": name})
            _logger.info("made experiment %s", name)
            return str(made["experiment_id"])
        experiment = found["experiment"]
        if experiment.get("lifecycle_stage") == "deleted":
            self.call("POST", f"{path}/restore", json={"experiment_id": experiment["experiment_id"]})
        return str(experiment["experiment_id"])

    def endpoints(self) -> dict[str, str]:
        """The id of each endpoint by its name."""
        listed = self.call("GET", "/api/3.0/mlflow/gateway/endpoints/list").get("endpoints", [])
        return {endpoint["name"]: endpoint["endpoint_id"] for endpoint in listed}

    def user(self, name: str) -> None:
        """A user that nobody can log in as: its random password is kept nowhere."""
        if self._look("/api/2.0/mlflow/users/get", {"username": name}) is None:
            body = {"username": name, "password": random_secrets.token_urlsafe(32)}
            self.call("POST", "/api/2.0/mlflow/users/create", json=body)
            _logger.info("made user %s", name)

    def grant(self, user: str, resource_type: str, resource_id: str, permission: str) -> None:
        """Give a user a permission on one resource."""
        query = {"username": user, "resource_type": resource_type, "resource_id": resource_id}
        found = self._look("/api/3.0/mlflow/users/permissions/get", query)
        if found and found.get("permission") == permission:
            return
        self.call("POST", "/api/3.0/mlflow/users/permissions/grant", json={**query, "permission": permission})

    def _look(self, path: str, query: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer, or None for a 404."""
        try:
            return self.call("GET", path, params=query)
        except Refused as error:
            if error.status == 404:
                return None
            raise
