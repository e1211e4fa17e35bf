"""What goes through the proxy, and what does not."""

import base64
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from outside import KEY, OTHER_KEY, Outside, Running, proxy

ALLOWED = ("index.example", "*.index.example")


@pytest.fixture
def running(outside: Outside, tmp_path: Path) -> Iterator[Running]:
    """A proxy whose defaults allow one host, and whose run is allowed two more."""
    with proxy(outside, tmp_path, "version: 1\ndefaults: {allow: [other.example]}", allow=ALLOWED) as one:
        yield one


def connect(
    running: Running,
    target: str,
    *,
    key: str | None = KEY,
    headers: tuple[str, ...] = (),
    method: str = "CONNECT",
    after: bytes = b"",
) -> tuple[int, str, socket.socket]:
    """Status and whole answer of a request written by hand, and the socket."""
    client = socket.create_connection(("127.0.0.1", running.port), timeout=10)
    lines = [f"{method} {target} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append(f"Host: {target}")
    if key is not None:
        lines.append("Proxy-Authorization: Basic " + base64.b64encode(f"run:{key}".encode()).decode())
    client.sendall("\r\n".join([*lines, "", ""]).encode() + after)
    answer = b""
    while b"\r\n\r\n" not in answer and (more := client.recv(65536)):
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        while more := client.recv(65536):
            answer += more
    return int(answer.split()[1]) if answer else 0, answer.decode("latin-1"), client


@pytest.mark.parametrize("host", ["index.example", "files.index.example", "other.example"])
def test_an_allowed_host_is_reached_and_its_tls_is_its_own(
    running: Running, outside: Outside, host: str
) -> None:
    with running.client() as client:
        answer = client.get(f"https://{host}/simple/?q=1", headers={"Authorization": "Bearer mine"})
    assert answer.json()["path"] == "/simple/?q=1"
    # Nothing is taken out or put in: the tunnel is the client's and the host's alone.
    assert answer.json()["headers"]["authorization"] == "Bearer mine"
    assert (
        running.lines("allowed")[-1] | {"host": host, "port": 443, "run_id": "run-1"}
        == running.lines("allowed")[-1]
    )


def test_what_is_not_allowed_is_refused_in_words_and_logged_with_its_run(running: Running) -> None:
    status, answer, _ = connect(running, "git.example:443")
    assert status == 403
    assert '"reason": "not-allowed"' in answer
    for word in ("expected", "found", "remedy", "--allow git.example"):
        assert word in answer
    assert running.refused() | {
        "run_id": "run-1", "host": "git.example", "port": 443, "reason": "not-allowed"
    } == running.refused()  # fmt: skip


def test_a_run_has_its_own_list_and_the_defaults(running: Running) -> None:
    assert connect(running, "index.example:443", key=OTHER_KEY)[0] == 403
    assert running.refused()["run_id"] == "run-2"
    assert connect(running, "other.example:443", key=OTHER_KEY)[0] == 200


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("index.example:80", "port"),
        ("index.example:22", "port"),
        ("index.example:4430", "port"),
        ("index.example:0443x", "port"),
        ("index.example", "port"),
        ("192.88.99.7:443", "no-host-name"),
        ("127.0.0.1:443", "no-host-name"),
        ("127.1:443", "no-host-name"),
        ("2130706433:443", "no-host-name"),
        ("0x7f000001:443", "no-host-name"),
        ("0x7f.1:443", "no-host-name"),
        ("[::1]:443", "no-host-name"),
        ("[::ffff:10.0.0.1]:443", "no-host-name"),
        ("localhost:443", "no-host-name"),
        ("mlflow:443", "no-host-name"),
        ("gate:443", "no-host-name"),
        ("egress:443", "no-host-name"),
        ("paddock-mlflow-1.paddock_outside:443", "no-host-name"),
        ("index.example.:443", "no-host-name"),
        ("index.example@git.example:443", "no-host-name"),
        ("index.example%00.git.example:443", "no-host-name"),
        ("git.example:443", "not-allowed"),
        ("xindex.example:443", "not-allowed"),
        ("index.example.git.example:443", "not-allowed"),
    ],
)
def test_the_way_round_is_closed(running: Running, target: str, reason: str) -> None:
    assert connect(running, target, headers=("Host: " + target,))[0] == 403
    assert (running.refused()["reason"], running.refused()["run_id"]) == (reason, "run-1")


