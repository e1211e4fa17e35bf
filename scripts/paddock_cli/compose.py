"""The stack by Docker Compose: the product."""

import fcntl
import hashlib
import json
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paddock_cli import console, exposure, preflight, processes, runtimes, trees
from paddock_cli.errors import BadSettings, BuildFailed, NoSpace, NotRunning, PortTaken, StartFailed
from paddock_cli.settings import (
    DEFAULT_BASE_IMAGE,
    PROVIDER_CHOICES,
    PROVIDER_KEYS,
    Paths,
    Settings,
    read_env_file,
    write_private,
)
from paddock_cli.stack import (
    APART_GRACE_SECONDS,
    AgentProcess,
    Client,
    Connection,
    Ended,
    Request,
    ServiceStatus,
    tail_of,
)

ADMIN = "admin"
PROJECT = "paddock"
CORE_SERVICES = ("postgres", "object-store", "mlflow", "mlflow-jobs", "gate", "collector", "demo-model")
RUN_LABEL = "paddock.run_id"
UNTIL_LABEL = "paddock.until"
"""Seconds since the epoch: when a container of a command that runs apart has no right to be there any more."""
AGENT_GRACE_SECONDS = 45
AUDIT_SECONDS = 300
"""How long the container of an audit waits at most, should nobody remove it."""
WAIT_SECONDS = 300
CLIENT_SECONDS = 20
"""How long a container may take to come to be that a command line which was killed has asked for."""
OUTPUT_LINES = 1000
_BEGUN = ("running", "exited", "dead", "paused", "restarting")
EGRESS = "egress:3128"
"""The egress proxy, as agents see it."""
NEEDED_BYTES = 8 * 1024**3
DEMO_MODEL_URL = "http://demo-model:8000/v1"
"""As docker-compose.yml has it."""
_OTHER_SECRETS = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
_SECRETS = (*PROVIDER_KEYS, *_OTHER_SECRETS)
_BUILD_STEP = re.compile(r"^(?P<id>#\d+) \[(?P<stage>[\w-]+(?: [\w.-]+)?) +(?P<step>\d+/\d+)\] (?P<what>.*)")
_BINDING = re.compile(r"((?:\d+\.){3}\d+|\[[0-9a-f:]+\]):(\d+)")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MOUNT = re.compile(r"--mount=\S+\s+")
# What most steps begin with: where a CA bundle or a mirror is, if there is one.
_PRELUDE = re.compile(r"\bif \[.*?; fi;\s*")
_SERVICE_STATES = re.compile(
    r"^(?:Container )?(?P<name>\S+)\s+(?P<state>Waiting|Healthy|Started|Exited|Error)"
)


