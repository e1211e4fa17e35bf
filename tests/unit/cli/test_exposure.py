"""Which addresses and names the stack is started with, and what is refused before anything is done."""

import pytest

from paddock_cli.errors import BadSettings
from paddock_cli.exposure import LOOPBACK, Exposure, of, reachable


def test_without_settings_it_is_loopback_and_no_profile() -> None:
    assert of({}) == Exposure(LOOPBACK, False, "", LOOPBACK, "443", ())
    assert of({}).site_url == ""
    of({}).require_safe()


def test_a_site_starts_the_tls_proxy_beside_the_users_own_profiles() -> None:
    found = of({"SITE_ADDRESS": "paddock.example.org", "COMPOSE_PROFILES": "backup, tls"})
    assert found.profiles == ("backup", "tls")
    assert found.site_url == "https://paddock.example.org"
    assert of({"SITE_ADDRESS": "localhost", "HTTPS_PORT": "8443"}).site_url == "https://localhost:8443"
    assert of({"SITE_ADDRESS": "localhost"}).profiles == ("tls",)
    assert of({"COMPOSE_PROFILES": "backup"}).profiles == ("backup",)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"SITE_ADDRESS": "https://paddock.example.org"}, "SITE_ADDRESS"),
        ({"SITE_ADDRESS": "paddock.example.org:8443"}, "SITE_ADDRESS"),
        ({"SITE_ADDRESS": "paddock.example.org/x"}, "SITE_ADDRESS"),
        ({"SITE_ADDRESS": "a b"}, "SITE_ADDRESS"),
        ({"SITE_ADDRESS": "a{b"}, "SITE_ADDRESS"),
        ({"BIND_ADDRESS": "paddock.example.org"}, "BIND_ADDRESS"),
        ({"HTTPS_BIND_ADDRESS": "everywhere"}, "HTTPS_BIND_ADDRESS"),
        ({"ALLOW_PLAIN_HTTP": "perhaps"}, "ALLOW_PLAIN_HTTP"),
    ],
)
def test_values_that_make_no_sense_are_named(values: dict[str, str], names: str) -> None:
    with pytest.raises(BadSettings, match=f"expected {names} to be"):
        of(values)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5"])
def test_plain_http_for_other_machines_is_refused_unless_it_is_meant(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadSettings) as refused:
        of({"BIND_ADDRESS": address}).require_safe()
    assert "SITE_ADDRESS" in str(refused.value)
    with pytest.raises(BadSettings):
        of({"BIND_ADDRESS": address, "SITE_ADDRESS": "paddock.example.org"}).require_safe()
    of({"BIND_ADDRESS": address, "ALLOW_PLAIN_HTTP": "yes"}).require_safe()
    assert "plain HTTP" in capsys.readouterr().err


def test_a_site_that_nobody_else_reaches_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    of({"SITE_ADDRESS": "paddock.example.org"}).require_safe()
    assert "HTTPS_BIND_ADDRESS=0.0.0.0" in capsys.readouterr().err
    of({"SITE_ADDRESS": "paddock.example.org", "HTTPS_BIND_ADDRESS": "0.0.0.0"}).require_safe()
    of({"SITE_ADDRESS": "localhost"}).require_safe()
    assert capsys.readouterr().err == ""


def test_this_machine_calls_what_is_published_on_all_interfaces_by_loopback() -> None:
    assert reachable("0.0.0.0:5000") == "127.0.0.1:5000"
    assert reachable("[::]:5000") == "127.0.0.1:5000"
    assert reachable("192.168.1.5:5000") == "192.168.1.5:5000"
