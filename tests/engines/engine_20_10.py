"""The networks of docker-compose.yml on the oldest engine that Paddock supports: Debian 12's docker.io, 20.10.

    sudo python3 tests/engines/engine_20_10.py [IMAGE]

Installs nothing and leaves the engine of this machine alone: the packages are unpacked into a temporary folder, and the
engine runs in a network namespace of its own, where a second one plays the world. Neither has a way out of the machine.
IMAGE, with Python in it, is copied from this machine's engine (default: paddock/demo-model of PADDOCK_VERSION).

Each line is a probe: what is tried, what should come of it, what came of it. Those that should be "yes" show that a
probe sees what is open. Exit code 0: all as it should be; 1: not; 77: this machine can't, with the reason.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINE, CONTAINERD = "20.10.", "1.6."
HOST, WORLD = "pdk-old-host", "pdk-old-world"
WORLD_ADDRESS, HOST_UPLINK = "198.18.0.1", "198.18.0.2"
PORT = 5555
SKIPPED = 77

LISTENER = """
import socket, sys, threading
log, resolver, port = sys.argv[1:]
def names():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((resolver, 53))
    while True:
        asked, client = server.recvfrom(4096)
        with open(log, "ab") as file:
            file.write(asked[12:] + b"\\n")
        # No such name.
        server.sendto(asked[:2] + b"\\x81\\x83" + asked[4:], client)
threading.Thread(target=names, daemon=True).start()
server = socket.create_server(("0.0.0.0", int(port)))
while True:
    server.accept()[0].close()
"""

TRY = """
import socket, sys
def reaches(address):
    try:
        socket.create_connection((address, int(sys.argv[2])), 3).close()
        return True
    except OSError:
        return False
def resolves(name):
    try:
        return bool(socket.gethostbyname(name))
    except OSError:
        return False
print({"tcp": reaches, "name": resolves}[sys.argv[1]](sys.argv[3]))
"""

SERVE = f"import socket\ns = socket.create_server(('0.0.0.0', {PORT}))\nwhile True: s.accept()[0].close()"


class Skipped(Exception):
    """This machine can't run it; the text says why."""


def run(*command: str, check: bool = True, timeout: float = 120, **more: object) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        **more,  # type: ignore[call-overload]
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return str(done.stdout)


