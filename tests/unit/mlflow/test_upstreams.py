"""Which model providers the gateway may reach: public ones over TLS, and the private ones that the operator named."""

import asyncio
from typing import Any

import pytest
from identities import ADMIN

SECRETS = "/api/3.0/mlflow/gateway/secrets/create"


def create(server: Any, name: str, api_base: str) -> Any:
    body = {
        "secret_name": name,
        "secret_value": {"api_key": "any"},
        "provider": "openai",
        "auth_config": {"api_base": api_base},
    }
    return server.http.post(SECRETS, json=body, auth=ADMIN)


@pytest.mark.parametrize(
    "api_base",
    [
        "http://postgres:5432",
        "http://127.0.0.1:5000",
        "http://169.254.169.254/latest",
        "https://10.0.0.1/v1",
        "https://[::1]/v1",
        "https://127.1/v1",
        "https://0x7f.1/v1",
        "http://example.com/v1",
        "http://demo-model@postgres:8000/v1",
        "http://demo-model.example.com:8000/v1",
        "ftp://demo-model/v1",
        "file:///etc/passwd",
        "//demo-model/v1",
    ],
)
def test_a_secret_cannot_lead_inside(server: Any, api_base: str) -> None:
    answer = create(server, f"bad-{abs(hash(api_base))}", api_base)
    assert answer.status_code == 400, answer.text
    assert "api_base" in answer.text


def test_the_named_host_may_be_written(server: Any) -> None:
    assert create(server, "demo-model-key", "http://demo-model:8000/v1").status_code == 200


class Resolver:
    def __init__(self, address: str) -> None:
        self.address = address

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [
            {"hostname": host, "host": self.address, "port": port, "family": family, "proto": 0, "flags": 0}
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("host", "address", "passes"),
    [
        ("demo-model", "172.18.0.5", True),
        ("api.openai.com", "104.18.6.192", True),
        # A public name that leads inside: what the check at connect time is for.
        ("rebound.example.com", "172.18.0.5", False),
        ("rebound.example.com", "127.0.0.1", False),
        ("rebound.example.com", "169.254.169.254", False),
        ("postgres", "172.18.0.2", False),
    ],
)
def test_a_connection_is_checked_by_its_address(server: Any, host: str, address: str, passes: bool) -> None:
    from mlflow.gateway.ssrf import GatewaySSRFProtectionError, SSRFGuardedResolver

    found = asyncio.run(_resolves(SSRFGuardedResolver(Resolver(address)), host, GatewaySSRFProtectionError))
    assert found is passes


async def _resolves(resolver: Any, host: str, refusal: type[Exception]) -> bool:
    try:
        await resolver.resolve(host, 443)
    except refusal:
        return False
    return True


def test_the_guard_is_on(server: Any) -> None:
    from mlflow.environment_variables import MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS

    assert MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS.get() is False