class ComposeStack:
    """The Compose way; see the module's text."""

    kind = "compose"

    def __init__(self, where: Paths, settings: Settings) -> None:
        self._where = where
        self._settings = settings
        self._docker = preflight.docker()
        self._env_file = where.state / "compose.env"

    def up(self, *, build: bool = True) -> None:
        """Build what is missing, start, and wait until every service is healthy."""
        self._settings.exposed.require_safe()
        runtimes.require(self._settings.agent_runtime)
        running = {service.name for service in self.status() if service.state == "running"}
        if "mlflow" not in running:
            self._require_port()
        # Looked up before anything is built: what is there then needs no space.
        if build and self._missing_images():
            preflight.require_space(self._engine_folder(), NEEDED_BYTES)
        if build:
            self.build()
        else:
            self._write_env_file()
        # Made anew, it mounts the settings file of this call; a container that is only started again keeps its old one.
        self._quiet("rm", "--force", "--stop", "secrets")
        with console.step("starting the stack") as step:
            self._checked(
                [
                    "up",
                    "--detach",
                    "--wait",
                    "--wait-timeout",
                    str(WAIT_SECONDS),
                    "--no-build",
                    "--remove-orphans",
                ],
                step,
                "every service to become healthy",
            )

    def build(self, *services: str) -> None:
        """Make the base image and the images of these services, or of all, where they are missing or have changed.

        Raises:
            NoSpace: images are missing and the engine's disk is nearly full.
            BuildFailed: with the end of the build's output.
        """
        self._where.make()
        self._write_env_file()
        missing = self._missing_images()
        if missing:
            preflight.require_space(self._engine_folder(), NEEDED_BYTES)
        self._base_image()
        with console.step(
            "building images (minutes at the first time)" if missing else "checking images"
        ) as step:
            self._build(step, *services)

    def stop(self) -> None:
        """End agents, then stop the services."""
        self.end_agents()
        with console.step("stopping the stack"):
            self._quiet("stop")

    def down(self, *, volumes: bool) -> None:
        """End agents, then remove containers and networks; volumes where asked."""
        self.end_agents()
        with console.step("removing the stack"):
            # Agents that were kept for a resume of their suite run.
            label = f"label=com.docker.compose.project={self._project()}"
            oneoff = "label=com.docker.compose.oneoff=True"
            kept = self._engine(
                "ps", "--all", "--quiet", "--filter", label, "--filter", oneoff
            ).stdout.split()
            if kept:
                self._engine("rm", "--force", *kept)
            # The profiles' services too: their one-off containers and volumes belong to the stack.
            self._quiet("--profile", "*", "down", "--remove-orphans", *(["--volumes"] if volumes else []))

    def status(self) -> list[ServiceStatus]:
        """The services of the stack, agents that run included."""
        answer = self._run(["ps", "--all", "--format", "json"])
        if answer.returncode:
            return []
        rows = _json_lines(answer.stdout)
        memory = self._memory([row["ID"] for row in rows if row.get("State") == "running"])
        return [
            ServiceStatus(
                name=row["Service"],
                state=row.get("State", ""),
                health=row.get("Health", "")
                or (f"exit code {row['ExitCode']}" if row.get("State") == "exited" else ""),
                memory=memory.get(row["Name"], 0),
            )
            for row in sorted(rows, key=lambda row: row["Service"])
        ]

    def logs(self, services: list[str], *, follow: bool, tail: int) -> Iterator[str]:
        """Lines of the services' logs."""
        command = [
            "logs",
            "--no-color",
            "--tail",
            str(tail) if tail else "all",
            *(["--follow"] if follow else []),
        ]
        process = subprocess.Popen(
            self._command([*command, *services]),
            env=self._variables(),
            cwd=self._where.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                # Some releases erase to the line's start even where nothing is a terminal.
                yield console.plain(_ESCAPE.sub("", line.rstrip("\n")))
        finally:
            process.terminate()
            process.wait()

    def url(self) -> str:
        """Where MLflow is published."""
        answer = self._run(["port", "mlflow", "5000"])
        address = answer.stdout.strip()
        if answer.returncode or not address or address.endswith(":0"):
            raise NotRunning("a running stack", "that MLflow does not run", "start it: ./paddock up")
        return f"http://{exposure.reachable(address)}"

    def connection(self) -> Connection:
        """MLflow's published address and its administrator."""
        return Connection(self.url(), ADMIN, self._file_of("mlflow", "/run/secrets/admin_password"))

    def client(self) -> Client:
        """MLflow's published address and the agents' key."""
        url = self.url()
        key = self._file_of("gate", "/run/secrets/agent_key")
        from paddock_cli.mlflow_api import Mlflow

        return Client(url, key, Mlflow(self.connection()).experiment_id())

    def demo_variables(self) -> dict[str, str]:
        """The demo model's address inside the stack, and its key."""
        key = self._file_of("demo-model", "/run/secrets/demo_api_key")
        return {"DEMO_MODEL_URL": DEMO_MODEL_URL, "DEMO_API_KEY": key}

    def rotate_passphrase(self) -> None:
        """Stop MLflow, make a new passphrase, encrypt the secrets' keys with it, start MLflow again.

        What is cut off in between is safe: the database says which passphrase is in force, and none is taken away.
        """
        self.url()
        try:
            with console.step("stopping MLflow"):
                self._quiet("stop", "mlflow")
            with console.step("encrypting the gateway's secrets with a new passphrase"):
                self._quiet("run", "--rm", "--no-deps", "--no-TTY", "secrets", "rotate-key")
                self._quiet("run", "--rm", "--no-deps", "--no-TTY", "mlflow", "rotate-key")
        finally:
            with console.step("starting MLflow") as step:
                self._checked(
                    ["up", "--detach", "--wait", "--no-build", "--no-deps", "--no-recreate", "mlflow"],
                    step,
                    "MLflow to become healthy",
                )

    def start_agent(self, request: Request) -> AgentProcess:
        """Start the runner in a container of its own; files that it writes belong to the caller."""
        self.url()
        runtimes.require(self._settings.agent_runtime)
        uid, gid = self._owner(request.workspace)
        service = "agent-browser" if "browser" in request.tools.split(",") else "agent"
        self._require_image(service)
        if uid != os.getuid():
            trees.give(request.state, uid, gid)
        name = f"{self._project()}-run-{request.run_id[:13]}"
        command = [
            *self._hosts(request, service),
            "--profile",
            "agent",
            "run",
            "--no-TTY",
            "--no-deps",
        ]
        # The engine's log of a container that is kept holds what the agent said, its result above all.
        command += [] if request.kept else ["--rm"]
        command += ["--name", name]
        command += ["--label", f"{RUN_LABEL}={request.run_id}", "--user", f"{uid}:{gid}"]
        command += ["--volume", f"{request.workspace}:/workspace", "--volume", f"{request.state}:/state"]
        process = subprocess.Popen(
            self._command([*command, service, *request.arguments("/workspace", "/state")]),
            cwd=self._where.root,
            env=self._variables(*request.secrets)
            | {"AGENT_UID": str(uid), "AGENT_GID": str(gid), "AGENT_UMASK": _umask()}
            | ({"PADDOCK_EGRESS": EGRESS} if request.egress else {}),
            # The run's key and secrets: no argument, environment or file that outlives the moment holds them.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C reaches the command line alone, which passes it on once.
            start_new_session=True,
        )
        if request.kept:
            processes.note(self._client_note(request.run_id), process.pid)
        return _ContainerProcess(process, request, self._docker, name)

    def picked_up(self, run_id: str) -> AgentProcess | None:
        """The container of a kept run, by its label."""
        client = processes.noted(self._client_note(run_id))
        if client is not None and client.process() is not None:
            # `docker compose run` outlives a command line that was killed, and may be about to make the container.
            processes.wait_until(
                lambda: self._run_container(run_id)[1] in _BEGUN or client.process() is None,
                CLIENT_SECONDS,
                0.2,
            )
        name, state = self._run_container(run_id)
        if state not in _BEGUN:
            if client is not None:
                processes.end(client, 2)
            self.let_go(run_id)
            return None
        process = subprocess.Popen(
            [self._docker, "logs", "--follow", name],
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        return _PickedUpContainer(process, None, self._docker, name)

    def let_go(self, run_id: str) -> None:
        """Remove the container of a run."""
        name, _ = self._run_container(run_id)
        if name:
            self._engine("rm", "--force", name)
        self._client_note(run_id).unlink(missing_ok=True)

    def require_agent(self, *, browser: bool) -> None:
        """Build the agent's images, where they are missing."""
        runtimes.require(self._settings.agent_runtime)
        self._sweep()
        for service in ("agent", *(("agent-browser",) if browser else ())):
            self._require_image(service)

    def run_apart(self, command: str, folder: Path, seconds: float) -> Ended:
        """In a container of the service `check`; see docker-compose.yml."""
        uid, gid = self._owner(folder)
        name = f"{self._project()}-check-{secrets.token_hex(6)}"
        began = time.monotonic()
        until = f"{UNTIL_LABEL}={time.time() + seconds + 2 * APART_GRACE_SECONDS:.0f}"
        options = ["--detach", "--no-TTY", "--no-deps", "--name", name, "--label", until]
        options += ["--user", f"{uid}:{gid}"]
        # It ends by itself, too, should nobody be there any more to end it.
        bounded = ["timeout", "--signal=KILL", f"{seconds + APART_GRACE_SECONDS:g}", "bash", "-c", command]
        started = subprocess.run(
            self._command(
                [
                    "--profile",
                    "agent",
                    "run",
                    *options,
                    "--volume",
                    f"{folder}:/workspace",
                    "check",
                    "plain",
                    *bounded,
                ]
            ),
            env=self._variables() | {"AGENT_UID": str(uid), "AGENT_GID": str(gid), "AGENT_UMASK": _umask()},
            cwd=self._where.root,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        try:
            if started.returncode:
                told = started.stderr.strip()[-500:] or "no message"
                return Ended(started.returncode, "", time.monotonic() - began, failed=f"no container: {told}")
            code = self._awaited(name, seconds)
            took = time.monotonic() - began
            return Ended(code or 0, self._output_of(name), took, timed_out=code is None)
        finally:
            self._engine("rm", "--force", "--volumes", name)

    def _sweep(self) -> None:
        """Remove containers of commands that ran apart for a command line that was killed meanwhile."""
        labels = (f"com.docker.compose.project={self._project()}", UNTIL_LABEL)
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        form = f'{{{{.ID}}}} {{{{.Label "{UNTIL_LABEL}"}}}}'
        for line in self._engine("ps", "--all", *filters, "--format", form).stdout.splitlines():
            container, _, until = line.partition(" ")
            if until.isdecimal() and int(until) < time.time():
                self._engine("rm", "--force", "--volumes", container)

    def _awaited(self, name: str, seconds: float) -> int | None:
        """The exit code of a container; None where it had to be killed."""
        try:
            done = subprocess.run(
                [self._docker, "wait", name], capture_output=True, text=True, timeout=seconds, check=False
            )
            return int(done.stdout.strip() or 1)
        except subprocess.TimeoutExpired:
            self._engine("kill", name)
            return None

    def _output_of(self, name: str) -> str:
        """The end of what a container said; the engine keeps no more than the log rotation of its service allows."""
        with subprocess.Popen(
            [self._docker, "logs", "--tail", str(OUTPUT_LINES), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            return tail_of(process.stdout)

    def _run_container(self, run_id: str) -> tuple[str, str]:
        """Name and state of the container of a run; empty where there is none."""
        form = "{{.Names}}\t{{.State}}"
        answer = self._engine("ps", "--all", "--filter", f"label={RUN_LABEL}={run_id}", "--format", form)
        name, _, state = answer.stdout.strip().partition("\t")
        return name, state

    def _client_note(self, run_id: str) -> Path:
        return self._where.runs / f"{run_id}.client.pid"

    def end_agents(self) -> int:
        """`docker stop` each run container: Compose's own stop and down leave them alone or kill them late.

        The runner ends its conversation on SIGTERM and closes its trace as ERROR.
        """
        labels = (f"com.docker.compose.project={self._project()}", "com.docker.compose.oneoff=True")
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        found = self._engine("ps", "--quiet", *filters).stdout.split()
        if found:
            with console.step(f"ending {len(found)} running agent(s)"):
                self._engine("stop", "--time", str(AGENT_GRACE_SECONDS), *found)
        return len(found)

    # What an audit looks at

    @contextmanager
    def waiting_agent(self) -> Iterator[str]:
        """A container of the agent's service that does nothing, as long as the block lasts; its name.

        Raises:
            NotRunning: there is no stack to run it in.
            StartFailed: it does not start.
        """
        self.url()
        self._require_image("agent")
        name = f"{self._project()}-audit-{secrets.token_hex(4)}"
        command = ["--profile", "agent", "run", "--detach", "--no-deps", "--no-TTY", "--rm", "--name", name]
        try:
            self._quiet(*command, "agent", "exec", "sleep", str(AUDIT_SECONDS))
            yield name
        finally:
            self._engine("rm", "--force", name)

    def run_in(
        self, container: str, *command: str, stdin: bytes = b"", seconds: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """A command in a container, with what it reads; code 124 where it does not end in time."""
        try:
            done = subprocess.run(
                [self._docker, "exec", "--interactive", container, *command],
                env=self._variables(),
                input=stdin,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no end within {seconds:g} s")
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def inspected(self) -> list[dict[str, Any]]:
        """`docker inspect` of every container of the stack, agents that run and one-shots that have ended included."""
        label = f"label=com.docker.compose.project={self._project()}"
        found = self._engine("ps", "--all", "--quiet", "--filter", label).stdout.split()
        return list(json.loads(self._engine("inspect", *found).stdout)) if found else []

    def inspected_networks(self) -> dict[str, dict[str, Any]]:
        """`docker network inspect` of the stack's networks, by the name that docker-compose.yml has."""
        label = f"label=com.docker.compose.project={self._project()}"
        found = self._engine("network", "ls", "--quiet", "--filter", label).stdout.split()
        told = json.loads(self._engine("network", "inspect", *found).stdout) if found else []
        return {one["Labels"]["com.docker.compose.network"]: one for one in told}

    def network_gateways(self) -> list[str]:
        """The host's IPv4 addresses on all of the engine's networks."""
        found = self._engine("network", "ls", "--quiet", "--filter", "driver=bridge").stdout.split()
        told = json.loads(self._engine("network", "inspect", *found).stdout) if found else []
        parts = [part for one in told for part in one["IPAM"].get("Config") or []]
        return sorted({part["Gateway"] for part in parts if ":" not in part.get("Gateway", ":")})

    def secrets_held(self) -> dict[str, str]:
        """What the running services hold in /run/secrets: `service/name` → value."""
        script = r'for f in /run/secrets/*; do [ -f "$f" ] && printf "%s\\036%s\\037" "${f##*/}" "$(cat "$f")"; done'
        held = {}
        for service in CORE_SERVICES:
            answer = self._run(["exec", "--no-TTY", service, "sh", "-c", script])
            for pair in answer.stdout.split("\037"):
                name, separator, value = pair.partition("\036")
                # A short one would be found everywhere.
                if separator and len(value) >= 12:
                    held[f"{service}/{name}"] = value
        return held

    def egress(self) -> bool:
        """Whether the egress proxy runs."""
        labels = (f"com.docker.compose.project={self._project()}", "com.docker.compose.service=egress")
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return bool(self._engine("ps", "--quiet", "--filter", "status=running", *filters).stdout.split())

    # Building

    def _base_image(self) -> None:
        """The base image: there already, or from its registry, or made from this machine's package mirror."""
        image = self._settings.base_image
        if self._image_exists(image):
            return
        if image != DEFAULT_BASE_IMAGE and "@sha256:" not in image:
            raise BadSettings(
                "BASE_IMAGE to name an image by its digest (NAME@sha256:…), or one that this engine has",
                f"the tag {image}, which its registry may point elsewhere at any time",
                f"look up the digest (docker buildx imagetools inspect {image}), make the image from this machine's"
                f" package mirror (sudo scripts/make-base-image {image}), or take what the tag is now (docker pull"
                f" {image})",
            )
        self._where.cache.mkdir(parents=True, exist_ok=True)
        with open(self._where.cache / "base-image.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another call may have got it while this one waited.
            if not self._image_exists(image):
                self._get_base_image(image)

    def _get_base_image(self, image: str) -> None:
        with console.step(f"fetching the base image {image}") as step:
            pulled = self._engine("pull", "--quiet", image)
            digest = self._digest(image) if pulled.returncode == 0 else ""
            step.result = f"pulled {digest}" if pulled.returncode == 0 else "no registry answers"
        if pulled.returncode == 0:
            return
        if "@" in image:
            raise BuildFailed(
                f"a registry to give the base image {image}",
                pulled.stderr.strip()[-500:] or "no answer",
                "mend what it names, or unset BASE_IMAGE: without a registry the base is made from the package mirror",
            )
        with console.step(f"making the base image {image} from this machine's package mirror (2 to 3 min)"):
            made = subprocess.run(
                [str(self._where.root / "scripts" / "make-base-image"), image],
                capture_output=True,
                text=True,
                check=False,
            )
        if made.returncode or not self._image_exists(image):
            told = (made.stderr or made.stdout).strip()[-1000:]
            raise BuildFailed(
                f"the base image {image}, from a registry or made here",
                f"{pulled.stderr.strip()[-300:]}; scripts/make-base-image: {told}",
                f"pull or load {image} yourself, or set BASE_IMAGE in .env",
            )

    def _build(self, step: console.Step, *services: str) -> None:
        log = self._where.logs / "build.log"
        process = subprocess.Popen(
            # Under one project's name: Compose labels images with it, and another label would make another image.
            self._command(
                ["--project-name", PROJECT, "--profile", "agent", "--progress", "plain", "build", *services]
            ),
            env=self._variables(),
            cwd=self._where.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        steps = BuildSteps()
        with open(log, "w") as file:
            for line in process.stdout:
                file.write(line)
                if text := steps.read(line):
                    step.show(text)
                    if not console.err.is_terminal:
                        console.say(f"  {text}")
        if code := process.wait():
            lines = log.read_text(errors="replace").splitlines()
            if any("no space left on device" in line.lower() for line in lines):
                raise NoSpace(
                    "room for the images on the engine's disk",
                    "none left",
                    "free some (docker system df shows what is held; docker builder prune drops the build cache)",
                )
            raise BuildFailed(
                "every image to build",
                f"exit code {code}:\n" + "\n".join(lines[-15:]) + "\n",
                f"the whole output: {log}; behind a proxy or mirror set CA_BUNDLE, UV_DEFAULT_INDEX, GOPROXY",
            )

    def _hosts(self, request: Request, service: str) -> list[str]:
        """Compose's options where agents run in another runtime than the engine's default: see runtimes.write_hosts."""
        if self._settings.agent_runtime in ("", "runc"):
            return []
        file = self._where.runs / f"{request.run_id}.hosts.json"
        runtimes.write_hosts(file, self._project(), service)
        named = os.environ.get("COMPOSE_FILE") or read_env_file(self._where.env_file).get("COMPOSE_FILE", "")
        own = (
            named.split(os.environ.get("COMPOSE_PATH_SEPARATOR", os.pathsep))
            if named
            else ["docker-compose.yml"]
        )
        if not named and (self._where.root / "docker-compose.override.yml").exists():
            own.append("docker-compose.override.yml")
        return [word for path in (*own, str(file)) for word in ("--file", path)]

    def _require_image(self, service: str) -> None:
        """Build a profile's image where it is missing: after a bare `docker compose up` it is."""
        images = self._run(["--profile", "agent", "config", "--images", service]).stdout.split()
        if all(self._image_exists(image) for image in images):
            return
        self._base_image()
        with console.step(f"building the image of {service}") as step:
            self._build(step, service)

    def images(self) -> dict[str, str]:
        """Service → its image, of every profile that `build` makes.

        Raises:
            BadSettings: Compose can't read its files with these settings.
        """
        answer = self._run(["--profile", "agent", "config", "--format", "json"])
        try:
            services = json.loads(answer.stdout)["services"]
        except (ValueError, KeyError):
            raise BadSettings(
                "settings that Compose accepts",
                answer.stderr.strip()[-500:],
                "mend .env; .env.example explains each",
            ) from None
        return {name: service["image"] for name, service in services.items()}

    def _missing_images(self) -> list[str]:
        answer = self._run(["--profile", "agent", "config", "--images"])
        return [image for image in answer.stdout.split() if not self._image_exists(image)]

    def _digest(self, image: str) -> str:
        """What a registry calls the image by content; empty for one that was made here."""
        answer = self._engine("image", "inspect", "--format", '{{join .RepoDigests " "}}', image)
        return answer.stdout.strip()

    def _image_exists(self, image: str) -> bool:
        return self._engine("image", "inspect", image).returncode == 0

    # What Compose is told

    def _write_env_file(self) -> None:
        """The one file that Compose and the stack read: the user's settings, and what was found on this machine."""
        values = read_env_file(self._where.env_file)
        values |= {name: value for name in _OTHER_SECRETS if (value := os.environ.get(name))}
        values |= self._settings.keys | self._settings.provider
        mtu = self._settings.mtu
        if mtu is None and (found := preflight.uplink_mtu()) is not None and found < 1500:
            mtu = found
        values |= {
            name: str(value)
            for name, value in {
                "NETWORK_MTU": mtu,
                "CA_BUNDLE": self._settings.ca_bundle,
                "BASE_IMAGE": self._settings.base_image,
                "UV_DEFAULT_INDEX": self._settings.python_index,
                "GOPROXY": self._settings.go_proxy,
            }.items()
            if value
        }
        lines = []
        for name, value in sorted(values.items()):
            if "'" in value or "\n" in value:
                raise BadSettings(f"{name} without quotes and line ends", "one of them", f"mend {name}")
            lines.append(f"{name}='{value}'\n")
        write_private(self._env_file, "".join(lines))

    def _variables(self, *secrets: str) -> dict[str, str]:
        """Compose's own environment: the caller's, without a secret in it; `secrets` are names of further ones."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in (*_SECRETS, *PROVIDER_CHOICES, *self._settings.keys, *secrets)
        }
        kept["PADDOCK_ENV_FILE"] = str(self._env_file)
        with suppress(OSError):
            content = self._settings.egress_config.read_bytes()
            kept["EGRESS_DIGEST"] = hashlib.sha256(content).hexdigest()[:16]
        kept["COMPOSE_PROGRESS"] = kept.get("COMPOSE_PROGRESS", "plain")
        return kept

    def _command(self, arguments: list[str]) -> list[str]:
        if not self._env_file.exists():
            # Started by a bare `docker compose up`, or not yet.
            self._where.make()
            self._write_env_file()
        profiles = [word for profile in self._settings.exposed.profiles for word in ("--profile", profile)]
        common = ["--ansi", "never", "--env-file", str(self._env_file), *profiles]
        return [self._docker, "compose", *common, *arguments]

    def _engine(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A call of the engine itself."""
        return subprocess.run(
            [self._docker, *arguments],
            env=self._variables(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=900,
        )

    def _run(self, arguments: list[str], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self._command(arguments),
            env=self._variables(),
            cwd=self._where.root,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def _quiet(self, *arguments: str) -> None:
        answer = self._run([*arguments], timeout=300)
        if answer.returncode:
            raise StartFailed(
                f"`docker compose {' '.join(arguments)}` to succeed",
                f"exit code {answer.returncode}: {answer.stderr.strip()[-800:]}",
                "mend what it names and try again",
            )

    def _checked(self, arguments: list[str], step: console.Step, expected: str) -> None:
        process = subprocess.Popen(
            self._command(arguments),
            env=self._variables(),
            cwd=self._where.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert process.stderr is not None
        told: list[str] = []
        for line in process.stderr:
            told.append(line.rstrip())
            if match := _SERVICE_STATES.match(line.strip()):
                step.show(f"{match['name']} {match['state'].lower()}")
        if process.wait() == 0:
            return
        taken = [
            line for line in told if "port is already allocated" in line or "address already in use" in line
        ]
        if taken:
            raise self._port_taken(taken[-1])
        bad = [
            s
            for s in self.status()
            if s.health == "unhealthy" or (s.state == "exited" and s.health != "exit code 0")
        ]
        logs = [f"--- {service.name}\n{self._last_lines(service.name)}" for service in bad]
        raise StartFailed(
            expected,
            "\n".join([*told[-6:], *logs]) + "\n",
            f"./paddock logs {' '.join(s.name for s in bad) or 'SERVICE'} tells more",
        )

    # What the stack tells

    def _last_lines(self, service: str) -> str:
        return self._run(["logs", "--no-color", "--no-log-prefix", "--tail", "12", service]).stdout.strip()

    def _require_port(self) -> None:
        port = self._settings.port
        if port and not processes.port_is_free(port):
            raise self._port_taken()

    def _port_taken(self, told: str = "") -> PortTaken:
        """Which port, where the engine told: MLflow's or one of the TLS proxy's."""
        match = _BINDING.search(told)
        address, port = (match[1], match[2]) if match else (exposure.LOOPBACK, str(self._settings.port))
        names = "MLFLOW_PORT" if port == str(self._settings.port) else "HTTPS_PORT or HTTP_PORT"
        return PortTaken(
            f"port {port} of {address} to be free",
            "that another process listens on it",
            f"end that process, or choose another port: {names} in .env or before ./paddock up",
        )

    def _file_of(self, service: str, path: str) -> str:
        answer = self._run(["exec", "--no-TTY", service, "cat", path])
        if answer.returncode or not answer.stdout.strip():
            raise NotRunning(
                "a running stack",
                f"that {service} does not answer ({answer.stderr.strip()[-200:] or 'no output'})",
                "start it: ./paddock up",
            )
        return answer.stdout.strip()

    def _project(self) -> str:
        answer = self._run(["config", "--format", "json"])
        try:
            return str(json.loads(answer.stdout)["name"])
        except (ValueError, KeyError):
            raise BadSettings(
                "settings that Compose accepts",
                answer.stderr.strip()[-500:],
                "mend .env; .env.example explains each",
            ) from None

    def _engine_folder(self) -> Path:
        """Where the engine keeps images; where that is another machine's or another root's, this checkout's disk."""
        answer = self._engine("info", "--format", "{{.DockerRootDir}}")
        folder = Path(answer.stdout.strip() or "/")
        try:
            return folder if folder.exists() else self._where.root
        except PermissionError:
            return folder.parent

    def _memory(self, containers: list[str]) -> dict[str, int]:
        if not containers:
            return {}
        usage = "{{.Name}}\\t{{.MemUsage}}"
        answer = self._engine("stats", "--no-stream", "--format", usage, *containers)
        return {
            name: _bytes(used.partition("/")[0])
            for name, _, used in (line.partition("\t") for line in answer.stdout.splitlines())
        }

    def _owner(self, workspace: Path) -> tuple[int, int]:
        """Whom the agent's files belong to: the caller, or for root the owner of the workspace."""
        uid, gid = os.getuid(), os.getgid()
        if uid == 0:
            status = workspace.stat()
            uid, gid = status.st_uid, status.st_gid
            if uid == 0:
                console.warn(f"{workspace} belongs to root, so the agent runs as root inside its container")
        return uid, gid


class _ContainerProcess(AgentProcess):
    """An agent in a container: signals go to the container, since `docker compose run` does not pass them all on."""

    def __init__(
        self, process: "subprocess.Popen[str]", request: Request | None, docker: str, name: str
    ) -> None:
        super().__init__(process, request)
        self._docker = docker
        self._name = name

    def send(self, number: "int") -> None:  # type: ignore[override]
        # From a thread: a signal's handler must return, and the engine may take its time.
        threading.Thread(target=self._send, args=(int(number),), daemon=True).start()

    def _send(self, number: int) -> None:
        for _ in range(40):
            answer = subprocess.run(
                [self._docker, "kill", "--signal", str(number), self._name], capture_output=True, check=False
            )
            # Before the container is there the signal would be lost.
            if answer.returncode == 0 or self._process.poll() is not None:
                return
            time.sleep(0.25)


class _PickedUpContainer(_ContainerProcess):
    """An agent that another call has started: its lines are the engine's log of them."""

    def wait(self) -> int:
        super().wait()
        answer = subprocess.run(
            [self._docker, "wait", self._name], capture_output=True, text=True, check=False
        )
        return int(answer.stdout.strip() or 1)


class BuildSteps:
    """Reads BuildKit's plain output: which commands really run, those of the cache left out."""

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}
        self._told: set[str] = set()

    def read(self, line: str) -> str:
        """The command that this line shows to be running, once; empty for every other line."""
        if match := _BUILD_STEP.match(line):
            # BuildKit says it again whenever another step's output came in between.
            if match["what"].startswith("RUN") and match["id"] not in self._told:
                what = _PRELUDE.sub("", _MOUNT.sub("", match["what"]))[:70].rstrip()
                self._begun[match["id"]] = f"{match['stage']} {match['step']} {what}"
            return ""
        # What follows a step's first line is its output, its end, or CACHED.
        identity, _, rest = line.partition(" ")
        text = self._begun.pop(identity, "")
        if not text or rest.startswith("CACHED"):
            return ""
        self._told.add(identity)
        return text


def _umask() -> str:
    """The caller's umask in octal, as `022`; the only way to read it is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return f"{mask:03o}"


def _json_lines(text: str) -> list[dict[str, str]]:
    """`docker compose ps --format json`: one object a line, or one array in releases before 2.21."""
    stripped = text.strip()
    if stripped.startswith("["):
        return list(json.loads(stripped))
    return [json.loads(line) for line in stripped.splitlines() if line.startswith("{")]


def _bytes(text: str) -> int:
    """`123.4MiB` in bytes."""
    match = re.fullmatch(r"([\d.]+)([kKMGT]?i?)B", text.strip())
    if not match:
        return 0
    factor = {
        "": 1,
        "K": 1000,
        "k": 1000,
        "M": 1000**2,
        "G": 1000**3,
        "Ki": 1024,
        "Mi": 1024**2,
        "Gi": 1024**3,
        "Ti": 1024**4,
    }
    return int(float(match[1]) * factor.get(match[2], 1))
