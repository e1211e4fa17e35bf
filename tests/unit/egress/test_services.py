"""Declared services: reached by rules, with a credential that the agent never sees."""

import base64
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from outside import KEY, Outside, Running, proxy
from test_proxy import connect

TOKEN = "tok-0123456789abcdef-secret"
BASIC = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
CONFIGURATION = """
version: 1
services:
  code:
    host: git.example
    paths: [/team/]
    credential: {secret: COMPANY_GIT_TOKEN, basic_user: x-access-token}
  api:
    host: index.example
    paths: [/v1, /v2/items/]
    methods: [GET, POST]
    credential: {secret: API_TOKEN, header: X-Api-Key, value: "key={secret}"}
  mirror:
    host: other.example
"""


@pytest.fixture
def running(outside: Outside, tmp_path: Path) -> Iterator[Running]:
    """A proxy with three services, and a run that may reach their hosts."""
    outside.seen.clear()
    secrets = {"COMPANY_GIT_TOKEN": TOKEN, "API_TOKEN": TOKEN}
    allow = ("*.example.example", "git.example", "index.example", "other.example")
    with proxy(outside, tmp_path, CONFIGURATION, secrets=secrets, allow=allow) as one:
        yield one


def test_the_credential_is_added_outside_and_never_comes_back(running: Running, outside: Outside) -> None:
    with running.client() as client:
        answer = client.get("https://git.example/team/repository?x=%20y")
    assert answer.status_code == 200
    sent = outside.seen[-1]
    assert sent["headers"]["authorization"] == f"Basic {BASIC}"
    assert sent["path"] == "/team/repository?x=%20y"
    # The server repeats what it was sent, in headers and body; neither form of the secret arrives.
    everything = answer.text + str(answer.headers)
    assert TOKEN not in everything
    assert BASIC not in everything
    assert "*" * len(BASIC) in answer.text
    assert len(answer.content) == int(answer.headers["content-length"])
    assert "authorization" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert answer.headers["x-echo"] == "you sent Basic " + "*" * len(BASIC)
    assert TOKEN not in running.text()
    assert BASIC not in running.text()
    assert KEY not in running.text()
    line = running.lines("request")[-1]
    assert (line["run_id"], line["service"], line["method"], line["path"]) == (
        "run-1", "code", "GET", "/team/repository"
    )  # fmt: skip


def test_a_header_template_and_a_body_go_on(running: Running, outside: Outside) -> None:
    with running.client() as client:
        answers = [
            client.post("https://index.example/v1/things", json={"a": 1}, headers={"X-Api-Key": "mine"}),
            client.post("https://index.example/v1", content=iter([b"in ", b"chunks"])),
        ]
    assert [answer.status_code for answer in answers] == [200, 200]
    first, second = outside.seen[-2:]
    assert first["headers"]["x-api-key"] == f"key={TOKEN}"
    assert first["body"] == '{"a":1}'
    assert second["body"] == "in chunks"


def test_what_an_agent_brings_of_its_own_is_dropped(running: Running, outside: Outside) -> None:
    """With another account's credential it could write where the declared one only reads."""
    mine = {
        "Authorization": "Bearer mine",
        "Cookie": "session=mine",
        "X-Api-Key": "mine",
        "X-HTTP-Method-Override": "DELETE",
        "X-Original-URL": "/other",
        "X-Forwarded-Host": "other.example",
        "Connection": "X-Other",
        "X-Other": "1",
    }
    with running.client() as client:
        client.get("https://index.example/v1", headers=mine)
        client.get("https://git.example/team/x", headers=mine)
        client.get("https://other.example/", headers=mine)
    api, code, mirror = (one["headers"] for one in outside.seen)
    assert api["x-api-key"] == f"key={TOKEN}"
    assert "authorization" not in api
    assert code["authorization"] == f"Basic {BASIC}"
    assert "authorization" not in mirror
    for one in (api, code, mirror):
        assert "cookie" not in one
        assert not {"x-other", "x-http-method-override", "x-original-url", "x-forwarded-host"} & one.keys()
        assert one["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("method", "url", "reason"),
    [
        ("POST", "https://git.example/team/repository.git/git-receive-pack", "method-not-declared"),
        ("GET", "https://git.example/team/r.git/info/refs?service=git-receive-pack", "method-not-declared"),
        (
            "GET",
            "https://git.example/team/r.git/info/refs?a=1&service=git%2Dreceive-pack",
            "method-not-declared",
        ),
        ("PUT", "https://git.example/team/x", "method-not-declared"),
        ("DELETE", "https://index.example/v1/x", "method-not-declared"),
        ("POST", "https://other.example/upload", "method-not-declared"),
        ("GET", "https://git.example/", "path-not-declared"),
        ("GET", "https://git.example/teams/x", "path-not-declared"),
        ("GET", "https://index.example/v10", "path-not-declared"),
        ("GET", "https://index.example/v2/items2", "path-not-declared"),
        ("GET", "https://git.example/team/%2e%2e/other/x", "bad-path"),
        ("GET", "https://git.example/team/..%2fother/x", "bad-path"),
        ("GET", "https://git.example/team/%252e%252e/x", "bad-path"),
        ("GET", "https://git.example/team//x", "bad-path"),
        ("GET", "https://git.example/team/a%5c..%5cb", "bad-path"),
    ],
)
def test_what_is_not_declared_is_refused(
    running: Running, outside: Outside, method: str, url: str, reason: str
) -> None:
    with running.client() as client:
        answer = client.request(method, url)
    assert answer.status_code == 403
    assert answer.json()["error"]["reason"] == reason
    assert {"expected", "found", "remedy"} <= answer.json()["error"].keys()
    assert running.refused() | {"run_id": "run-1", "reason": reason} == running.refused()
    assert not outside.seen


