"""The outside, in one container: a package index, a git server with a private repository, an internal API, a sink.

Runs on the agent's image, which has Python and git. HTTPS on 443 by the name in the Host header; on 8080, for the test
alone, what was asked for: GET /requests.
"""

import base64
import hashlib
import http.server
import io
import json
import os
import ssl
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

SEEN: list[dict[str, str]] = []
REPOSITORIES = Path("/tmp/repositories")
TOKEN = os.environ["OUTSIDE_TOKEN"]
WHEEL = "lighthouse-1.0-py3-none-any.whl"


def wheel() -> bytes:
    """A package that pip installs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("lighthouse.py", "LIGHT = 1\n")
        info = "lighthouse-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: lighthouse\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return content.getvalue()


def make_repositories() -> None:
    """A public and a private repository with one commit each."""
    for name, text in (("public", "for all\n"), ("team/project", "for the team\n")):
        bare, work = REPOSITORIES / f"{name}.git", Path("/tmp/work") / name
        subprocess.run(["git", "init", "-q", "--bare", bare], check=True)
        subprocess.run(["git", "-C", bare, "config", "http.receivepack", "true"], check=True)
        subprocess.run(["git", "init", "-q", work], check=True)
        (work / "README.md").write_text(text)
        subprocess.run(["git", "-C", work, "add", "-A"], check=True)
        subprocess.run(["git", "-C", work, "commit", "-q", "-m", "one"], check=True)
        subprocess.run(["git", "-C", work, "push", "-q", bare, "HEAD:main"], check=True)


class Outside(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        body = self._body()
        host = self.headers.get("Host", "").split(":")[0]
        given = self.headers.get("Authorization", "")
        SEEN.append({"host": host, "method": self.command, "path": self.path, "authorization": given})
        if host == "index.example":
            self._index()
        elif host == "git.example":
            self._git(body, given)
        elif host == "api.corp.example":
            good = given == f"Bearer {TOKEN}"
            # Careless, as some are: it repeats what it was sent.
            self._answer(200 if good else 401, json.dumps({"good": good, "you": given}).encode())
        else:
            self._answer(200, b"swallowed\n")

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def _index(self) -> None:
        if self.path == f"/files/{WHEEL}":
            self._answer(200, wheel(), "application/zip")
        elif self.path == "/simple/lighthouse/":
            digest = hashlib.sha256(wheel()).hexdigest()
            self._answer(200, f'<a href="/files/{WHEEL}#sha256={digest}">{WHEEL}</a>'.encode(), "text/html")
        else:
            self._answer(200, b"<h1>the index</h1>\n", "text/html")

    def _git(self, body: bytes, given: str) -> None:
        wanted = "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
        if self.path.startswith("/team/") and given != wanted:
            self._answer(401, b"who are you?\n", also={"WWW-Authenticate": 'Basic realm="git"'})
            return
        path, _, query = self.path.partition("?")
        answer = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(REPOSITORIES),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "team",
            },
        ).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(status, content, headers.get("Content-Type", "text/plain"))

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(
        self, status: int, content: bytes, kind: str = "text/plain", also: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            **(also or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Seen(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(SEEN).encode())


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients hang up; that is their right."""


if __name__ == "__main__":
    make_repositories()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    https = Server(("0.0.0.0", 443), Outside)
    https.socket = context.wrap_socket(https.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=https.serve_forever, daemon=True).start()
    print("ready", flush=True)
    Server(("127.0.0.1", 8080), Seen).serve_forever()
