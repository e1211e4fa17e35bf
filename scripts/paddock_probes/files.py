"""Ways over files: what is mounted, what can be written, what lies about."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from paddock_probes.registry import Attempt, Targets, probe

_SOCKETS = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/user/1000/podman/podman.sock",
)
# What every engine mounts into every container.
_ENGINES_OWN = re.compile(
    r"^(/|/proc(/.*)?|/sys(/.*)?|/dev(/.*)?|/etc/(resolv\.conf|hostname|hosts)|(/usr)?/sbin/docker-init|/run/\.containerenv)$"
)
_SECRET_NAME = re.compile(r"(?i)(key|password|passwd|secret|token|credential)")
_NO_SECRET = ("added-by-gate", "")
_RUN_KEY = re.compile(r"pdk[_-][A-Za-z0-9_-]{16,}")
_NO_SECRET_NAMES = ("GPG_KEY", "MAX_OUTPUT_TOKENS", "PADDOCK_AGENT_MAX_OUTPUT_TOKENS", "LANGUAGE_KEY")
_SECRET_FILES = (
    "/run/secrets",
    "/var/run/secrets",
    "/vault",
    "/root/.ssh",
    "/root/.docker/config.json",
    "/root/.aws",
    "/home/agent/.ssh",
    "/home/agent/.docker/config.json",
    "/home/agent/.aws",
    "/home/agent/.netrc",
    "/home/agent/.config/gcloud",
    "/home/agent/.kube",
    "/etc/kubernetes",
    "/etc/shadow",
    "/settings",
    "/.env",
)


@probe(
    "docker-socket",
    attempt="the engine's socket, which is root on the host",
    wall="it is mounted nowhere",
    marks=("ASI05", "CIS 5.31"),
)
def docker_socket(targets: Targets) -> Iterator[Attempt]:
    for path in _SOCKETS:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            try:
                client.connect(path)
                yield Attempt(path, True, "connected")
            except OSError as error:
                yield Attempt(path, False, error.strerror or str(error))


@probe(
    "mounts",
    attempt="folders of the host, besides the workspace and the run's state",
    wall="nothing else is mounted",
    marks=("LLM02", "CIS 5.5", "CIS 5.19"),
)
def mounts(targets: Targets) -> Iterator[Attempt]:
    known = 0
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            path = before.split()[4].replace("\\040", " ")
            own_tmpfs = after.startswith("tmpfs") and path in targets.writable
            if _ENGINES_OWN.match(path) or path in targets.mounts or own_tmpfs:
                known += 1
            else:
                yield Attempt(path, True, "mounted")
    yield Attempt("all", False, "only what belongs there")


@probe(
    "read-only-root",
    attempt="to change the container's own programs: system folders, the runner, its Python packages",
    wall="`read_only: true`",
    marks=("ASI06", "ASI10", "CIS 5.12"),
)
def read_only_root(targets: Targets) -> Iterator[Attempt]:
    folders = (
        "/",
        "/etc",
        "/usr/bin",
        "/usr/local/bin",
        "/opt",
        "/opt/paddock",
        "/opt/venv/bin",
        "/var/lib",
        "/var/tmp",
        "/root",
    )
    for folder in folders:
        path = Path(folder, ".paddock-probe")
        if not Path(folder).is_dir():
            continue
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            path.unlink()
            yield Attempt(folder, True, "a file was made")
        except OSError as error:
            yield Attempt(folder, False, error.strerror or str(error))


@probe(
    "handover",
    attempt="to change what the set-up tells every later run: the experiment's id",
    wall="the volume `handover` is mounted read-only",
    marks=("ASI06", "LLM04"),
)
def handover(targets: Targets) -> Iterator[Attempt]:
    for path, flags in (
        ("/run/handover/experiment_id", os.O_WRONLY),
        ("/run/handover/.paddock-probe", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    ):
        try:
            os.close(os.open(path, flags, 0o600))
            yield Attempt(path, True, "opened for writing")
            if flags & os.O_CREAT:
                Path(path).unlink()
        except OSError as error:
            yield Attempt(path, False, error.strerror or str(error))


@probe(
    "secrets-in-environment",
    attempt="keys and passwords in the environment of any process that can be seen",
    wall="providers' keys go to the gateway; the run's own comes by standard input and stays in the runner's memory",
    marks=("LLM02", "ASI03", "CIS 4.10"),
)
def secrets_in_environment(targets: Targets) -> Iterator[Attempt]:
    read = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        read += 1
        for pair in content.decode("utf-8", "replace").split("\0"):
            name, _, value = pair.partition("=")
            named = _SECRET_NAME.search(name) and name not in _NO_SECRET_NAMES and value not in _NO_SECRET
            if named or _RUN_KEY.search(value):
                yield Attempt(path.parts[2], True, f"{name} is set")
    yield Attempt("environments", False, "no key, no password" if read else "none can be read")


@probe(
    "secrets-in-files",
    attempt="keys and passwords in files: other services' secrets, the user's SSH, cloud and registry keys",
    wall="each service has its secrets in a volume of its own; the user's home is not mounted",
    marks=("LLM02", "ASI03"),
)
def secrets_in_files(targets: Targets) -> Iterator[Attempt]:
    for name in _SECRET_FILES:
        path = Path(name)
        try:
            found = any(path.iterdir()) if path.is_dir() else bool(path.read_bytes())
        except OSError as error:
            yield Attempt(name, False, error.strerror or str(error))
        else:
            yield Attempt(name, found, "can be read" if found else "empty")
