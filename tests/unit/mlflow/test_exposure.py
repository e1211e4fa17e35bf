"""Where the UI may be reached, and under which names."""

from typing import Any

import pytest

from paddock_mlflow.errors import SettingsError
from paddock_mlflow.exposure import allowed_hosts, allowed_origins, is_loopback, require_safe
from paddock_mlflow.settings import Settings


def settings(**values: Any) -> Settings:
    return Settings(_secrets_dir=None, **values)  # type: ignore[call-arg]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_is_safe(address: str) -> None:
    assert is_loopback(address)
    require_safe(settings(bind_address=address))


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "[::]", "192.168.1.5", "203.0.113.5", "", "paddock.lan"]
)
def test_every_other_address_is_refused_unless_it_is_meant(address: str) -> None:
    with pytest.raises(SettingsError, match="expected BIND_ADDRESS to be a loopback") as refused:
        require_safe(settings(bind_address=address))
    assert "ALLOW_PLAIN_HTTP=yes" in str(refused.value)
    require_safe(settings(bind_address=address, allow_plain_http=True))


def test_a_tls_proxy_beside_it_does_not_make_a_public_port_safe() -> None:
    with pytest.raises(SettingsError):
        require_safe(settings(bind_address="0.0.0.0", site_address="paddock.example.org"))


def test_names_that_browsers_may_use() -> None:
    own = ["mlflow", "mlflow:*", "localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*", "[::1]", "[::1]:*"]
    assert allowed_hosts(settings()) == own
    assert allowed_hosts(settings(bind_address="0.0.0.0")) == own
    assert allowed_hosts(settings(bind_address="192.168.1.5", allowed_hosts="a.lan, b.lan:81")) == [
        *own,
        *("192.168.1.5", "192.168.1.5:*"),
        *("a.lan", "b.lan:81"),
    ]
    assert allowed_hosts(settings(site_address="paddock.example.org"))[-2:] == [
        "paddock.example.org",
        "paddock.example.org:*",
    ]


def test_pages_that_may_change_something() -> None:
    assert allowed_origins(settings()) == []
    assert allowed_origins(settings(site_address="paddock.example.org", https_port=8443)) == [
        "https://paddock.example.org",
        "https://paddock.example.org:8443",
    ]
    assert allowed_origins(settings(site_address="2001:db8::5"))[0] == "https://[2001:db8::5]"
    # A proxy of somebody's own may speak TLS or not.
    assert allowed_origins(settings(allowed_hosts="a.lan")) == ["http://a.lan", "https://a.lan"]