def unpacked(folder: Path) -> Path:
    """The engine's programs, from the machine's own package mirror."""
    found = {}
    for package, version in (("docker.io", ENGINE), ("containerd", CONTAINERD)):
        rows = [line.split("|")[1].strip() for line in run("apt-cache", "madison", package).splitlines()]
        found[package] = next((row for row in rows if row.startswith(version)), "")
        if not found[package]:
            raise Skipped(f"no {package} {version}x in the package lists (Debian 12 has it): {rows}")
    debs = folder / "debs"
    debs.mkdir()
    fetched = subprocess.run(
        ["apt-get", "download", *(f"{name}={version}" for name, version in found.items())],
        cwd=debs,
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode:
        raise Skipped(f"the package mirror does not answer: {fetched.stderr.strip()[-300:]}")
    for deb in debs.glob("*.deb"):
        run("dpkg", "--extract", str(deb), str(folder / "root"))
    return folder / "root" / "usr"


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    """A machine's network and a world's, joined by a cable."""
    inside = ("ip", "-netns", HOST)
    try:
        for name in (HOST, WORLD):
            run("ip", "netns", "add", name)
            run("ip", "-netns", name, "link", "set", "lo", "up")
        run(
            "ip",
            "-netns",
            HOST,
            "link",
            "add",
            "uplink",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            WORLD,
        )
        for name, link, address in ((HOST, "uplink", HOST_UPLINK), (WORLD, "cable", WORLD_ADDRESS)):
            run("ip", "-netns", name, "address", "add", f"{address}/24", "dev", link)
            run("ip", "-netns", name, "link", "set", link, "up")
        run(*inside, "route", "add", "default", "via", WORLD_ADDRESS)
        yield
    finally:
        for name in (HOST, WORLD):
            run("ip", "netns", "delete", name, check=False)


@contextlib.contextmanager
def process(
    folder: Path, name: str, namespace: str, *command: str, path: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a namespace, ended by its own id. By `nsenter`, since `ip netns exec` takes /sys/fs/cgroup away."""
    with (folder / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{namespace}",
                "unshare",
                "--mount",
                "--propagation",
                "private",
                *command,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": f"{path}{os.environ['PATH']}"},
            start_new_session=True,
        )
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


@contextlib.contextmanager
def engine(folder: Path, programs: Path) -> Iterator[str]:
    """The engine, whose machine has its resolver on loopback; yields its address."""
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    socket = f"unix://{folder}/docker.sock"
    daemon = [
        *("dockerd", "--host", socket, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
        *(
            "--pidfile",
            f"{folder}/docker.pid",
            "--cgroup-parent",
            "/pdk-old",
            "--config-file",
            f"{folder}/none.json",
        ),
    ]
    (folder / "none.json").write_text("{}")
    bind = f"mount --bind {folder}/resolv.conf /etc/resolv.conf && exec {' '.join(daemon)}"
    path = f"{programs}/sbin:{programs}/bin:"
    with process(folder, "dockerd", HOST, "sh", "-c", bind, path=path) as daemon_process:
        deadline = time.monotonic() + 120
        while not run(
            "docker", "--host", socket, "version", "--format", "{{.Server.Version}}", check=False
        ).strip():
            if daemon_process.poll() is not None or time.monotonic() > deadline:
                raise Skipped(f"the engine does not start: {(folder / 'dockerd.log').read_text()[-1500:]}")
            time.sleep(0.5)
        try:
            yield socket
        finally:
            ended = daemon_process
    ended.wait()
    for group in (*Path("/sys/fs/cgroup").glob("*/pdk-old"), Path("/sys/fs/cgroup/pdk-old")):
        run("find", str(group), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";", check=False)


def compose_file(folder: Path, image: str) -> Path:
    """The networks as docker-compose.yml has them, and services in the places of the real ones."""
    told = run("docker", "compose", "--profile", "*", "config", "--format", "json", cwd=ROOT)
    real = json.loads(told)
    services = {
        name: {
            "image": image,
            "entrypoint": ["python3", "-c", SERVE],
            "init": True,
            "networks": list(real["services"][name]["networks"]),
            "dns": real["services"][name].get("dns", []),
        }
        for name in ("agent", "gate", "postgres", "mlflow")
    }
    networks = {
        name: {key: value for key, value in network.items() if key in ("internal", "driver_opts")}
        for name, network in real["networks"].items()
    }
    # The same with a wall taken away, one at a time.
    services["no-inhibit"] = services["agent"] | {"networks": ["no-inhibit"]}
    services["no-dns"] = {key: value for key, value in services["agent"].items() if key != "dns"}
    networks["no-inhibit"] = {"internal": True}
    file = folder / "compose.json"
    file.write_text(json.dumps({"name": "pdk-old", "services": services, "networks": networks}))
    return file


class Probes:
    """What containers of the project reach."""

    def __init__(self, docker: list[str], folder: Path) -> None:
        self._docker = docker
        self._folder = folder
        self.wrong = 0

    def address(self, service: str, network: str) -> str:
        found = json.loads(run(*self._docker, "inspect", f"pdk-old-{service}-1"))[0]
        return str(found["NetworkSettings"]["Networks"][f"pdk-old_{network}"]["IPAddress"])

    def gateways(self) -> list[str]:
        """Every address that the machine has."""
        told = json.loads(run("ip", "-netns", HOST, "-json", "-4", "address"))
        found = [one["local"] for link in told for one in link.get("addr_info", [])]
        return [address for address in found if not address.startswith("127.")]

    def tcp(self, service: str, address: str) -> bool:
        return self._try(service, "tcp", address)

    def asks(self, service: str, name: str) -> bool:
        """Whether a name that a container looks up leaves for any resolver."""
        self._try(service, "name", name)
        label = name.partition(".")[0].encode()
        return any(label in log.read_bytes() for log in self._folder.glob("names-*"))

    def show(self, what: str, expected: bool, found: bool) -> None:
        words = {True: "yes", False: "no"}
        print(f"{what:<72} {words[expected]:>8} {words[found]:>6}{'' if found is expected else '   WRONG'}")
        self.wrong += found is not expected

    def _try(self, service: str, kind: str, target: str) -> bool:
        told = run(
            *self._docker, "exec", f"pdk-old-{service}-1", "python3", "-c", TRY, kind, str(PORT), target
        )
        return told.strip() == "True"


def probe(probes: Probes) -> None:
    print(f"{'from a container: what is tried':<72} {'expected':>8} {'found':>6}")
    show = probes.show
    show("agent: the gate, by name", True, probes.tcp("agent", "gate"))
    show("gate: mlflow, by name", True, probes.tcp("gate", "mlflow"))
    for service, network in (
        ("mlflow", "core"),
        ("mlflow", "outside"),
        ("postgres", "core"),
        ("gate", "core"),
    ):
        address = probes.address(service, network)
        show(f"agent: {service}, at its address in {network}", False, probes.tcp("agent", address))
    for name in ("mlflow", "postgres"):
        show(f"agent: {name}, by name", False, probes.tcp("agent", name))
    machine = probes.gateways()
    for service, expected in (("mlflow", True), ("agent", False), ("gate", False), ("postgres", False)):
        found = [address for address in machine if probes.tcp(service, address)]
        show(
            f"{service}: a port of the machine, at any of its {len(machine)} addresses", expected, bool(found)
        )
    found = [address for address in machine if probes.tcp("no-inhibit", address)]
    show("agent without inhibit_ipv4: a port of the machine", True, bool(found))
    for service, expected in (("mlflow", True), ("agent", False), ("gate", False), ("postgres", False)):
        show(f"{service}: the world, by address", expected, probes.tcp(service, WORLD_ADDRESS))
    show("agent: a query for a name outside leaves", False, probes.asks("agent", "canary-agent.example"))
    show("mlflow: a query for a name outside leaves", True, probes.asks("mlflow", "canary-mlflow.example"))
    leaves = probes.asks("no-dns", "canary-nodns.example")
    print(
        f"{'agent without dns: 127.0.0.1: a query leaves (CVE-2024-29018)':<72} {'':>8} {'yes' if leaves else 'no':>6}"
    )


def main(image: str) -> int:
    """Returns the exit code."""
    for program in ("ip", "nsenter", "unshare", "runc", "apt-get", "docker", "iptables"):
        if not shutil.which(program):
            raise Skipped(f"no {program} on PATH")
    if os.getuid():
        raise Skipped("only root may make network namespaces")
    if not json.loads(run("docker", "image", "inspect", image, check=False) or "[]"):
        raise Skipped(f"no image {image}; build it (./paddock up), or name another that has Python")
    with tempfile.TemporaryDirectory(prefix="pdk-old-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        programs = unpacked(folder)
        listeners = ((HOST, "127.0.0.1"), (WORLD, WORLD_ADDRESS))
        with contextlib.ExitStack() as stack:
            stack.enter_context(namespaces())
            for namespace, resolver in listeners:
                log = folder / f"names-{namespace}"
                log.touch()
                command = (sys.executable, "-c", LISTENER, str(log), resolver, str(PORT))
                stack.enter_context(process(folder, f"listener-{namespace}", namespace, *command))
            socket = stack.enter_context(engine(folder, programs))
            docker = ["docker", "--host", socket]
            print(f"engine {run(*docker, 'version', '--format', '{{.Server.Version}}').strip()}")
            run("sh", "-c", f"docker save {image} | docker --host {socket} load", timeout=300)
            compose = [
                *docker,
                "compose",
                "--file",
                str(compose_file(folder, image)),
                "--project-name",
                "pdk-old",
            ]
            try:
                run(*compose, "up", "--detach", timeout=300)
                probes = Probes(docker, folder)
                probe(probes)
            finally:
                run(*compose, "down", "--timeout", "1", "--volumes", check=False)
        return 1 if probes.wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(
            main(
                sys.argv[1]
                if len(sys.argv) > 1
                else f"paddock/demo-model:{os.environ.get('PADDOCK_VERSION', '0.1.0')}"
            )
        )
    except Skipped as reason:
        print(f"skipped: {reason}")
        sys.exit(SKIPPED)
