"""Endpoints of the gateway for tests, by MLflow's own API."""

from typing import Any

from identities import ADMIN


def make_endpoint(server: Any, name: str, model: str, api_base: str = "") -> None:
    """A gateway endpoint on a model of the protocol `openai`, at OpenAI's address where none is given."""

    def post(path: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
        answer = server.http.post(f"/api/3.0/mlflow/gateway/{path}", json=body, auth=ADMIN)
        assert answer.status_code == 200, answer.text
        return answer.json()

    secret = post(
        "secrets/create",
        {
            "secret_name": f"{name}-key",
            "secret_value": {"api_key": "any"},
            "provider": "openai",
            "auth_config": {"api_base": api_base} if api_base else {},
        },
    )["secret"]["secret_id"]
    body = {"name": f"{name}-model", "secret_id": secret, "provider": "openai", "model_name": model}
    definition = post("model-definitions/create", body)["model_definition"]["model_definition_id"]
    link = {"model_definition_id": definition, "linkage_type": "PRIMARY", "weight": 1.0}
    post("endpoints/create", {"name": name, "usage_tracking": True, "model_configs": [link]})
