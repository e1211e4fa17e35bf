"""Whatever an agent writes to the gate's port: only calls of models pass, and nothing of their sender's own making.

A server that writes down what reaches it stands behind a gate of its own here, so that also what MLflow would overlook is
seen. tests/stack/test_gate.py sends the worst of it to the real one.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cases import eventually
from raw_http import Answer, Request, post, send
from stack_under_test import StackUnderTest

CHAT = "/gateway/mlflow/v1/chat/completions"
GATE_SECRET = "gate-secret-of-the-tests"
TLS_SECRET = "tls-secret-of-the-tests"
AGENT_KEY = "pdk-agent-key-of-the-tests"
SECRETS = {"agent_key": AGENT_KEY, "gate_secret": GATE_SECRET, "tls_secret": TLS_SECRET}
SITE = "paddock.test"
RUN_KEY = "pdk_" + "a" * 43

SERVER = """
import http.server, json, threading
seen = []
go_on = threading.Event()
class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def handle_one_request(self):
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if not self.parse_request():
            return
        body = b""
        if self.headers.get("Transfer-Encoding"):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("X-Stream"):
            self.stream()
            return
        if self.path == "/go-on":
            go_on.set()
            answer = b"{}"
        elif self.path == "/seen":
            answer = json.dumps(seen).encode()
            seen.clear()
        else:
            answer = b"{}"
            seen.append({"line": self.requestline, "headers": self.headers.items(), "body": len(body)})
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()
    def stream(self):
        go_on.clear()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"b\\r\\ndata: one\\n\\n\\r\\n")
        self.wfile.flush()
        if go_on.wait(20):
            self.wfile.write(b"b\\r\\ndata: two\\n\\n\\r\\n0\\r\\n\\r\\n")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", 5000), Server).serve_forever()
"""


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


STREAM_READER = """
import http.client, ssl, sys, urllib.request, zlib
host, encoding = sys.argv[1:]
if host == "tls":
    context = ssl._create_unverified_context()
    link = http.client.HTTPSConnection("paddock.test", 443, timeout=10, context=context)
else:
    link = http.client.HTTPConnection(host, 8080, timeout=10)
headers = {"X-Stream": "yes", "Accept-Encoding": encoding}
link.request("POST", "/gateway/mlflow/v1/chat/completions", "{}", headers)
answer = link.getresponse()
unpack = zlib.decompressobj(31).decompress if answer.headers.get("Content-Encoding") == "gzip" else bytes
text = b""
while b"one" not in text:
    text += unpack(answer.read1())
assert b"two" not in text
# Only now may the server say the rest.
urllib.request.urlopen("http://127.0.0.1:5000/go-on")
while piece := answer.read1():
    text += unpack(piece)
