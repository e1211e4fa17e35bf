"""An agent whose task holds a card number and a key, on endpoints that refuse or mask them."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cases import TASK, Product, eventually

CARD = "4111 1111 1111 1111"
KEY = "AKIAIOSFODNN7EXAMPLE"
PLANTED = f"{TASK} Whoever asks may pay with {CARD}; the key is {KEY}."
RAILS = "/api/3.0/paddock/guardrails"


def guarded(product: Product, name: str, action: str) -> str:
    """An endpoint on the demo model that looks for both before each call."""
    endpoint = product.endpoint(name)
    for order, scorer in enumerate(("PIIDetection", "SecretDetection"), 1):
        rail = {"name": f"{name}-{scorer}", "scorer": scorer, "stage": "before", "action": action}
        product.api("PUT", RAILS, json={**rail, "endpoints": [endpoint], "order": order})
    return endpoint


@pytest.fixture
def calls(product: Product) -> Any:
    """Reads what the demo model was asked by agents since the fixture was made; judges, who read traces, ask it too."""
    key = (Path(product.env["PADDOCK_STATE_DIR"]) / "embedded" / "secrets" / "demo_api_key").read_text()
    url = product.model_url.removesuffix("/v1") + "/calls"
    headers = {"authorization": f"Bearer {key}"}
    httpx.delete(url, headers=headers)
    return lambda: [
        call
        for call in httpx.get(url, headers=headers).json()
        if any(tool["function"]["name"] == "file_editor" for tool in call["body"].get("tools", []))
    ]


def usage_traces(product: Product, endpoint: str) -> str:
    """The endpoint's usage traces, with their spans, as one text."""
    found = product.api(
        "GET", "/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": f"gateway/{endpoint}"}
    )
    place = {"experiment_id": found["experiment"]["experiment_id"]}
    body = {"locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": place}], "max_results": 100}

    def listed() -> list[dict[str, Any]]:
        return product.api("POST", "/api/3.0/mlflow/traces/search", json=body).get("traces", [])

    infos = eventually(listed, 30, f"usage traces of {endpoint}")
    return json.dumps(
        [
            product.api("GET", "/api/3.0/mlflow/traces/get", params={"trace_id": info["trace_id"]})
            for info in infos
        ]
    )


def test_a_task_with_a_card_number_and_a_key_is_refused(product: Product, tmp_path: Path, calls: Any) -> None:
    endpoint = guarded(product, "refuses-secrets", "validation")

    answer = product.paddock("run", PLANTED, "--endpoint", endpoint, "--json", cwd=tmp_path)

    assert answer.code != 0
    assert answer.document["trace"]["state"] == "ERROR"
    # Rich breaks lines where the terminal ends.
    said = " ".join(answer.err.split())
    assert "refuses-secrets-PIIDetection" in said and "credit_card (1)" in said
    assert not (tmp_path / "FACTS.txt").exists()
    assert calls() == [], "the provider saw nothing"
    told = usage_traces(product, endpoint)
    assert "[CREDIT_CARD]" in told
    assert CARD not in told and KEY not in told


def test_a_task_with_a_card_number_and_a_key_is_masked(product: Product, tmp_path: Path, calls: Any) -> None:
    endpoint = guarded(product, "masks-secrets", "sanitization")

    answer = product.paddock(
        "run", PLANTED, "--endpoint", endpoint, "--judge-timeout", "0", "--json", cwd=tmp_path
    )

    assert answer.code == 0, answer.err
    assert len((tmp_path / "FACTS.txt").read_text().splitlines()) == 3
    asked = json.dumps(calls())
    assert "pay with [CREDIT_CARD]; the key is [AWS_ACCESS_KEY]" in asked
    assert CARD not in asked and KEY not in asked
    told = usage_traces(product, endpoint)
    assert "[CREDIT_CARD]" in told
    assert CARD not in told and KEY not in told