def test_upper_case_is_the_same_name(running: Running) -> None:
    assert connect(running, "INDEX.example:443")[0] == 200


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.2.3", "address-private"),
        ("172.18.0.5", "address-private"),
        ("192.168.1.1", "address-private"),
        ("100.64.0.1", "address-private"),
        ("127.0.0.1", "address-loopback"),
        ("127.8.8.8", "address-loopback"),
        ("0.0.0.0", "address-reserved"),
        ("169.254.169.254", "address-metadata"),
        ("169.254.7.7", "address-link-local"),
        ("224.0.0.1", "address-multicast"),
        ("255.255.255.255", "address-reserved"),
        ("198.18.0.1", "address-reserved"),
        ("203.0.113.9", "address-reserved"),
        ("::1", "address-loopback"),
        ("::", "address-embedded-ipv4"),
        ("::ffff:10.0.0.1", "address-embedded-ipv4"),
        ("::ffff:1.1.1.1", "address-embedded-ipv4"),
        ("64:ff9b::a00:1", "address-embedded-ipv4"),
        ("2002:a00:1::1", "address-embedded-ipv4"),
        ("fe80::1", "address-link-local"),
        ("fc00::1", "address-private"),
        ("fd00:ec2::254", "address-metadata"),
        ("ff02::1", "address-multicast"),
    ],
)
def test_a_name_that_leads_inside_is_refused(running: Running, address: str, reason: str) -> None:
    running.addresses["index.example"] = [address]
    assert connect(running, "index.example:443")[0] == 403
    assert running.refused()["reason"] == reason
    # Nor does a public address beside it help.
    running.addresses["index.example"] = ["192.88.99.7", address]
    assert connect(running, "index.example:443")[0] == 403


def test_the_name_is_looked_up_once(running: Running) -> None:
    """What was checked is what is connected to: a second answer has nothing to change."""
    asked = []
    flipping = running.addresses

    class Rebinding(dict):  # type: ignore[type-arg]
        def __getitem__(self, host: str) -> list[str]:
            asked.append(host)
            return ["192.88.99.7"] if len(asked) == 1 else ["127.0.0.1"]

        def __contains__(self, host: object) -> bool:
            return True

    running._proxy._look_up = _looking_up(Rebinding(flipping))
    with running.client() as client:
        assert client.get("https://index.example/").status_code == 200
    assert asked == ["index.example"]


def _looking_up(table):  # type: ignore[no-untyped-def]
    async def look_up(host: str) -> list[str]:
        return list(table[host])

    return look_up


@pytest.mark.parametrize(
    ("key", "status", "reason"),
    [
        (None, 407, "no-key"),
        ("", 407, "unknown-key"),
        ("sk-of-a-provider", 407, "unknown-key"),
        ("pdk_" + "z" * 43, 407, "unknown-key"),
    ],
)
def test_a_client_without_a_runs_key_is_refused(
    running: Running, key: str | None, status: int, reason: str
) -> None:
    found, answer, _ = connect(running, "index.example:443", key=key)
    assert (found, running.refused()["reason"]) == (status, reason)
    assert "proxy-authenticate: Basic" in answer


def test_plain_http_is_refused(running: Running) -> None:
    with running.client() as client:
        answer = client.get("http://index.example/simple/")
    assert answer.status_code == 403
    assert answer.json()["error"]["reason"] == "plain-http"
    assert running.refused()["host"] == "http://index.example/simple/"
    assert running.refused()["run_id"] == "run-1"


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5",),
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Host: index.example:443", "Host: git.example:443"),
        ("Host: git.example:443",),
        (" folded: x",),
        ("Bad Header: x",),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused(
    running: Running, headers: tuple[str, ...]
) -> None:
    assert connect(running, "index.example:443", headers=headers)[0] == 400


def test_the_client_hello_must_name_the_host(running: Running, outside: Outside) -> None:
    for name in ("git.example", None):
        context = ssl.create_default_context(cadata=outside.roots)
        context.check_hostname = False
        status, _, client = connect(running, "index.example:443")
        assert status == 200
        with pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(client, server_hostname=name)
        assert running.refused()["reason"] == "sni-mismatch"


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00", b"\x00" * 70000]
)
def test_what_is_no_tls_does_not_pass(running: Running, data: bytes) -> None:
    _, _, client = connect(running, "index.example:443", after=data)
    client.settimeout(10)
    try:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    except ConnectionResetError:
        pass
    assert running.refused()["reason"] == "not-tls"


def test_a_revoked_key_opens_nothing_and_its_connections_end(running: Running) -> None:
    status, _, client = connect(running, "index.example:443")
    assert status == 200
    # Kept alive by a handshake.
    context = ssl.create_default_context(cafile=str(running.trust / "ca-bundle.crt"))
    tls = context.wrap_socket(client, server_hostname="index.example")
    running.look_after()
    tls.sendall(b"GET / HTTP/1.1\r\nHost: index.example\r\n\r\n")
    assert tls.recv(10)
    for run in running.inside.runs.values():
        run["state"] = "revoked"
    running.look_after()
    tls.settimeout(10)
    with pytest.raises((ConnectionResetError, ssl.SSLError)):
        while tls.recv(65536):
            pass
        raise ConnectionResetError
    assert running.refused()["reason"] == "key-revoked"
    assert connect(running, "index.example:443")[0] == 403


