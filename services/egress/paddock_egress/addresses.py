"""From a name to an address that may be connected to. What was checked is what is connected to, so a name that changes
its mind in between (DNS rebinding) gains nothing."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable

from paddock_egress.errors import Refusal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str], Awaitable[list[str]]]
"""All addresses of a name, as text. Raises OSError where there is none."""

RESOLVE_SECONDS = 5
STACK = (
    "agent", "collector", "demo-model", "egress", "gate", "mlflow", "mlflow-jobs", "object-store", "postgres",
    "seaweedfs", "tls", "host.docker.internal",
)  # fmt: skip
"""Names that Docker resolves for the stack's own services. No list can name them; nor may another name lead there."""
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_METADATA = tuple(
    ipaddress.ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
)
_WRAPPING = tuple(
    ipaddress.ip_network(text)
    # An IPv4 address in other clothes: mapped, compatible, NAT64, 6to4, Teredo.
    for text in ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)

KINDS = {
    "metadata": "that of a cloud's metadata service",
    "loopback": "one of this machine itself",
    "link-local": "a link-local one",
    "multicast": "a multicast one",
    "private": "a private one",
    "reserved": "a reserved one",
    "embedded-ipv4": "an IPv4 address in IPv6's clothes",
    "stack": "that of a service of this stack",
}


def objection(address: Address, *, private: bool) -> str | None:
    """The kind of an address that may not be connected to, one of KINDS; None where it may.

    Args:
        private: the operator declared that the host's address may be a private one.
    """
    if address in _METADATA:
        return "metadata"
    if isinstance(address, ipaddress.IPv6Address) and (
        address.scope_id or any(address in net for net in _WRAPPING)
    ):
        return "loopback" if address.is_loopback else "embedded-ipv4"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    if any(address in net for net in _PRIVATE if net.version == address.version):
        return None if private else "private"
    # What is left of the special ranges: this network, documentation, benchmarks, reserved, site-local.
    if address.is_unspecified or address.is_reserved or not address.is_global:
        return "reserved"
    return None


async def lookup(host: str) -> list[str]:
    """All addresses of a name, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def own_addresses(look_up: Lookup) -> set[str]:
    """Addresses of the stack's services, this proxy among them."""
    found: set[str] = set()
    answers = await asyncio.gather(*(look_up(name) for name in STACK), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, list):
            found.update(answer)
    return found


async def checked(host: str, *, private: bool, look_up: Lookup = lookup) -> list[str]:
    """The addresses of a host, every one of them harmless.

    One bad address among them refuses the host: a name that is partly here and partly there is not an honest one.

    Raises:
        Refusal: there is none, or one that may not be connected to.
    """
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            texts = await look_up(host)
            forbidden = await own_addresses(look_up) if private else set()
    except (OSError, TimeoutError, UnicodeError):
        texts = []
        forbidden = set()
    if not texts:
        raise Refusal(
            "unknown-host",
            f"an address of {host}",
            "that the resolver knows none",
            "look at the name, and at the resolver of this machine",
            status=502,
        )
    _check(host, texts, forbidden, private=private)
    return texts


def _check(host: str, texts: Iterable[str], forbidden: set[str], *, private: bool) -> None:
    for text in texts:
        why = objection(ipaddress.ip_address(text), private=private)
        if why is None and text in forbidden:
            why = "stack"
        if why is not None:
            remedy = "nothing but a public address is connected to"
            if why == "private":
                remedy = "declare the host in egress.yaml with `private: true` if it is an internal one"
            raise Refusal(f"address-{why}", f"a public address of {host}", KINDS[why], remedy)
