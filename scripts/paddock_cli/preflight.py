"""Looks at the machine before anything is changed; every refusal names the remedy."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from paddock_cli.errors import BadWorkspace, ComposeMissing, EngineMissing, NoSpace
from paddock_cli.settings import Paths

COMPOSE_MINIMUM = (2, 20)


def docker() -> str:
    """Path of the docker program.

    Raises:
        EngineMissing: there is none on PATH.
    """
    found = shutil.which("docker")
    if not found:
        raise EngineMissing(
            "the docker program on PATH",
            # Stands alone, too, where the reason is told.
            "no docker on PATH",
            "install Docker (on Debian: sudo scripts/install-docker), or run without it: add --embedded",
        )
    return found


def require_engine() -> None:
    """That a Docker engine answers and has Compose of 2.20 or newer.

    Raises:
        EngineMissing: no engine, or one that this user may not use.
        ComposeMissing: no Compose, or too old.
    """
    program = docker()
    try:
        answer = subprocess.run(
            [program, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineMissing(
            "a Docker engine that answers", "no answer in 20 s", "restart the engine, or add --embedded"
        ) from None
    if answer.returncode or not answer.stdout.strip():
        told = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
        remedy = "start it (systemctl start docker; where there is none: sudo scripts/install-docker), or add --embedded"
        if "permission denied" in answer.stderr.lower():
            remedy = (
                "let this user use it (sudo usermod -aG docker $USER, then log in anew), or add --embedded"
            )
        raise EngineMissing("a Docker engine that answers", told, remedy)
    compose = subprocess.run(
        [program, "compose", "version", "--short"], capture_output=True, text=True, check=False
    )
    version = re.match(r"v?(\d+)\.(\d+)", compose.stdout.strip())
    remedy = (
        "install the plugin (Debian: docker-compose; elsewhere: docker-compose-plugin), or add --embedded"
    )
    if compose.returncode or version is None:
        raise ComposeMissing("Docker's Compose plugin, 2.20 or newer", "an engine without it", remedy)
    if (int(version[1]), int(version[2])) < COMPOSE_MINIMUM:
        raise ComposeMissing("Docker's Compose plugin, 2.20 or newer", compose.stdout.strip(), remedy)


def require_space(folder: Path, needed_bytes: int) -> None:
    """That the file system of a folder, or of what there is of its path, has room.

    Raises:
        NoSpace: it has not.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise NoSpace(
            f"{needed_bytes / 1024**3:.0f} GiB free at {existing}",
            f"{free / 1024**3:.1f} GiB",
            "free some space (docker system df shows what Docker holds), or set XDG_CACHE_HOME to another disk",
        )


def uplink_mtu() -> int | None:
    """The MTU of the interface of the default route, in bytes; None where the system does not tell."""
    try:
        routes = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return None
    for fields in (line.split() for line in routes):
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
            try:
                return int(Path(f"/sys/class/net/{fields[0]}/mtu").read_text())
            except (OSError, ValueError):
                return None
    return None


def workspace(folder: Path, where: Paths) -> Path:
    """The folder that the agent is to work in, resolved.

    Raises:
        BadWorkspace: it is missing, no folder, this user can't read and write it, or it holds what no agent may have.
    """
    import os

    resolved = folder.expanduser().resolve()
    remedy = "name a folder that you can write: --workspace DIR"
    if not resolved.exists():
        raise BadWorkspace(
            "the workspace to be a folder", f"nothing at {resolved}", f"make it (mkdir -p) or {remedy}"
        )
    if not resolved.is_dir():
        raise BadWorkspace("the workspace to be a folder", f"a file at {resolved}", remedy)
    if not os.access(resolved, os.R_OK | os.W_OK | os.X_OK):
        raise BadWorkspace(f"to read and write {resolved}", "that your user may not", remedy)
    if resolved == Path(resolved.anchor):
        raise BadWorkspace("the folder of a project", "the whole file system", remedy)
    _require_apart(resolved, where)
    if ":" in str(resolved):
        raise BadWorkspace(
            "a workspace without ':' in its path", str(resolved), "Docker can't mount it; rename it"
        )
    return resolved


def _require_apart(folder: Path, where: Paths) -> None:
    """That an agent in this folder gets neither keys nor programs of ours to write, which run outside of its fence.

    The sample projects of `demo` lie in the state folder; nothing else does.
    """
    ours = {
        "Paddock itself": where.root,
        "its state, with your keys": where.state,
        "its settings file, with your keys": where.env_file,
        "its programs": where.cache,
    }
    demo = (where.state / "demo").resolve()
    for what, place in ours.items():
        place = place.resolve()  # noqa: PLW2901
        around, inside = place.is_relative_to(folder), folder.is_relative_to(place)
        if around or (inside and demo not in folder.parents):
            how = "is" if folder == place else "holds" if around else "lies in"
            raise BadWorkspace(
                "a workspace apart from Paddock's own folders",
                f"{folder}, which {how} {what}{'' if folder == place else f' ({place})'}",
                "name the folder of a project: --workspace DIR; to work on Paddock itself, clone it to another place",
            )


def mcp_file(path: Path) -> tuple[Path, dict[str, Any]]:
    """A JSON file of MCP servers: its path, resolved, and what it holds.

    Raises:
        BadWorkspace: it is missing or no JSON object.
    """
    resolved = path.expanduser().resolve()
    remedy = 'write it as {"mcpServers": {"name": {"command": ..., "args": [...]}}}'
    try:
        found = json.loads(resolved.read_text())
    except OSError as error:
        raise BadWorkspace(f"a readable file at {resolved}", str(error.strerror), remedy) from None
    except ValueError as error:
        raise BadWorkspace(f"{resolved} to be JSON", str(error), remedy) from None
    if not isinstance(found, dict):
        raise BadWorkspace(f"{resolved} to hold a JSON object", type(found).__name__, remedy)
    return resolved, found