def test_git_may_read(running: Running, outside: Outside) -> None:
    with running.client() as client:
        refs = client.get("https://git.example/team/r.git/info/refs?service=git-upload-pack")
        pack = client.post("https://git.example/team/r.git/git-upload-pack", content=b"0000")
    assert (refs.status_code, pack.status_code) == (200, 200)
    assert outside.seen[-1]["headers"]["authorization"] == f"Basic {BASIC}"


def test_a_redirect_carries_nothing_to_another_host(running: Running, outside: Outside) -> None:
    with declared(running, "/") as client:
        answer = client.get("https://git.example/moved")
        assert answer.status_code == 302
        assert BASIC not in answer.headers["location"]
        outside.seen.clear()
        client.get(answer.headers["location"], headers={"Authorization": "Bearer x"})
        assert [one["headers"].get("authorization") for one in outside.seen] == [None]


def test_many_requests_of_one_connection(running: Running, outside: Outside) -> None:
    with running.client() as client:
        for number in range(5):
            assert client.get(f"https://git.example/team/{number}").status_code == 200
        assert client.head("https://git.example/team/head").status_code == 200
    assert len(running.lines("allowed")) == 1
    assert len(outside.seen) == 6


def tls(running: Running, host: str, *, name: str | None = "") -> ssl.SSLSocket:
    """A connection to a service, written by hand from here on."""
    status, _, client = connect(running, f"{host}:443")
    assert status == 200
    context = ssl.create_default_context(cafile=str(running.trust / "ca-bundle.crt"))
    context.check_hostname = False
    return context.wrap_socket(client, server_hostname=host if name == "" else name)


@pytest.mark.parametrize("name", ["other.example", None])
def test_the_client_hello_of_a_service_must_name_it(running: Running, name: str | None) -> None:
    with pytest.raises((ssl.SSLError, OSError)):
        tls(running, "git.example", name=name)
    assert running.refused()["reason"] == "sni-mismatch"


