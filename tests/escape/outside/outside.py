"""The played outside, on the standard library alone: what each container of compose.yaml does.

internet    answers TCP on 80, 443, 22 and 25, UDP on 443 and 4500, DNS on 53; tells on 8053 what it was asked
metadata    a cloud's metadata service
gate        a gate as one should not write it, in front of MLflow
check       whether what runs in this container answers
"""

import json
import posixpath
import re
import socket
import socketserver
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

UPSTREAM = ("mlflow", 5000)
PORTS = {"internet": 80, "metadata": 80, "gate": 8080}
asked: list[str] = []
received: list[str] = []


class Sink(BaseHTTPRequestHandler):
    """Takes whatever is sent."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.take(self.path, self.rfile.read(length))  # type: ignore[attr-defined]
        body = self.server.body(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def take(self, path: str, body: bytes) -> None:
        received.append(f"{path} {body[:200].decode('latin-1')}")

    def body(self, path: str) -> bytes:
        return b"taken\n"


class Metadata(Server):
    def body(self, path: str) -> bytes:
        return b"iam/security-credentials/played-role\n"


class Told(Server):
    """What came out of the fence: names that were asked for, requests that were made."""

    def take(self, path: str, body: bytes) -> None:
        pass

    def body(self, path: str) -> bytes:
        return json.dumps({"asked": asked, "received": received}).encode()


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, connection = self.request
        connection.sendto(data, self.client_address)


class Banner(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"played\r\n")


def answer(question: bytes) -> bytes:
    """An address for every A query, a text for every TXT query."""
    labels, at = [], 12
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode("latin-1"))
        at += size + 1
    asked.append(".".join(labels))
    kind = struct.unpack("!H", question[at + 1 : at + 3])[0]
    data = b"\x06played" if kind == 16 else socket.inet_aton("198.51.100.53")
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 1, len(data)) + data
    count = 1 if kind in (1, 16) else 0
    head = question[:2] + b"\x81\x80" + struct.pack("!HHHH", 1, count, 0, 0)
    return head + question[12 : at + 5] + (record if count else b"")


class DnsByUdp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, connection = self.request
        connection.sendto(answer(data), self.client_address)


class DnsByTcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        size = struct.unpack("!H", self.rfile.read(2))[0]
        reply = answer(self.rfile.read(size))
        self.wfile.write(struct.pack("!H", len(reply)) + reply)


class CarelessGate(socketserver.StreamRequestHandler):
    """Looks at a connection's first request alone, then lets everything through."""

    def handle(self) -> None:
        line = self.rfile.readline(65536).decode("latin-1")
        head = []
        while (header := self.rfile.readline(65536).decode("latin-1")).strip():
            head.append(header.rstrip("\r\n"))
        method, _, rest = line.partition(" ")
        target = rest.rsplit(" ", 1)[0].strip()
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in head)
        }
        upstream = UPSTREAM
        if method == "CONNECT":
            host, _, port = target.partition(":")
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.through((host, int(port)), b"")
            return
        target = re.sub(r"^https?://[^/]+", "", target) or "/"
        path, _, query = target.partition("?")
        path = posixpath.normpath(unquote(unquote(path.replace(";", ""))).replace("\\", "/")).replace(
            "//", "/"
        )
        path = headers.get("x-original-url") or re.sub(r"[^\x21-\x7e]", "", path)
        kept = [one for one in head if not one.lower().startswith(("host:", "accept-encoding:"))]
        sent = [f"{method} {path}{'?' + query if query else ''} HTTP/1.1", "Host: mlflow:5000", *kept]
        self.through(upstream, ("\r\n".join(sent) + "\r\n\r\n").encode("latin-1"))

    def through(self, address: tuple[str, int], first: bytes) -> None:
        with socket.create_connection(address, timeout=10) as upstream:
            upstream.sendall(first)
            threading.Thread(target=self.pump, args=(upstream,), daemon=True).start()
            while part := upstream.recv(65536):
                self.wfile.write(part)

    def pump(self, upstream: socket.socket) -> None:
        try:
            while part := self.rfile.read1(65536):  # type: ignore[attr-defined]
                upstream.sendall(part)
        except OSError:
            pass


class Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def serve(server: socketserver.BaseServer) -> None:
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(what: str) -> None:
    if what == "internet":
        for port in (80, 443):
            serve(Server(("::", port), Sink))
        for port in (22, 25):
            serve(Threads(("0.0.0.0", port), Banner))
        for port in (443, 4500):
            serve(socketserver.ThreadingUDPServer(("0.0.0.0", port), Echo))
        serve(socketserver.ThreadingUDPServer(("0.0.0.0", 53), DnsByUdp))
        serve(Threads(("0.0.0.0", 53), DnsByTcp))
        serve(Told(("::", 8053), Sink))
    elif what == "metadata":
        serve(Metadata(("::", 80), Sink))
    elif what == "gate":
        serve(Threads(("0.0.0.0", 8080), CarelessGate))
        # Caddy's administration, if it were left on.
        serve(Threads(("0.0.0.0", 2019), Banner))
    elif what == "check":
        port = next(port for port in (80, 8080) if listens(port))
        print(f"port {port}")
        return
    threading.Event().wait()


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1])
