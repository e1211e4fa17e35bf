"""The proxy on loopback that adds the run's key."""

import asyncio
import base64
import json
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from paddock_agent import egress
from paddock_agent.errors import UsageError
from paddock_agent.forwarder import Forwarder, with_key

KEY = "pdk_of-the-run"
PASSWORD = base64.b64encode(f"run:{KEY}".encode())


def test_the_key_stands_in_place_of_what_a_program_says() -> None:
    head = (
        b"CONNECT index.example:443 HTTP/1.1\r\nHost: index.example:443\r\n"
        b"Proxy-Authorization: Basic x\r\nproxy-authorization: Basic y\r\n\r\n"
    )
    assert with_key(head, KEY) == (
        b"CONNECT index.example:443 HTTP/1.1\r\nProxy-Authorization: Basic " + PASSWORD + b"\r\n"
        b"Host: index.example:443\r\n\r\n"
    )


async def _through(sent: list[bytes], answer: bytes) -> tuple[bytes, bytes]:
    """What arrives at the other end of the forwarder, and what comes back."""
    arrived = bytearray()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        while data := await reader.read(65536):
            arrived.extend(data)
        writer.close()

    server = await asyncio.start_server(far, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    own = await asyncio.start_server(Forwarder("127.0.0.1", port, KEY).serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*own.sockets[0].getsockname())
    for piece in sent:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write_eof()
    back = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return bytes(arrived), back


def test_bytes_go_to_and_fro_as_they_are() -> None:
    body = bytes(range(256)) * 1000
    head = [b"CONNECT index.example:443 HT", b"TP/1.1\r\nHost: index.example:443\r\n\r", b"\n"]
    arrived, back = asyncio.run(_through([*head, body], b"HTTP/1.1 200 OK\r\n\r\n" + body))
    before, _, after = arrived.partition(b"\r\n\r\n")
    assert PASSWORD in before
    assert after == body
    assert back == b"HTTP/1.1 200 OK\r\n\r\n" + body


def test_a_proxy_that_is_away_is_said() -> None:
    async def ask() -> bytes:
        nobody = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = nobody.sockets[0].getsockname()[1]
        nobody.close()
        await nobody.wait_closed()
        own = await asyncio.start_server(Forwarder("127.0.0.1", port, KEY).serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*own.sockets[0].getsockname())
        writer.write(b"CONNECT index.example:443 HTTP/1.1\r\n\r\n")
        return await asyncio.wait_for(reader.read(), 10)

    assert asyncio.run(ask()).startswith(b"HTTP/1.1 502 ")


def test_the_key_is_in_no_argument_and_no_environment_and_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca-bundle.crt").write_text("certificates\n")
    (tmp_path / "authority.crt").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = (
        "import json, sys; from pathlib import Path; from paddock_agent import egress\n"
        f"key, trust = sys.stdin.readline().strip(), Path({str(tmp_path)!r})\n"
        f"print(json.dumps(egress.open_way('egress:3128', key, trust, {port})))\n"
        "sys.stdout.flush(); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT / "agent")},
    )
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write(f"{KEY}\n".encode())
    parent.stdin.flush()
    told = json.loads(parent.stdout.readline())
    here = f"http://127.0.0.1:{port}"
    assert {told[name] for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")} == {here}
    assert told["no_proxy"] == told["NO_PROXY"]
    assert {"gate", "collector"} <= set(told["no_proxy"].split(","))
    assert told["SSL_CERT_FILE"] == told["GIT_SSL_CAINFO"] == str(tmp_path / "ca-bundle.crt")
    assert "NODE_EXTRA_CA_CERTS" not in told
    assert KEY not in json.dumps(told)

    (child,) = psutil.Process(parent.pid).children()
    folder = Path(f"/proc/{child.pid}")
    assert KEY.encode() not in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
    # Other processes of its user can't look into it.
    assert (folder / "mem").stat().st_uid == 0
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    parent.stdin.close()
    parent.wait(10)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_port_that_is_taken_and_a_missing_key_are_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="already in use"):
        egress.open_way("egress:3128", KEY, port=taken.getsockname()[1])
    with pytest.raises(UsageError, match="expected a run's key"):
        egress.open_way("egress:3128", "")
