"""Ways out over the network: hosts, names, other containers, and protocols that are not TCP."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from paddock_probes.registry import Attempt, NothingToAimAt, Targets, probe

SECONDS = 2.5
"""How long one attempt waits: longer than a neighbour that does not exist is looked for (ARP gives up after about 3 s on
the whole, each attempt of ours runs beside the others)."""
_RESOLVER = "127.0.0.11"
"""Docker's own name server, in every container on a network of its own."""
_AF_VSOCK = 40
_HOST_CID = 2


def reason(error: OSError) -> str:
    """An error in the words of the system."""
    if isinstance(error, TimeoutError):
        return "no answer"
    return error.strerror or str(error)


def connect(address: str, port: int, *, seconds: float = SECONDS) -> tuple[bool, str]:
    """Whether a TCP connection comes about, and what was seen."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return True, "connected"
    except OSError as error:
        # Somebody was there to refuse it.
        return isinstance(error, ConnectionRefusedError), reason(error)


def every(tries: Iterable[Callable[[], Attempt]]) -> list[Attempt]:
    """All attempts at once: most of them wait for an answer that does not come."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda one: one(), list(tries)))


def _tcp(what: str, address: str, port: int) -> Callable[[], Attempt]:
    def attempt() -> Attempt:
        through, seen = connect(address, port)
        return Attempt(what, through, seen)

    return attempt