def test_an_answer_is_remembered_for_seconds_only(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from paddock_egress import runs

    assert connect(running, "index.example:443")[0] == 200
    assert connect(running, "index.example:443")[0] == 200
    assert running.inside.asked == 1
    monkeypatch.setattr(runs, "FRESH_SECONDS", 0)
    for run in running.inside.runs.values():
        run["state"] = "expired"
    assert connect(running, "index.example:443")[0] == 403
    assert running.refused()["reason"] == "key-expired"


def test_nothing_is_let_through_while_mlflow_is_away(running: Running) -> None:
    running.inside.away = True
    status, answer, _ = connect(running, "index.example:443")
    assert (status, running.refused()["reason"]) == (503, "mlflow-away")
    assert "try again" in answer
    running.inside.away = False
    # A silence is not remembered as an answer.
    assert connect(running, "index.example:443")[0] == 200


def test_connections_outlive_a_short_absence_of_mlflow_alone(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_egress import proxy as module

    _, _, client = connect(running, "index.example:443")
    tls = ssl.create_default_context(cafile=str(running.trust / "ca-bundle.crt")).wrap_socket(
        client, server_hostname="index.example"
    )
    running.inside.away = True
    running.look_after()
    tls.sendall(b"GET / HTTP/1.1\r\nHost: index.example\r\n\r\n")
    assert tls.recv(10)
    monkeypatch.setattr(module, "OUTAGE_SECONDS", -1)
    running.look_after()
    assert running.refused()["reason"] == "mlflow-away"


def test_connections_and_bytes_of_a_run_are_bounded(outside: Outside, tmp_path: Path) -> None:
    limits = "limits: {connections: 2, upload_bytes: 20000, download_bytes: 1000000}"
    with proxy(outside, tmp_path, f"version: 1\n{limits}", allow=ALLOWED) as one:
        held = [connect(one, "index.example:443") for _ in range(2)]
        assert [status for status, _, _ in held] == [200, 200]
        assert connect(one, "index.example:443")[0] == 429
        assert one.refused()["reason"] == "too-many-connections"
        for _, _, client in held:
            client.close()
        _until(lambda: len(one.lines("closed")) == 2)
        with one.client() as client, pytest.raises(httpx.HTTPError):
            client.post("https://index.example/", content=b"x" * 100_000)
        _until(lambda: one.refused()["reason"] == "too-many-bytes")
        # Used up is used up.
        assert connect(one, "index.example:443")[0] == 429
        assert not any(entry["method"] == "POST" and len(entry["body"]) == 100_000 for entry in outside.seen)


def test_a_download_is_bounded(outside: Outside, tmp_path: Path) -> None:
    with proxy(outside, tmp_path, "version: 1\nlimits: {download_bytes: 50000}", allow=ALLOWED) as one:
        with one.client() as client, pytest.raises(httpx.HTTPError):
            client.get("https://index.example/big")
        _until(lambda: one.refused()["reason"] == "too-many-bytes")


def test_a_connection_ends_with_its_time(outside: Outside, tmp_path: Path) -> None:
    with proxy(outside, tmp_path, "version: 1\nlimits: {connection_seconds: 1}", allow=ALLOWED) as one:
        _, _, client = connect(one, "index.example:443")
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            if client.recv(1) == b"":
                raise ConnectionResetError
        _until(lambda: one.lines("closed")[-1]["reason"] == "connection_seconds")


def test_a_client_without_a_key_holds_few_connections(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_egress import proxy as module

    monkeypatch.setattr(module, "MAX_OF_CLIENT", 3)
    held = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(3)]
    _until(lambda: running._proxy._connections.total() == 3)
    assert connect(running, "index.example:443")[0] == 503
    for client in held:
        client.close()
    _until(lambda: running._proxy._connections.total() == 0)
    assert connect(running, "index.example:443")[0] == 200


def test_health_needs_no_key(running: Running) -> None:
    assert httpx.get(f"http://127.0.0.1:{running.port}/healthz", trust_env=False).text == "ok\n"
    assert httpx.get(f"http://127.0.0.1:{running.port}/", trust_env=False).status_code == 407


def test_no_line_of_the_log_has_a_key(running: Running) -> None:
    connect(running, "index.example:443")
    connect(running, "git.example:443")
    connect(running, "index.example:443", key="pdk_" + "z" * 43)
    connect(running, f"http://index.example/?{KEY}", method="GET")
    assert KEY not in running.text()
    assert "z" * 43 not in running.text()


def _until(what) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 10
    while True:
        try:
            if what():
                return
        except (IndexError, AssertionError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)
