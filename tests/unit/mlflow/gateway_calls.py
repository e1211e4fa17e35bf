"""Endpoints on a provider whose every answer the test decides, and calls of them."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from identities import ADMIN
from scripted_provider import Answer, ScriptedProvider, scripted_provider
from sqlalchemy import text

PROVIDER_KEY = "sk-the-provider-s-own-key"
CHAT = "/gateway/mlflow/v1/chat/completions"
HELLO = [{"role": "user", "content": "Say hello"}]


@dataclass
class Gateway:
    """A server with the plugin, and one provider behind all its endpoints."""

    server: Any
    provider: ScriptedProvider
    names: list[str] = field(default_factory=list)

    def admin(self, path: str, body: dict[str, Any], method: str = "POST") -> dict[str, Any]:
        """What MLflow's own API of the gateway answers."""
        answer = self.server.http.request(method, f"/api/3.0/mlflow/gateway/{path}", json=body, auth=ADMIN)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def endpoint(
        self, *models: str, tracked: bool = False, attempts: int | None = None, split: bool = False
    ) -> str:
        """An endpoint of `provider/model` names, the first its primary; returns its name."""
        name = f"e-{secrets.token_hex(4)}"
        links = []
        for order, entry in enumerate(models):
            provider, _, model = entry.partition("/")
            base = self.provider.url
            if provider == "closed":
                provider, base = "openai", "http://127.0.0.1:9/v1"
            secret = {
                "secret_name": f"{name}-{order}",
                "secret_value": {"api_key": PROVIDER_KEY},
                "provider": provider,
                "auth_config": {"api_base": base},
            }
            secret_id = self.admin("secrets/create", secret)["secret"]["secret_id"]
            definition = {
                "name": f"{name}-{order}",
                "secret_id": secret_id,
                "provider": provider,
                "model_name": model,
            }
            made = self.admin("model-definitions/create", definition)["model_definition"]
            primary = split or not order
            link = {
                "model_definition_id": made["model_definition_id"],
                "linkage_type": "PRIMARY" if primary else "FALLBACK",
                "weight": 1.0,
            }
            links.append(link if primary else link | {"fallback_order": order})
        body: dict[str, Any] = {"name": name, "usage_tracking": tracked, "model_configs": links}
        if split:
            body["routing_strategy"] = "REQUEST_BASED_TRAFFIC_SPLIT"
        elif len(models) > 1:
            body["fallback_config"] = {"strategy": "SEQUENTIAL", "max_attempts": attempts or len(models) - 1}
        self.admin("endpoints/create", body)
        self.names.append(name)
        return name

    def chat(self, endpoint: str, **more: Any) -> Any:
        """The answer to a call of the unified route, in an administrator's name."""
        headers = more.pop("headers", {})
        body = {"model": endpoint, "messages": HELLO, **more}
        return self.server.http.post(CHAT, json=body, headers=headers, auth=ADMIN)

    def answers(self, *answers: Answer) -> None:
        """Let the provider answer with these, the last one for ever."""
        left = list(answers)
        self.provider.requests.clear()
        self.provider.answer = lambda path, body: left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def gateway_on(server: Any) -> Iterator[Gateway]:
    """While it is open, the server may reach the provider."""
    from paddock_mlflow import settings, upstreams

    allowed = settings.load().private_upstreams
    with scripted_provider() as provider:
        upstreams.allow(allowed | {provider.address, ("127.0.0.1", 9)})
        yield Gateway(server, provider)
        upstreams.allow(allowed)
        # Other modules count what waits there.
        with server.store.engine.begin() as connection:
            connection.execute(text("DELETE FROM paddock_usage_outbox"))
