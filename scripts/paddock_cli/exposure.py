"""Where the stack can be reached from: loopback, or other machines by TLS."""

import ipaddress
import re
from dataclasses import dataclass

from paddock_cli import console
from paddock_cli.errors import BadSettings

LOOPBACK = "127.0.0.1"
NAMES = ("BIND_ADDRESS", "ALLOW_PLAIN_HTTP", "SITE_ADDRESS", "HTTPS_BIND_ADDRESS", "COMPOSE_PROFILES")
TLS = "tls"
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0", "")


@dataclass(frozen=True)
class Exposure:
    """Checked settings; addresses are those of this machine that ports are published on."""

    bind_address: str = LOOPBACK
    """Of MLflow's own port, plain HTTP."""
    allow_plain_http: bool = False
    site_address: str = ""
    """The name that browsers use for the TLS proxy; empty where there is none."""
    https_bind_address: str = LOOPBACK
    https_port: str = "443"
    profiles: tuple[str, ...] = ()
    """Compose's profiles that are on: those that the user named, and `tls` where there is a name for it."""

    @property
    def site_url(self) -> str:
        """Where browsers find the stack by TLS; empty where there is no site."""
        if not self.site_address:
            return ""
        return f"https://{self.site_address}" + ("" if self.https_port == "443" else f":{self.https_port}")

    def require_safe(self) -> None:
        """
        Raises:
            BadSettings: passwords would travel without TLS, and nobody said that this is meant.
        """
        if not _is_loopback(self.bind_address) and not self.allow_plain_http:
            raise BadSettings(
                "BIND_ADDRESS to be a loopback address, since passwords travel without TLS there",
                self.bind_address,
                "unset it and set SITE_ADDRESS to the name that browsers use and HTTPS_BIND_ADDRESS=0.0.0.0, which"
                " starts a TLS proxy; or set ALLOW_PLAIN_HTTP=yes if one of yours stands in front",
            )
        if not _is_loopback(self.bind_address):
            console.warn(
                f"MLflow is published at {self.bind_address} by plain HTTP, as ALLOW_PLAIN_HTTP says:"
                " who is on the way reads passwords and keys"
            )
        named = self.site_address not in ("", "localhost") and not _is_loopback(self.site_address)
        if named and _is_loopback(self.https_bind_address):
            console.warn(
                f"https://{self.site_address} is published on loopback alone; set HTTPS_BIND_ADDRESS=0.0.0.0 for other"
                " machines to reach it"
            )


def of(values: dict[str, str]) -> Exposure:
    """The exposure that settings ask for.

    Raises:
        BadSettings: a value can't be used; the text names it.
    """
    site = values.get("SITE_ADDRESS", "").strip()
    if site and not (_HOST.fullmatch(site) or _is_address(site)):
        raise BadSettings(
            "SITE_ADDRESS to be the name or address that browsers use, like paddock.example.org",
            repr(site),
            "leave out scheme, port and path (the port is HTTPS_PORT)",
        )
    named = [profile.strip() for profile in values.get("COMPOSE_PROFILES", "").split(",") if profile.strip()]
    return Exposure(
        bind_address=_address(values, "BIND_ADDRESS"),
        allow_plain_http=_yes(values, "ALLOW_PLAIN_HTTP"),
        site_address=site,
        https_bind_address=_address(values, "HTTPS_BIND_ADDRESS"),
        https_port=values.get("HTTPS_PORT", "").strip() or "443",
        profiles=tuple(dict.fromkeys([*named, *([TLS] if site else [])])),
    )


def reachable(address: str) -> str:
    """How this machine calls what is published at an address: that of all interfaces is none."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") in ("0.0.0.0", "::"):
        host = LOOPBACK
    return f"{host}:{port}"


def _address(values: dict[str, str], name: str) -> str:
    text = values.get(name, "").strip() or LOOPBACK
    if not _is_address(text):
        raise BadSettings(
            f"{name} to be an address of this machine, or 0.0.0.0 for all of them",
            repr(text),
            f"mend {name}, or unset it",
        )
    return text


def _yes(values: dict[str, str], name: str) -> bool:
    text = values.get(name, "").strip().lower()
    if text not in (*_YES, *_NO):
        raise BadSettings(f"{name} to be yes or no", repr(text), f"mend {name}, or unset it")
    return text in _YES


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text.strip("[]")).is_loopback
