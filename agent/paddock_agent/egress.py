"""The way out, in runs that have one: a forwarder on loopback, and the variables that lead programs to it.

The forwarder adds the run's key, so no program of the agent's needs it: what a terminal prints can't hold it, and
Chromium, which takes no password for a proxy, works as all others do. `python -m paddock_agent.egress COMMAND …` opens
the way for a program that is no run, with the key in LLM_API_KEY.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .errors import UsageError
from .forwarder import PORT, READY

TRUST = Path("/run/egress")
"""Written by the proxy: what to trust where it looks into requests to declared services."""
_START_SECONDS = 20
# Both cases of each name: curl reads only the one, others only the other.
_PROXY = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
_DIRECT = "gate,collector,localhost,127.0.0.1,::1"
_BUNDLE = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO"
)  # fmt: skip


def open_way(address: str, key: str, trust: Path = TRUST, port: int = PORT) -> dict[str, str]:
    """Start the forwarder to the proxy at `address` (HOST:PORT); it ends with this process.

    Returns:
        The variables that programs need to use it.

    Raises:
        UsageError: it does not start.
    """
    if not key:
        raise UsageError(
            "expected a run's key beside PADDOCK_EGRESS, found none; start the agent by ./paddock run"
        )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "paddock_agent.forwarder", address, str(port)],
        # By a pipe: an environment can be read in /proc.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        process.stdin.write(f"{key}\n".encode())
        process.stdin.close()
    except OSError:
        # What it said stands below.
        pass
    if process.stdout.readline().strip() != READY:
        process.kill()
        told = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise UsageError(
            f"expected the forwarder to {address} to listen on port {port} of loopback, found:"
            f" {(told or ['nothing'])[-1]}; look at what else listens there"
        )
    return variables(trust, port)


def variables(trust: Path = TRUST, port: int = PORT) -> dict[str, str]:
    """What leads programs to the forwarder, and lets them trust what the proxy shows them."""
    found = dict.fromkeys(_PROXY, f"http://127.0.0.1:{port}") | dict.fromkeys(
        ("no_proxy", "NO_PROXY"), _DIRECT
    )
    bundle, authority = trust / "ca-bundle.crt", trust / "authority.crt"
    if bundle.is_file() and bundle.stat().st_size:
        found |= dict.fromkeys(_BUNDLE, str(bundle))
    if authority.is_file() and authority.stat().st_size:
        found["NODE_EXTRA_CA_CERTS"] = str(authority)
    return found


def main() -> None:
    """Open the way, and become the command."""
    address = os.environ.pop("PADDOCK_EGRESS", "")
    try:
        os.environ.update(open_way(address, os.environ.get("LLM_API_KEY", "")))
    except UsageError as error:
        sys.exit(f"paddock-agent: {error}")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