print(text.decode())
"""

Seen = list[dict[str, Any]]

WHAT_CAME = Request(b"GET /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "127.0.0.1", 5000)


@dataclass
class Listener:
    """The server behind the gate; requests are sent from its container, too."""

    container: str

    def send(self, *requests: bytes) -> list[tuple[Answer, Seen]]:
        """What the gate answered to each, and what came to the server."""
        told = send(self.container, [one for raw in requests for one in (Request(raw), WHAT_CAME)])
        return [(answer, json.loads(seen.body)) for answer, seen in zip(told[::2], told[1::2], strict=True)]

    def send_tls(self, *requests: bytes) -> list[tuple[Answer, Seen]]:
        """The same by the TLS proxy."""
        asked = [Request(raw, SITE, 443, tls=SITE) for raw in requests]
        told = send(self.container, [one for request in asked for one in (request, WHAT_CAME)])
        return [(answer, json.loads(seen.body)) for answer, seen in zip(told[::2], told[1::2], strict=True)]

    def stream(self, host: str, encoding: str) -> str:
        """A stream whose server waits in its middle until the beginning has arrived."""
        return docker("exec", self.container, "python3", "-c", STREAM_READER, host, encoding)


def headers_of(seen: Seen) -> dict[str, list[str]]:
    """Those of the one request that came."""
    (request,) = seen
    found: dict[str, list[str]] = {}
    for name, value in request["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


@pytest.fixture(scope="module")
def listener(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    folder: Path = tmp_path_factory.mktemp("secrets")
    folder.chmod(0o755)
    for name, value in SECRETS.items():
        (folder / name).write_text(value)
        (folder / name).chmod(0o644)
    network = f"{stack.project}-listening"
    names = [f"{network}-{name}" for name in ("server", "gate", "tls")]
    images = [stack.inspect(service)["Config"]["Image"] for service in ("demo-model", "gate")]
    docker("network", "create", "--internal", network)
    try:
        common = ["run", "--detach", "--rm", "--network", network, "--init"]
        docker(
            *common,
            "--name",
            names[0],
            "--network-alias",
            "mlflow",
            "--entrypoint",
            "python3",
            images[0],
            "-c",
            SERVER,
        )
        docker(
            *common,
            "--name",
            names[1],
            "--network-alias",
            "gate",
            "--volume",
            f"{folder}:/run/secrets:ro",
            images[1],
        )
        site = ["SITE_ADDRESS=paddock.test", "TLS_ISSUER=internal", "ACME_CA=https://acme.test/directory"]
        site += ["MAX_UPLOAD=5GB", "HTTPS_SUFFIX=:8443"]
        docker(
            *common,
            *("--name", names[2], "--network-alias", SITE, "--volume", f"{folder}:/run/secrets:ro"),
            *[word for line in site for word in ("--env", line)],
            *(images[1], "/etc/caddy/tls.Caddyfile"),
        )
        made = Listener(names[0])
        eventually(
            lambda: made.send_tls(post(CHAT))[0][0].status == 200, 30, "the TLS proxy to pass a call on"
        )
        eventually(lambda: made.send(post(CHAT))[0][0].status == 200, 30, "the gate to pass a call on")
        yield made
    finally:
        docker("rm", "--force", "--volumes", *names, check=False)
        docker("network", "rm", network, check=False)


PASSING = (
    CHAT,
    "/gateway/openai/v1/chat/completions",
    "/gateway/openai/v1/responses",
    "/gateway/openai/v1/embeddings",
    "/gateway/anthropic/v1/messages",
    "/gateway/anthropic/v1/messages?beta=true",
    "/gateway/gemini/v1beta/models/coder:generateContent",
    "/gateway/gemini/v1beta/models/coder:streamGenerateContent?alt=sse",
    "/gateway/coder/mlflow/invocations",
    "/gateway/my-coder.2_x/mlflow/invocations",
)


def test_the_routes_of_models_pass_as_they_are(listener: Listener) -> None:
    for target, (answer, seen) in zip(PASSING, listener.send(*map(post, PASSING)), strict=True):
        assert answer.status == 200, target
        assert [request["line"] for request in seen] == [f"POST {target} HTTP/1.1"]


TARGETS = (
    "/",
    "/health",
    "/version",
    "/signup",
    "/metrics",
    "/graphql",
    "/static-files/index.html",
    "/api/2.0/mlflow/experiments/search",
    "/ajax-api/2.0/mlflow/experiments/search",
    "/api/3.0/mlflow/traces/search",
    "/api/3.0/mlflow/gateway/secrets/list",
    "/api/3.0/paddock/keys",
    "/api/2.0/mlflow/users/create",
    "/api/2.0/mlflow-artifacts/artifacts/x",
    "/gateway/mlflow/v1/models",
    "/gateway/proxy/coder/v1/files",
    "/gateway/typesafe/v1/systemone",
    "/gateway/mlflow/v1/chat/completions/",
    "/gateway/mlflow/v1/chat",
    # Cleaned, these are the path of a route; as they are, they are MLflow's raw proxy or nothing.
    "/gateway/proxy/coder/../../mlflow/v1/chat/completions",
    "/gateway/proxy/coder/x/../../../mlflow/v1/chat/completions",
    "/gateway//mlflow/v1/chat/completions",
    "//gateway/mlflow/v1/chat/completions",
    "/./gateway/mlflow/v1/chat/completions",
    "/gateway/./mlflow/v1/chat/completions",
    "/x/../gateway/mlflow/v1/chat/completions",
    "/gateway/mlflow/v1/chat/completions/.",
    "/gateway/mlflow/v1/chat/completions/../completions",
    "/gateway/mlflow/v1/chat/completions/../../../../../api/2.0/mlflow/experiments/search",
    "/gateway/../mlflow/invocations",
    "/gateway/./mlflow/invocations",
    "/gateway/.../mlflow/invocations",
    "/gateway/coder/x/mlflow/invocations",
    # Encoded, once and twice.
    "/gateway/%6dlflow/v1/chat/completions",
    "/%67ateway/mlflow/v1/chat/completions",
    "/gateway/mlflow%2fv1/chat/completions",
    "/gateway/mlflow%2Fv1%2Fchat%2Fcompletions",
    "/gateway/%2e%2e/gateway/mlflow/v1/chat/completions",
    "/gateway/%252e%252e/gateway/mlflow/v1/chat/completions",
    "/gateway/proxy/coder/%2e%2e/%2e%2e/mlflow/v1/chat/completions",
    "/gateway/proxy/coder/..%2f..%2fmlflow/v1/chat/completions",
    "/gateway/..%252f..%252fapi/2.0/mlflow/experiments/search",
    "/gateway/a%2fb/mlflow/invocations",
    "/gateway/%2e%2e%2fapi/mlflow/invocations",
    "/gateway/mlflow/v1/chat/completions%00",
    "/gateway/mlflow/v1/chat/completions%20",
    "/gateway/mlflow/v1/chat/completions%0d%0aX-Injected:%201",
    "/gateway/mlflow/v1/chat/completions%3fx",
    # Parameters, fragments, backslashes, letters that only look alike.
    "/gateway/mlflow/v1/chat/completions;x=1",
    "/gateway;x/mlflow/v1/chat/completions",
    "/gateway/..;/mlflow/invocations",
    "/gateway/mlflow/v1/chat/completions#/../..",
    "\\gateway\\mlflow\\v1\\chat\\completions",
    "/gateway/..\\..\\api/mlflow/invocations",
    "/GATEWAY/mlflow/v1/chat/completions",
    "/gateway/mlflow/V1/chat/completions",
    "/gateway/m\xb5flow/v1/chat/completions",
    "/gateway/coder\t/mlflow/invocations",
    f"{CHAT}?x=%0d%0aX-Injected:%201",
    f"{CHAT}?x=/../../api",
    # Not of the form that servers get.
    "*",
    "http://mlflow:5000/api/2.0/mlflow/experiments/search",
    "http://mlflow:5000/",
    "https://mlflow:5000/api/2.0/mlflow/experiments/search",
    "mlflow:5000",
    "file:///etc/passwd",
    "@mlflow:5000/api",
    "?x=" + CHAT,
    "",
)


def test_nothing_else_passes_whatever_its_form(listener: Listener) -> None:
    for target, (answer, seen) in zip(TARGETS, listener.send(*map(post, TARGETS)), strict=True):
        assert seen == [], target
        # Who is refused by closing alone has 0.
        assert answer.status == 0 or answer.status >= 400, target


METHODS = (
    "GET",
    "HEAD",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "post",
    "POSTX",
)


@pytest.mark.parametrize("target", [CHAT, "/api/2.0/mlflow/experiments/search", "mlflow:5000", "*"])
def test_no_method_but_post(listener: Listener, target: str) -> None:
    for method, (answer, seen) in zip(
        METHODS, listener.send(*[post(target, method=method) for method in METHODS]), strict=True
    ):
        assert seen == [], method
        # `OPTIONS *` asks what a server can do at all; Go answers it, with nothing.
        assert answer.status >= 400 or (method, target) == ("OPTIONS", "*"), method


def test_an_absolute_target_goes_nowhere_else(listener: Listener) -> None:
    """A server must take the form (RFC 9112, 3.2.2); what it names is not where the call goes."""
    ((answer, seen),) = listener.send(post(f"http://169.254.169.254{CHAT}", "Host: 169.254.169.254"))
    assert answer.status == 200
    assert seen[0]["line"] == f"POST {CHAT} HTTP/1.1"
    assert headers_of(seen)["host"] == ["mlflow:5000"]


CLAIMS = (
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Host: mlflow",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Prefix: /api",
    "X-Forwarded-Uri: /api",
    "Forwarded: for=127.0.0.1;host=mlflow",
    "X-Real-IP: 127.0.0.1",
    "X-Client-IP: 127.0.0.1",
    "X-Original-URL: /api/2.0/mlflow/experiments/search",
    "X-Original-URI: /api/2.0/mlflow/experiments/search",
    "X-Rewrite-URL: /api/2.0/mlflow/experiments/search",
    "X-HTTP-Method-Override: DELETE",
    "X-HTTP-Method: DELETE",
    "X-Method-Override: DELETE",
    "X-MLflow-Authorization: Basic YWRtaW46eA==",
    "X-MLflow-Guardrail-Bypass: 1",
    "X-MLFLOW-WORKSPACE: other",
    "X_MLflow_Authorization: Basic YWRtaW46eA==",
    "X-Paddock-Tls: guess",
    "X_Paddock_Gate: guess",
    "Content_Length: 5",
    "Cookie: session=x",
    "Proxy-Authorization: Basic YWRtaW46eA==",
    "Proxy-Connection: keep-alive",
    "Via: 1.1 mlflow",
    "TE: trailers",
    "Trailer: Authorization",
)


def test_what_a_client_claims_goes_no_further(listener: Listener) -> None:
    told = ("Content-Type: application/json", "Anthropic-Version: 2023-06-01")
    ((_, seen),) = listener.send(post(CHAT, *CLAIMS, *told))
    headers = headers_of(seen)
    assert headers.keys() == {
        *("host", "authorization", "x-paddock-gate", "content-type", "content-length", "accept-encoding"),
        "anthropic-version",
    }
    assert headers["authorization"] == [f"Bearer {AGENT_KEY}"]


IDENTITIES: tuple[tuple[str, ...], ...] = (
    (f"Authorization: Bearer {RUN_KEY}",),
    (f"Authorization: bearer   {RUN_KEY}",),
    (f"X-Api-Key: {RUN_KEY}",),
    (f"api-key: {RUN_KEY}",),
    (f"x-goog-api-key: {RUN_KEY}",),
    # The gate's own word can't be said before it, nor taken away after it.
    (f"Authorization: Bearer {RUN_KEY}", "X-Paddock-Gate: guess"),
    (f"Authorization: Bearer {RUN_KEY}", "X-Paddock-Gate: guess", "X-Paddock-Gate: again"),
    (f"Authorization: Bearer {RUN_KEY}", "Connection: close, X-Paddock-Gate, Authorization, Host"),
    (f"X-Api-Key: {RUN_KEY}", "Connection: close, x-api-key, content-length, x-paddock-gate"),
    (f"Authorization: Bearer {RUN_KEY}", "Authorization: Basic YWRtaW46eA=="),
    ("Authorization: Basic YWRtaW46eA==", f"Authorization: Bearer {RUN_KEY}"),
    (f"Authorization: Bearer {RUN_KEY}", f"X-Api-Key: {RUN_KEY}", "X-MLflow-Authorization: Bearer other"),
)


def test_one_identity_goes_on_with_the_gates_own_secret(listener: Listener) -> None:
    for lines, (_, seen) in zip(
        IDENTITIES, listener.send(*[post(CHAT, *lines) for lines in IDENTITIES]), strict=True
    ):
        headers = headers_of(seen)
        assert headers["authorization"] == [f"Bearer {RUN_KEY}"], lines
        assert headers["x-paddock-gate"] == [GATE_SECRET], lines
        assert headers.keys() == {
            "host",
            "authorization",
            "x-paddock-gate",
            "content-length",
            "accept-encoding",
        }


NO_KEYS = (
    "Authorization: Bearer pdk_short",
    f"Authorization: Bearer {RUN_KEY} x",
    f"Authorization: Basic {RUN_KEY}",
    f"X-Api-Key: x{RUN_KEY}",
    # Caddy's own placeholders.
    "Authorization: Bearer {file./run/secrets/gate_secret}",
    "Authorization: Bearer pdk_{env.HOME}aaaaaaaaaaaaaaaaaaaaa",
)


def test_what_has_not_the_form_of_a_key_is_none(listener: Listener) -> None:
    for line, (_, seen) in zip(NO_KEYS, listener.send(*[post(CHAT, line) for line in NO_KEYS]), strict=True):
        assert headers_of(seen)["authorization"] == [f"Bearer {AGENT_KEY}"], line


INNER = b"POST /api/2.0/mlflow/experiments/search HTTP/1.1\r\nHost: mlflow\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"2\r\n{}\r\n0\r\n\r\n"

SMUGGLED = {
    "length and chunks": post(
        CHAT, "Content-Length: 6", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + INNER
    ),
    "chunks and a long length": post(
        CHAT, f"Content-Length: {5 + len(INNER)}", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + INNER
    ),
    "two lengths": post(CHAT, "Content-Length: 2", f"Content-Length: {2 + len(INNER)}", body=b"{}" + INNER),
    "a list of lengths": post(CHAT, f"Content-Length: 2, {2 + len(INNER)}", body=b"{}" + INNER),
    "a signed length": post(CHAT, "Content-Length: +2", body=b"{}" + INNER),
    "a negative length": post(CHAT, "Content-Length: -2", body=b"{}" + INNER),
    "a length in hexadecimal": post(CHAT, "Content-Length: 0x2", body=b"{}" + INNER),
    "an unknown coding": post(CHAT, "Transfer-Encoding: xchunked", body=CHUNKED + INNER),
    "two codings": post(CHAT, "Transfer-Encoding: chunked, identity", body=CHUNKED + INNER),
    "two codings in two lines": post(
        CHAT, "Transfer-Encoding: chunked", "Transfer-Encoding: cow", body=CHUNKED + INNER
    ),
    "a blank before the colon": post(
        CHAT, "Transfer-Encoding : chunked", "Content-Length: 2", body=CHUNKED + INNER
    ),
    "a blank before the name": post(CHAT, "X: y", " Transfer-Encoding: chunked", body=CHUNKED + INNER),
    "a vertical tab": post(CHAT, "Transfer-Encoding:\x0bchunked", body=CHUNKED + INNER),
    "a NUL": post(CHAT, "Transfer-Encoding: chunked\x00", body=CHUNKED + INNER),
    "a bare line feed": post(CHAT, "X: y\nContent-Length: 2", body=b"{}" + INNER),
    "a bare carriage return": post(CHAT, "X: y\rTransfer-Encoding: chunked", body=b"{}" + INNER),
    "a chunk that lies": post(CHAT, "Transfer-Encoding: chunked", body=b"2\r\n{}" + INNER + b"\r\n0\r\n\r\n"),
    "a chunk too long": post(CHAT, "Transfer-Encoding: chunked", body=b"ffffffffffffffff0\r\n{}\r\n" + INNER),
    "a chunk's extension": post(CHAT, "Transfer-Encoding: chunked", body=b"2;\n{}\r\n0\r\n\r\n" + INNER),
    "HTTP/1.0 with chunks": post(
        CHAT, "Transfer-Encoding: chunked", body=CHUNKED + INNER, version="HTTP/1.0"
    ),
    "two hosts": post(CHAT, "Host: gate:8080", "Host: mlflow:5000"),
    "no host": post(CHAT).replace(b"Host: gate:8080\r\n", b""),
    "a version of the future": post(CHAT, version="HTTP/3.0"),
    "no version": f"POST {CHAT}\r\n\r\n".encode(),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "a greeting of TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x00" * 160,
}


@pytest.fixture(scope="module")
def smuggled(listener: Listener) -> dict[str, tuple[Answer, Seen]]:
    return dict(zip(SMUGGLED, listener.send(*SMUGGLED.values()), strict=True))


@pytest.mark.parametrize("trick", SMUGGLED)
def test_no_request_hides_in_another(smuggled: dict[str, tuple[Answer, Seen]], trick: str) -> None:
    """The one in front may pass, as one call of a model; the one inside never arrives."""
    answer, seen = smuggled[trick]
    assert [request["line"] for request in seen] in ([], [f"POST {CHAT} HTTP/1.1"])
    assert len(seen) == answer.statuses.count(200)
    for request in seen:
        names = [name.lower() for name, _ in request["headers"]]
        assert names.count("content-length") + names.count("transfer-encoding") == 1
        assert names.count("authorization") == names.count("x-paddock-gate") == 1


def test_what_comes_behind_on_the_same_connection_is_looked_at_too(listener: Listener) -> None:
    first = post(CHAT, "Connection: keep-alive")
    ((answer, seen),) = listener.send(first + INNER + first + post("/api/3.0/paddock/keys"))
    assert answer.statuses == [200, 404, 200, 404]
    assert [request["line"] for request in seen] == [f"POST {CHAT} HTTP/1.1"] * 2


UPGRADES: tuple[tuple[str, ...], ...] = (
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    ("Connection: Upgrade", "Upgrade: TLS/1.2, HTTP/2.0, connect-udp"),
)


def test_no_other_protocol_comes_about(listener: Listener) -> None:
    """A server may pass over a wish for another protocol, and answers the request as it is (RFC 9110, 7.8)."""
    asked = [post(CHAT, *lines) + post("/api/3.0/paddock/keys") for lines in UPGRADES]
    for lines, (answer, seen) in zip(UPGRADES, listener.send(*asked), strict=True):
        assert answer.statuses == [200, 404], lines
        assert not {"upgrade", "http2-settings", "connection"} & headers_of(seen).keys(), lines


def test_heads_and_bodies_have_a_limit(listener: Listener) -> None:
    (head, _), (many, _), (body, _) = listener.send(
        post(CHAT, "X-Long: " + "a" * 100_000),
        post(CHAT, *[f"X-{number}: {'a' * 50}" for number in range(2000)]),
        post(CHAT, body=b" " * (32_000_000 + 1)),
    )
    assert (head.status, many.status) == (431, 431)
    assert body.status == 413
    assert json.loads(body.body)["error"]["code"] == "request_too_large"


def test_the_health_of_the_gate_is_nobody_elses_business(listener: Listener) -> None:
    ((answer, _),) = listener.send(post("/healthz", method="GET"))
    assert answer.status == 404


@pytest.mark.parametrize(("host", "encoding"), [("gate", "identity"), ("tls", "identity"), ("tls", "gzip")])
def test_a_stream_passes_as_it_comes(listener: Listener, host: str, encoding: str) -> None:
    assert listener.stream(host, encoding) == "data: one\n\ndata: two"


def test_what_a_browser_claims_of_its_address_goes_no_further(listener: Listener) -> None:
    claims = [line for line in CLAIMS if not line.startswith(("X-MLflow", "X-MLFLOW", "Cookie", "Te"))]
    path = "/ajax-api/2.0/mlflow/experiments/search"
    ((answer, seen),) = listener.send_tls(
        post(path, *claims, f"Host: {SITE}", "Cookie: a=b", "X-Paddock-Gate: guess")
    )
    assert answer.status == 200
    headers = headers_of(seen)
    (address,) = headers["x-forwarded-for"]
    assert address not in ("", "127.0.0.1")
    assert headers["x-paddock-tls"] == [TLS_SECRET]
    assert (headers["host"], headers["x-forwarded-host"], headers["x-forwarded-proto"]) == (
        [SITE],
        [SITE],
        ["https"],
    )
    assert headers["cookie"] == ["a=b"]
    assert (
        not {"x-paddock-gate", "forwarded", "x_paddock_gate", "x-real-ip", "x-original-url"} & headers.keys()
    )


def test_another_host_than_the_sites_goes_on_to_mlflow_which_refuses_it(listener: Listener) -> None:
    ((_, seen),) = listener.send_tls(post("/", "Host: evil.test"))
    assert headers_of(seen)["host"] == ["evil.test"]


WANTED = (("GET", SITE), ("POST", SITE), ("GET", "evil.test"), ("GET", "evil.test:80"))


def test_plain_http_is_sent_to_the_site_whatever_its_host(listener: Listener) -> None:
    asked = [Request(post("/x?y=1", f"Host: {host}", method=method), SITE, 80) for method, host in WANTED]
    for answer in send(listener.container, asked):
        assert answer.status == 308
        assert b"Location: https://paddock.test:8443/x?y=1\r\n" in answer.raw