@pytest.mark.parametrize(
    ("request_lines", "status", "reason"),
    [
        (["GET /team/x HTTP/1.1", "Host: other.example"], 403, "host-mismatch"),
        (["GET /team/x HTTP/1.1", "Host: git.example", "Host: other.example"], 400, "bad-request"),
        (["GET https://other.example/team/x HTTP/1.1", "Host: git.example"], 403, "bad-target"),
        (
            ["GET /team/x HTTP/1.1", "Host: git.example", "Upgrade: websocket", "Connection: upgrade"],
            403,
            "upgrade",
        ),
        (
            [
                "POST /team/git-upload-pack HTTP/1.1",
                "Host: git.example",
                "Content-Length: 4",
                "Content-Length: 5",
            ],
            400,
            "bad-request",
        ),
        (["GET /team/x HTTP/1.1", "Host: git.example", "X : y"], 400, "bad-request"),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused(
    running: Running, outside: Outside, request_lines: list[str], status: int, reason: str
) -> None:
    connection = tls(running, "git.example")
    connection.sendall("\r\n".join([*request_lines, "", ""]).encode())
    answer = b""
    try:
        while more := connection.recv(65536):
            answer += more
    except ssl.SSLError:
        pass
    if status == 403:
        assert answer.startswith(f"HTTP/1.1 {status}".encode())
    _until(lambda: running.refused()["reason"] == reason)
    assert not outside.seen


def test_a_smuggled_second_request_is_looked_at_as_a_request(running: Running, outside: Outside) -> None:
    """With both framings h11 goes by the chunks, and one framing goes on: what is left is a request, under the rules."""
    connection = tls(running, "git.example")
    smuggled = b"GET /team/../secret HTTP/1.1\r\nHost: git.example\r\n\r\n"
    connection.sendall(
        b"POST /team/git-upload-pack HTTP/1.1\r\nHost: git.example\r\n"
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled
    )
    answer = b""
    try:
        while more := connection.recv(65536):
            answer += more
    except (ssl.SSLError, OSError):
        pass
    assert [one["path"] for one in outside.seen] in ([], ["/team/git-upload-pack"])
    assert not any(
        "content-length" in one["headers"] and "transfer-encoding" in one["headers"] for one in outside.seen
    )


def test_an_answer_that_can_not_be_searched_is_withheld(running: Running) -> None:
    with declared(running, "/") as client:
        answer = client.get("https://git.example/gzip")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (502, "encoded-answer")


def test_a_server_that_switches_protocols_gets_nobody(running: Running) -> None:
    with declared(running, "/") as client:
        answer = client.get("https://git.example/switching")
    assert answer.status_code == 502


def declared(running: Running, prefix: str) -> httpx.Client:
    """The running proxy's client, whose service has another prefix."""
    rules = running._proxy._rules["git.example"]
    object.__setattr__(rules[0], "service", rules[0].service.model_copy(update={"paths": [prefix]}))
    return running.client()


def test_a_server_whose_certificate_is_not_trusted_gets_no_credential(
    running: Running, outside: Outside
) -> None:
    running._proxy._trusted = ssl.create_default_context()
    with running.client() as client:
        answer = client.get("https://git.example/team/x")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (502, "unreachable")
    assert "certificate" in answer.json()["error"]["found"]
    assert not outside.seen


def test_a_private_address_only_where_it_is_declared(outside: Outside, tmp_path: Path) -> None:
    for private, status in ((True, 200), (False, 403)):
        text = f"version: 1\nservices: {{code: {{host: git.example, private: {str(private).lower()}}}}}"
        with proxy(outside, tmp_path, text, allow=("git.example", "other.example")) as one:
            one.addresses["git.example"] = one.addresses["other.example"] = ["10.1.2.3"]
            assert connect(one, "git.example:443")[0] == status
            # What is not declared gains nothing by it.
            assert connect(one, "other.example:443")[0] == 403
            for address in ("127.0.0.1", "169.254.169.254", "0.0.0.0", "::ffff:10.1.2.3"):
                one.addresses["git.example"] = [address]
                assert connect(one, "git.example:443")[0] == 403
            # Nor may it lead to a service of the stack.
            one.addresses |= {"git.example": ["10.1.2.4"], "postgres": ["10.1.2.4"]}
            assert connect(one, "git.example:443")[0] == 403


def test_a_service_is_reached_only_where_a_list_has_its_host(outside: Outside, tmp_path: Path) -> None:
    secrets = {"COMPANY_GIT_TOKEN": TOKEN, "API_TOKEN": TOKEN}
    with proxy(outside, tmp_path, CONFIGURATION, secrets=secrets) as one:
        assert connect(one, "git.example:443")[0] == 403
        assert one.refused()["reason"] == "not-allowed"


def test_the_authority_speaks_for_declared_hosts_alone(running: Running) -> None:
    """Name constraints: a client refuses what it signed for another host."""
    authority = running._proxy._authority
    assert authority is not None
    here, there = socket.socketpair()
    context = ssl.create_default_context(cafile=str(running.trust / "authority.crt"))
    bundle = ssl.create_default_context(cafile=str(running.trust / "ca-bundle.crt"))
    for host, one, good in (
        ("git.example", context, True),
        ("bank.example", context, False),
        ("bank.example", bundle, False),
    ):
        server_context, _ = authority.connection(host)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = one.wrap_bio(incoming, outgoing, server_hostname=host)
        server = server_context.wrap_bio(outgoing, incoming, server_side=True)
        failure = None
        for _ in range(4):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError as error:
                    failure = failure or error
        assert (failure is None) == good, failure
        if not good:
            assert "permitted subtree" in str(failure)
    here.close()
    there.close()


def _until(what) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)
