"""Model providers with a private address: those that the operator named, and no other.

MLflow refuses a provider whose address is not public, at the time a secret is written and again when it connects. Its
one switch against that (MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS) opens every private address to everybody who may
write a gateway secret: the database and the object store of this very stack among them. Here the guard stays on, and
only the host names of DEMO_MODEL_URL and LLM_BASE_URL pass it.
"""

from urllib.parse import ParseResult, urlparse

from mlflow.gateway import ssrf
from mlflow.utils import validation

_assert_public_ip = ssrf._assert_public_ip
_validate_gateway_api_base = validation._validate_gateway_api_base


def allow(upstreams: frozenset[tuple[str, int]]) -> None:
    """Let the gateway reach these hosts (names or literal addresses) at these ports, even where they are private."""
    hosts = {host for host, _ in upstreams}

    def assert_public_ip(address: str, host: str) -> None:
        if host not in hosts:
            _assert_public_ip(address, host)

    def validate_api_base(url: str) -> None:
        parts = urlparse(url)
        if parts.scheme in ("http", "https") and (parts.hostname, _port(parts)) in upstreams:
            return
        if parts.scheme == "http":
            # The setting that allows http for the named hosts would allow it for all.
            raise validation.MlflowException.invalid_parameter_value(
                f"Invalid Gateway secret api_base: expected https, found {url!r}; a provider without TLS or with a"
                " private address is named by LLM_BASE_URL in .env"
            )
        _validate_gateway_api_base(url)

    ssrf._assert_public_ip = assert_public_ip
    validation._validate_gateway_api_base = validate_api_base


def _port(parts: ParseResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
