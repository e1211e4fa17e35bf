"""Bytes as an HTTP client would never send them, sent from inside a container, and what came back."""

import base64
import json
import re
import subprocess
from dataclasses import dataclass

_SENDER = """
import base64, contextlib, json, socket, ssl, sys
context = ssl._create_unverified_context()
answers = []
for host, port, name, request in json.load(sys.stdin):
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as link:
        if name:
            link = context.wrap_socket(link, server_hostname=name)
        link.settimeout(3)
        # A server that has seen enough answers before it has read all.
        with contextlib.suppress(OSError):
            link.sendall(base64.b64decode(request))
        while piece := link.recv(65536):
            answer += piece
    answers.append(base64.b64encode(answer).decode())
json.dump(answers, sys.stdout)
"""


@dataclass(frozen=True)
class Answer:
    """All that came back on a connection, until it was closed or nothing more came."""

    raw: bytes

    @property
    def statuses(self) -> list[int]:
        """The status of each answer, interim ones left out; empty where the connection was only closed."""
        found = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", self.raw)]
        return [status for status in found if status != 100]

    @property
    def status(self) -> int:
        """Of the first answer; 0 where there is none."""
        return self.statuses[0] if self.statuses else 0

    @property
    def body(self) -> bytes:
        """What follows the first answer's head."""
        return self.raw.partition(b"\r\n\r\n")[2]


@dataclass(frozen=True)
class Request:
    """Bytes for a connection of their own. What should end the connection says so itself."""

    raw: bytes
    host: str = "gate"
    port: int = 8080
    tls: str = ""
    """The name that a server is asked for by TLS; empty without TLS."""


def send(container: str, requests: list[Request]) -> list[Answer]:
    """Send one after the other, each when the one before has its answer."""
    given = [(one.host, one.port, one.tls, base64.b64encode(one.raw).decode()) for one in requests]
    done = subprocess.run(
        ["docker", "exec", "--interactive", container, "python3", "-c", _SENDER],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 5 * len(requests),
    )
    assert done.returncode == 0, done.stderr
    return [Answer(base64.b64decode(answer)) for answer in json.loads(done.stdout)]


def post(
    target: str, *headers: str, body: bytes = b"{}", method: str = "POST", version: str = "HTTP/1.1"
) -> bytes:
    """A request that closes its connection; `headers` are whole lines, in place of the body's own length where one is
    among them."""
    lines = [f"{method} {target} {version}", *headers]
    names = {line.partition(":")[0].strip().lower() for line in headers}
    if "host" not in names:
        lines.append("Host: gate:8080")
    if not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    if "connection" not in names:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