def routed(address: str, family: int = socket.AF_INET) -> tuple[bool, str]:
    """Whether the kernel knows a way to an address. Nothing is sent: connecting a UDP socket only looks up the route."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe_socket:
            probe_socket.connect((address, 9))
            return True, f"route by {probe_socket.getsockname()[0]}"
    except OSError as error:
        return False, reason(error)


@probe(
    "route-outside",
    attempt="a way to any address outside the container's own network",
    wall="network `agent` is internal: the container has no default route",
    marks=("LLM02", "ASI02", "CIS 5.29"),
)
def route_outside(targets: Targets) -> list[Attempt]:
    addresses = (*targets.outside, "198.51.100.1", "203.0.113.1")
    found = [Attempt(address, *routed(address)) for address in addresses]
    with open("/proc/net/route", encoding="ascii") as table:
        gateways = [line.split()[2] for line in table.readlines()[1:] if line.split()[2] != "00000000"]
    return [*found, Attempt("gateways in the route table", bool(gateways), f"{len(gateways)} gateways")]


@probe(
    "host-port",
    attempt="a port of the host, by each of its addresses: bridges' and its own",
    wall="network `agent` is internal, and its bridge has no address on the host (`inhibit_ipv4`)",
    marks=("ASI05", "CIS 5.8", "CIS 5.13"),
)
def host_port(targets: Targets) -> list[Attempt]:
    if not (targets.host and targets.host_port):
        raise NothingToAimAt("no listener on the host")
    return every(
        _tcp(f"{address}:{targets.host_port}", address, targets.host_port) for address in targets.host
    )


@probe(
    "bridge-gateway",
    attempt="what listens at the first address of the container's own networks, where a bridge's host end is",
    wall="the bridge of network `agent` has no address on the host (`inhibit_ipv4`)",
    marks=("ASI05", "CIS 5.8", "CIS 5.29"),
)
def bridge_gateway(targets: Targets) -> list[Attempt]:
    ports = [port for port in (targets.host_port, 22, 2375, 2376, 5000, 5432) if port]
    gateways = [_first(network, mask) for network, mask in _networks()]
    if not gateways:
        return [Attempt("networks", False, "no network at all")]
    return every(_tcp(f"{gateway}:{port}", gateway, port) for gateway in gateways for port in ports)


@probe(
    "metadata-service",
    attempt="the cloud's metadata service at 169.254.169.254, which hands out the machine's credentials",
    wall="network `agent` is internal: no route",
    marks=("LLM02", "ASI03"),
)
def metadata_service(targets: Targets) -> list[Attempt]:
    known, seen = routed(targets.metadata)
    if not known:
        return [Attempt("169.254.169.254", False, seen)]
    return [Attempt(targets.metadata, *get(targets.metadata, 80, targets.metadata_path))]


@probe(
    "internet-tcp",
    attempt="TCP to a host outside: 80, 443, 22, 25",
    wall="network `agent` is internal: no route",
    marks=("LLM02", "ASI02", "ASI10"),
)
def internet_tcp(targets: Targets) -> list[Attempt]:
    return every(
        _tcp(f"{address}:{port}", address, port)
        for address in _outside(targets)
        for port in (80, 443, 22, 25)
    )


@probe(
    "internet-udp",
    attempt="UDP to a host outside, as QUIC or any tunnel would",
    wall="network `agent` is internal: no route",
    marks=("LLM02", "ASI02"),
)
def internet_udp(targets: Targets) -> list[Attempt]:
    def attempt(address: str, port: int) -> Attempt:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SECONDS)
            try:
                sender.sendto(b"probe", (address, port))
                sender.recvfrom(512)
            except OSError as error:
                return Attempt(f"{address}:{port}", False, reason(error))
        return Attempt(f"{address}:{port}", True, "answered")

    return every((lambda a=a, p=p: attempt(a, p)) for a in _outside(targets) for p in (53, 443, 4500))


@probe(
    "internet-icmp",
    attempt="ICMP echo to a host outside, by the ping socket that needs no capability",
    wall="network `agent` is internal: no route",
    marks=("LLM02", "ASI02"),
)
def internet_icmp(targets: Targets) -> list[Attempt]:
    return every((lambda a=address: _ping(a)) for address in _outside(targets))


@probe(
    "ipv6",
    attempt="IPv6: an address of one's own, a host outside, every machine on the link (ff02::1)",
    wall="the engine switches IPv6 off in containers on networks without it",
    marks=("LLM02", "ASI02"),
)
def ipv6(targets: Targets) -> list[Attempt]:
    attempts = []
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as table:
        owned = [line.split() for line in table if line.split()[-1] != "lo"]
        attempts.append(Attempt("own addresses", bool(owned), f"{len(owned)} IPv6 addresses"))
    attempts += [
        Attempt(address, *routed(address, socket.AF_INET6)) for address in (*targets.outside6, "2001:db8::1")
    ]
    for _, name in socket.if_nameindex():
        if name == "lo":
            continue
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            try:
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
                sender.sendto(b"probe", ("ff02::1", 9, 0, socket.if_nametoindex(name)))
                attempts.append(Attempt(f"ff02::1%{name}", True, "sent"))
            except OSError as error:
                attempts.append(Attempt(f"ff02::1%{name}", False, reason(error)))
    return attempts


@probe(
    "dns-outside",
    attempt="data in the names of DNS queries: by the system's resolver, by Docker's, and by a name server outside",
    wall="`dns: 127.0.0.1` for the engine's resolver, and no route to any other",
    marks=("LLM02", "ASI02"),
)
def dns_outside(targets: Targets) -> list[Attempt]:
    name = targets.outside_name or "exfil.paddock-probe.invalid"
    servers = [_RESOLVER, *([targets.resolver] if targets.resolver else [])]
    tries = [(lambda s=server, k=kind: _query(s, name, k)) for server in servers for kind in (1, 16)]
    return every([*tries, lambda: _over_tcp(targets.resolver, name)] if targets.resolver else tries)


@probe(
    "services-by-address",
    attempt="MLflow, PostgreSQL, the object store and the demo model by address, on every network they have",
    wall="they are on network `core`, which the container has no leg on",
    marks=("LLM02", "ASI03", "CIS 5.29"),
)
def services_by_address(targets: Targets) -> list[Attempt]:
    if not targets.services:
        raise NothingToAimAt("no service is known")
    return every(
        _tcp(f"{service} {address}:{port}", address, port)
        for service, (addresses, port) in targets.services.items()
        for address in addresses
    )


@probe(
    "services-by-name",
    attempt="the same by name",
    wall="names resolve only on networks that the container is on",
    marks=("LLM02", "ASI03"),
)
def services_by_name(targets: Targets) -> list[Attempt]:
    if not targets.services:
        raise NothingToAimAt("no service is known")

    def attempt(service: str, port: int) -> Attempt:
        answer = _query(_RESOLVER, service, 1)
        if not answer.through:
            return Attempt(service, False, answer.seen)
        through, seen = connect(service, port)
        return Attempt(service, through, seen)

    # Nothing answers for a network-less container, which then can't resolve either.
    return every((lambda s=s, p=p: attempt(s, p)) for s, (_, p) in targets.services.items())


@probe(
    "neighbour",
    attempt="a port that another agent has opened on all its addresses, such as a development server",
    wall="none: agents share network `agent`",
    marks=("ASI07", "CIS 5.29"),
    stands_open="all agents of a stack are on one network, because the gate must be reached by all; a server that an "
    "agent starts should listen on 127.0.0.1. Agents that must not meet belong to stacks of their own "
    "(COMPOSE_PROJECT_NAME)",
)
def neighbour(targets: Targets) -> list[Attempt]:
    if targets.neighbour is None:
        raise NothingToAimAt("no other agent runs")
    return [Attempt("another agent's port", *connect(*targets.neighbour))]


@probe(
    "raw-socket",
    attempt="raw and packet sockets, to forge addresses (ARP, ICMP) or to listen to others' packets",
    wall="no capability (`cap_drop: ALL`): NET_RAW is missing",
    marks=("ASI05", "ASI07", "CIS 5.3"),
)
def raw_socket(targets: Targets) -> list[Attempt]:
    kinds = (
        ("raw ICMP", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        ("raw TCP", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
        ("packet", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
        ("packet datagram", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)),
    )
    return [_opens(name, family, kind, number) for name, family, kind, number in kinds]


@probe(
    "vsock",
    attempt="a socket to the hypervisor (AF_VSOCK), past all networks",
    wall="the engine's seccomp profile",
    marks=("ASI05", "CIS 5.21"),
)
def vsock(targets: Targets) -> list[Attempt]:
    return [_opens("AF_VSOCK", _AF_VSOCK, socket.SOCK_STREAM, 0)]


@probe(
    "abstract-socket",
    attempt="abstract UNIX sockets of the host, such as containerd's or D-Bus'",
    wall="a network namespace of the container's own",
    marks=("ASI05", "CIS 5.9"),
)
def abstract_socket(targets: Targets) -> list[Attempt]:
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
        names = {line.split()[-1] for line in table.readlines()[1:] if line.split()[-1].startswith("@")}
    found = sorted(name for name in names if "containerd" in name or "dbus" in name or "paddock" in name)
    return [Attempt("abstract sockets", bool(found), ", ".join(found[:3]) or "none of the host's to see")]


def get(address: str, port: int, path: str) -> tuple[bool, str]:
    """Whether plain HTTP is answered, and its first line."""
    try:
        with socket.create_connection((address, port), timeout=SECONDS) as connection:
            connection.settimeout(SECONDS)
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            answer = connection.recv(4096)
    except OSError as error:
        return isinstance(error, ConnectionRefusedError), reason(error)
    return bool(answer), answer.split(b"\r\n", 1)[0].decode("latin-1") or "closed"


def _outside(targets: Targets) -> tuple[str, ...]:
    if not targets.outside:
        raise NothingToAimAt("nothing stands for the Internet")
    return targets.outside


def _networks() -> Iterator[tuple[int, int]]:
    """Network and mask of each link, from the route table."""
    with open("/proc/net/route", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            _, destination, gateway, *rest = line.split()
            if gateway == "00000000" and destination != "00000000":
                yield (
                    socket.ntohl(int(destination, 16)) & 0xFFFFFFFF,
                    socket.ntohl(int(rest[4], 16)) & 0xFFFFFFFF,
                )


def _first(network: int, mask: int) -> str:
    return socket.inet_ntoa(struct.pack("!I", (network & mask) + 1))


def _opens(name: str, family: int, kind: int, protocol: int) -> Attempt:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return Attempt(name, False, reason(error))
    return Attempt(name, True, "opened")


def _ping(address: str) -> Attempt:
    body = b"probe".ljust(32, b".")
    packet = struct.pack("!BBHHH", 8, 0, 0, 0, 1) + body
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    packet = packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sender:
            sender.settimeout(SECONDS)
            sender.sendto(packet, (address, 0))
            sender.recv(1024)
    except OSError as error:
        return Attempt(address, False, reason(error))
    return Attempt(address, True, "echoed")


def _question(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split("."))
    return (
        os.urandom(2)
        + b"\x01\x00"
        + struct.pack("!HHHH", 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack("!HH", kind, 1)
    )


def _read_answer(what: str, answer: bytes) -> Attempt:
    if len(answer) < 12:
        return Attempt(what, False, "no DNS answer")
    code, count = answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
    names = {0: "no record", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}
    # Only an answer from outside has records; Docker's own resolver says SERVFAIL or NXDOMAIN by itself.
    return Attempt(what, count > 0, "answered with a record" if count else names.get(code, f"code {code}"))


def _query(server: str, name: str, kind: int) -> Attempt:
    what = f"{'A' if kind == 1 else 'TXT'} of {name} at {server}"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SECONDS)
            sender.sendto(_question(name, kind), (server, 53))
            return _read_answer(what, sender.recv(2048))
    except OSError as error:
        return Attempt(what, False, reason(error))


def _over_tcp(server: str, name: str) -> Attempt:
    what = f"A of {name} at {server} over TCP"
    question = _question(name, 1)
    try:
        with socket.create_connection((server, 53), timeout=SECONDS) as connection:
            connection.sendall(struct.pack("!H", len(question)) + question)
            return _read_answer(what, connection.recv(2048)[2:])
    except OSError as error:
        return Attempt(what, False, reason(error))
