"""Where the UI can be reached, and under which names.

People log in with name and password, which plain HTTP shows to everybody on the way. So the port of plain HTTP is
published on loopback alone, and other machines come in by the TLS proxy (profile `tls`). Who publishes it elsewhere
all the same, behind a TLS proxy of their own say, has to say so: ALLOW_PLAIN_HTTP.
"""

import ipaddress

from paddock_mlflow.errors import SettingsError
from paddock_mlflow.settings import Settings

_WILDCARDS = ("0.0.0.0", "::", "*", "")


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches what is published there."""
    bare = address.strip("[]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def require_safe(settings: Settings) -> None:
    """
    Raises:
        SettingsError: plain HTTP would be published to other machines, and nobody said that this is meant.
    """
    if not is_loopback(settings.bind_address) and not settings.allow_plain_http:
        raise SettingsError(
            f"expected BIND_ADDRESS to be a loopback address, found {settings.bind_address}, where passwords would travel"
            " without TLS; leave BIND_ADDRESS out and set SITE_ADDRESS to the name that browsers use"
            " (docker compose --profile tls up), or set ALLOW_PLAIN_HTTP=yes if a TLS proxy of yours stands in front"
        )


def allowed_hosts(settings: Settings) -> list[str]:
    """The Host headers that MLflow accepts, as its patterns."""
    names = ["mlflow", "localhost", "127.0.0.1", "[::1]"]
    if settings.bind_address not in _WILDCARDS:
        names.append(_bracketed(settings.bind_address))
    if settings.site_address:
        names.append(_bracketed(settings.site_address))
    hosts = [pattern for name in dict.fromkeys(names) for pattern in (name, f"{name}:*")]
    return hosts + [host.strip() for host in settings.allowed_hosts.split(",") if host.strip()]


def allowed_origins(settings: Settings) -> list[str]:
    """The origins whose pages may change something, beside those on loopback, which MLflow always takes.

    MLflow refuses a POST from any origin that it does not know, its own UI under another name too.
    """
    origins = []
    if settings.site_address:
        # The proxy serves it by TLS alone.
        site = f"https://{_bracketed(settings.site_address)}"
        origins += [site, f"{site}:{settings.https_port}"]
    plain = [host.strip() for host in settings.allowed_hosts.split(",") if host.strip()]
    if settings.allow_plain_http and settings.bind_address not in _WILDCARDS:
        plain += [f"{_bracketed(settings.bind_address)}:*"]
    return origins + [f"{scheme}://{host}" for host in dict.fromkeys(plain) for scheme in ("http", "https")]


def _bracketed(address: str) -> str:
    bare = address.strip("[]")
    return f"[{bare}]" if ":" in bare else bare
