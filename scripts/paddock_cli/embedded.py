"""The stack as plain processes on loopback: for a first look and for tests, where no Docker engine answers.

MLflow on SQLite with the same plugin, the demo model and the agent runner, each from its own lock. There is no fence:
the agent is a process of the calling user and reaches whatever that user reaches.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from paddock_cli import console, processes
from paddock_cli import settings as settings_module
from paddock_cli.environments import Environments
from paddock_cli.errors import BadSettings, NotRunning, PortTaken, StartFailed
from paddock_cli.preflight import require_space
from paddock_cli.settings import PROVIDER_KEYS, Paths, Settings, read_env_file, write_private
from paddock_cli.stack import (
    APART_GRACE_SECONDS,
    MAX_LINE,
    AgentProcess,
    Client,
    Connection,
    Ended,
    Request,
    ServiceStatus,
)

ADMIN = "admin"
SERVICES = ("demo-model", "mlflow", "mlflow-jobs")
GENERATED = (
    "admin_password",
    "agent_key",
    "internal_token",
    "kek_passphrase",
    "flask_secret_key",
    "demo_api_key",
)
HEALTH_TIMEOUT_SECONDS = 120
AGENT_GRACE_SECONDS = 45
NEEDED_BYTES = 3 * 1024**3
NO_FENCE = (
    "Running EMBEDDED, without Docker: the agent is a plain process of yours and is NOT fenced in. It can read your"
    " files and reach your network. For a first look and for tests; use Docker for real work."
)
_PID = "agent.pid"
_TERMINALS = "agent.tmux"
_OUT = "agent.out"
_ERR = "agent.err"
_TAIL_SECONDS = 0.1
MAX_TOLD = 64 * 1024
"""Bytes of a kept agent's standard error that are read."""
# What a process needs of the caller's environment; everything else, keys above all, stays behind.
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TERM", "SHELL")
_PASSED_FOR_TLS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PASSED_FOR_PROXY = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


class EmbeddedStack:
    """The embedded way; see the module's text."""

    kind = "embedded"

    def __init__(self, where: Paths, settings: Settings) -> None:
        self._where = where
        self._settings = settings
        self._folder = where.state / "embedded"
        self._secrets = self._folder / "secrets"
        self._daemons = processes.Daemons(self._folder)
        self._environments = Environments(where.cache)

    def up(self, *, build: bool = True) -> None:
        """Start what does not run yet and wait until it serves."""
        self._refuse_runtime()
        console.warn(NO_FENCE)
        if self._is_current():
            console.say("the embedded stack already runs")
            return
        require_space(self._where.cache, NEEDED_BYTES)
        self._stop_services()
        port = self._choose_port()
        mlflow = self._environments.python("mlflow", self._where.root / "mlflow" / "requirements.txt")
        model = self._environments.python(
            "demo-model", self._where.root / "services" / "demo-model" / "requirements.txt"
        )
        self._agent_python()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._write_secrets()
        demo_port = processes.free_port()
        state = {"port": port, "demo_port": demo_port, "fingerprint": self._fingerprint()}
        write_private(self._folder / "state.json", json.dumps(state | {"ready": False}))
        variables = self._mlflow_variables(port, demo_port)
        with console.step("starting MLflow and the demo model") as step:
            self._daemons.start(
                "demo-model", [str(model), "-m", "paddock_demo_model"], self._model_variables(demo_port)
            )
            step.show("database")
            self._one_shot("migrate", mlflow, variables)
            self._daemons.start("mlflow", [str(mlflow), "-m", "paddock_mlflow", "serve"], variables)
            self._daemons.start("mlflow-jobs", [str(mlflow), "-m", "paddock_mlflow", "jobs"], variables)
            step.show("server")
            self._wait_healthy("demo-model", f"http://127.0.0.1:{demo_port}/healthz")
            self._wait_healthy("mlflow", f"http://127.0.0.1:{port}/health")
            step.show("experiment, endpoints, judges")
            self._one_shot("setup", mlflow, variables)
            self._wait_jobs()
        write_private(self._folder / "state.json", json.dumps(state | {"ready": True}))

    def stop(self) -> None:
        """End agents, then the services."""
        self.end_agents()
        self._stop_services()

    def down(self, *, volumes: bool) -> None:
        """As `stop`; with `volumes`, traces, settings and secrets are removed too."""
        self.stop()
        (self._folder / "state.json").unlink(missing_ok=True)
        if volumes:
            shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> list[ServiceStatus]:
        """The three processes."""
        if not self._folder.exists():
            return []
        return [
            ServiceStatus(
                name=name,
                state="running" if (alive := self._daemons.alive(name)) else "exited",
                health=("healthy" if self._state().get("ready") else "starting") if alive else "",
                memory=self._daemons.memory(name),
            )
            for name in SERVICES
        ]

    def logs(self, services: list[str], *, follow: bool, tail: int) -> Iterator[str]:
        """Lines of the logs, each with its process's name."""
        positions: dict[str, int] = {}
        names = services or [*SERVICES, "setup", "migrate"]
        for name in names:
            path = self._daemons.log(name)
            if path.exists():
                text = path.read_text(errors="replace")
                positions[name] = len(text.encode())
                for line in text.splitlines()[-tail:] if tail else text.splitlines():
                    yield f"{name:<12} | {line}"
        while follow:
            time.sleep(0.5)
            for name in names:
                path = self._daemons.log(name)
                if not path.exists():
                    continue
                with open(path, "rb") as file:
                    # A restart begins the log anew.
                    file.seek(min(positions.get(name, 0), path.stat().st_size))
                    for raw in file:
                        yield f"{name:<12} | {raw.decode(errors='replace').rstrip()}"
                    positions[name] = file.tell()

    def url(self) -> str:
        """MLflow's address."""
        self._require_running()
        return self._url()

    def connection(self) -> Connection:
        """MLflow's address and its administrator."""
        self._require_running()
        return Connection(self._url(), ADMIN, self._secret("admin_password"))

    def client(self) -> Client:
        """MLflow's address and the agents' key."""
        self._require_running()
        experiment = (self._folder / "handover" / "experiment_id").read_text().strip()
        return Client(self._url(), self._secret("agent_key"), experiment)

    def demo_variables(self) -> dict[str, str]:
        """The demo model's address and key."""
        self._require_running()
        return {
            "DEMO_MODEL_URL": _demo_url(self._state().get("demo_port")),
            "DEMO_API_KEY": self._secret("demo_api_key"),
        }

    def rotate_passphrase(self) -> None:
        """Stop the servers, write a new passphrase, encrypt the secrets' keys with it, start again."""
        self._require_running()
        state = self._state()
        mlflow = self._environments.python("mlflow", self._where.root / "mlflow" / "requirements.txt")
        self._stop_services()
        try:
            with console.step("encrypting the gateway's secrets with a new passphrase") as step:
                known = 1
                while (self._secrets / f"kek_passphrase_{known + 1}").exists():
                    known += 1
                write_private(self._secrets / f"kek_passphrase_{known + 1}", secrets.token_urlsafe(32))
                variables = self._mlflow_variables(int(str(state["port"])), int(str(state["demo_port"])))
                self._one_shot("rotate-key", mlflow, variables)
                step.result = self._daemons.tail("rotate-key").strip().splitlines()[-1]
        finally:
            self.up()

    def _refuse_runtime(self) -> None:
        """Who asked for a wall between agent and machine must not get none."""
        if runtime := self._settings.agent_runtime:
            raise BadSettings(
                f"containers for AGENT_RUNTIME={runtime}",
                "the embedded stack, which has none",
                "use Docker, or unset AGENT_RUNTIME",
            )

    def start_agent(self, request: Request) -> AgentProcess:
        """Start the runner as a process of this user."""
        self._refuse_runtime()
        variables = _passed(_PASSED, _PASSED_FOR_TLS) | self.client().variables()
        del variables["MLFLOW_TRACKING_URI"]
        if request.llm_key:
            # Handed over by standard input.
            del variables["LLM_API_KEY"]
        # Loopback must not go by a proxy that the caller has set for everything.
        variables |= {"PYTHONPATH": str(self._where.root / "agent"), "NO_PROXY": "127.0.0.1,localhost"}
        # A short path: that of a socket has at most 107 bytes.
        terminals = Path(tempfile.mkdtemp(prefix="paddock-tmux-"))
        write_private(self._beside(request.run_id, _TERMINALS), str(terminals))
        variables["TMUX_TMPDIR"] = str(terminals)
        # Where the kernel has Landlock the agent writes into its workspace and temporary folders, and not into your home.
        variables["PADDOCK_AGENT_WRITABLE"] = str(terminals)
        if "browser" in request.tools.split(","):
            # browser-use writes its settings, profiles and downloads there, and starts no Chromium where it can't.
            variables["HOME"] = str(terminals / "home")
            (terminals / "home").mkdir()
        python = self._agent_python()
        arguments = request.arguments(str(request.workspace), str(request.state))
        with contextlib.ExitStack() as files:
            # Files outlive this process, where what the agent says must.
            streams = [
                files.enter_context(_new_file(self._beside(request.run_id, name)))
                if request.kept
                else subprocess.PIPE
                for name in (_OUT, _ERR)
            ]
            process = subprocess.Popen(
                # -P keeps the workspace, which is the current folder, off Python's path.
                [str(python), "-P", "-m", "paddock_agent", *arguments],
                env=variables,
                cwd=request.workspace,
                stdin=subprocess.PIPE,
                stdout=streams[0],
                stderr=streams[1],
                text=True,
                errors="replace",
                # Ctrl-C reaches the command line alone, which passes it on once.
                start_new_session=True,
            )
        known = processes.note(self._beside(request.run_id, _PID), process.pid)
        if request.kept:
            return self._kept(request.run_id, known, terminals, process, request)
        return _PlainProcess(process, request, terminals)

    def picked_up(self, run_id: str) -> AgentProcess | None:
        """The process of a kept run, by its pid file, or what it said before it ended."""
        known = processes.noted(self._beside(run_id, _PID))
        if known is None or not self._beside(run_id, _OUT).exists():
            self.let_go(run_id)
            return None
        terminals = self._beside(run_id, _TERMINALS)
        return self._kept(run_id, known, Path(terminals.read_text()) if terminals.exists() else None)

    def let_go(self, run_id: str) -> None:
        """End the process of a run, and remove what it said."""
        known = processes.noted(self._beside(run_id, _PID))
        if known is not None:
            processes.end(known, 5)
        for name in (_OUT, _ERR):
            self._beside(run_id, name).unlink(missing_ok=True)

    def require_agent(self, *, browser: bool) -> None:
        """Make the agent's environment, where it is missing; a browser is this machine's own."""
        self._refuse_runtime()
        self._agent_python()

    def run_apart(self, command: str, folder: Path, seconds: float) -> Ended:
        """A plain process of this user, with a HOME of its own and none of the caller's variables."""
        self._refuse_runtime()
        with tempfile.TemporaryDirectory(prefix="paddock-check-") as home:
            variables = _passed(_PASSED) | {"HOME": home, "TMPDIR": home, "PYTHONDONTWRITEBYTECODE": "1"}
            words = ["bash", "-c", command]
            if shutil.which("timeout"):
                # It ends by itself, too, should nobody be there any more to end it.
                words = ["timeout", "--signal=KILL", f"{seconds + APART_GRACE_SECONDS:g}", *words]
            return processes.run_to_end(words, folder, variables, seconds)

    def _kept(
        self,
        run_id: str,
        known: processes.Known,
        terminals: Path | None,
        process: "subprocess.Popen[str] | None" = None,
        request: Request | None = None,
    ) -> AgentProcess:
        files = (self._beside(run_id, _OUT), self._beside(run_id, _ERR))
        return _KeptProcess(known, files, terminals, process, request)

    def egress(self) -> bool:
        """None: without containers nothing is closed that a proxy could open."""
        return False

    def end_agents(self) -> int:
        """SIGTERM to each; the runner closes its trace as ERROR before it ends."""
        running = [
            known
            for path in self._where.runs.glob(f"*.{_PID}")
            if (known := processes.noted(path)) is not None and known.process() is not None
        ]
        if running:
            with console.step(f"ending {len(running)} running agent(s)"):
                for known in running:
                    processes.end(known, AGENT_GRACE_SECONDS)
        for note in self._where.runs.glob(f"*.{_TERMINALS}"):
            _end_terminals(Path(note.read_text()))
            note.unlink(missing_ok=True)
        return len(running)

    def _beside(self, run_id: str, name: str) -> Path:
        """A note on a run, beside its state folder: an agent writes what is in there, whichever way it runs."""
        return self._where.runs / f"{run_id}.{name}"

    # Starting

    def _agent_python(self) -> Path:
        return self._environments.python("agent", self._where.root / "agent" / "requirements.txt")

    def _is_current(self) -> bool:
        state = self._state()
        return bool(
            state.get("ready")
            and state.get("fingerprint") == self._fingerprint()
            and all(self._daemons.alive(name) for name in SERVICES)
            and _answers(f"{self._url()}/health")
        )

    def _fingerprint(self) -> str:
        """Changes with anything that the running processes were started from."""
        parts = [
            json.dumps([self._settings.provider, self._settings.keys, self._settings.port], sort_keys=True),
            f"{self._settings.gateway_config}:{_content(self._settings.gateway_config)}",
            f"{self._settings.judges_config}:{_content(self._settings.judges_config)}",
            *(f"{path}:{_content(path)}" for path in sorted(self._settings.judges_code.rglob("*.py"))),
        ]
        for folder in ("mlflow", "services/demo-model"):
            for path in sorted((self._where.root / folder).rglob("*")):
                if path.suffix in (".py", ".txt", ".json", ".yaml"):
                    parts.append(f"{path}:{path.stat().st_mtime_ns}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _choose_port(self) -> int:
        port = self._settings.port
        if port == 0:
            kept = int(str(self._state().get("port", 0)))
            return kept if kept and processes.port_is_free(kept) else processes.free_port()
        if not processes.port_is_free(port):
            raise PortTaken(
                f"port {port} of 127.0.0.1 to be free",
                "that another process listens on it",
                "end that process, or choose another port: MLFLOW_PORT=5001 ./paddock ... (or in .env)",
            )
        return port

    def _write_secrets(self) -> None:
        """Random values at the first start, kept ever after; provider keys as they are set now."""
        self._secrets.mkdir(mode=0o700, exist_ok=True)
        for name in GENERATED:
            if not (self._secrets / name).exists():
                write_private(self._secrets / name, secrets.token_urlsafe(32))
        # Names of an earlier start, whose configuration may have named others.
        given = self._secrets / "given"
        earlier = read_env_file(given)
        write_private(given, "".join(f"{variable}=given\n" for variable in self._settings.keys))
        for variable in {*PROVIDER_KEYS, *earlier, *self._settings.keys}:
            path = self._secrets / variable.lower()
            if value := self._settings.keys.get(variable):
                write_private(path, value)
            else:
                path.unlink(missing_ok=True)

    def _mlflow_variables(self, port: int, demo_port: int) -> dict[str, str]:
        temporary = self._folder / "tmp"
        # What processes that were killed have left there.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        return _passed(_PASSED, _PASSED_FOR_TLS, _PASSED_FOR_PROXY) | {
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "TMPDIR": str(temporary),
            "PYTHONPATH": str(self._where.root / "mlflow"),
            "PYTHONUNBUFFERED": "1",
            "SECRETS_DIR": str(self._secrets),
            "DATABASE_URL": f"sqlite:///{self._folder}/mlflow.db",
            "AUTH_DATABASE_URL": f"sqlite:///{self._folder}/auth.db",
            "ARTIFACTS_DESTINATION": str(self._folder / "artifacts"),
            "LISTEN_HOST": "127.0.0.1",
            "LISTEN_PORT": str(port),
            "MLFLOW_URL": f"http://127.0.0.1:{port}",
            # No gate stands before agents here: what they reach, their keys reach.
            "RUN_KEYS_NEED_GATE": "false",
            "DEMO_MODEL_URL": _demo_url(demo_port),
            "GATEWAY_CONFIG": str(self._settings.gateway_config),
            "JUDGES_CONFIG": str(self._settings.judges_config),
            "JUDGES_CODE": str(self._settings.judges_code),
            "HANDOVER_DIR": str(self._folder / "handover"),
            "HEARTBEAT_FILE": str(self._folder / "jobs-heartbeat"),
            **self._settings.provider,
        }

    def _model_variables(self, port: int) -> dict[str, str]:
        variables = _passed(_PASSED) | {
            "PYTHONPATH": str(self._where.root / "services" / "demo-model"),
            "PYTHONUNBUFFERED": "1",
            "DEMO_LISTEN_HOST": "127.0.0.1",
            "DEMO_LISTEN_PORT": str(port),
            "DEMO_API_KEY_FILE": str(self._secrets / "demo_api_key"),
        }
        # Scripted answers for tests.
        return variables | _passed(("DEMO_SCENARIOS", "DEMO_RECORD"))

    def _one_shot(self, name: str, python: Path, variables: dict[str, str]) -> None:
        log = self._daemons.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as file:
            code = subprocess.run(
                [str(python), "-m", "paddock_mlflow", name],
                env=variables,
                cwd=self._folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        if code:
            self._stop_services()
            raise StartFailed(
                f"`paddock_mlflow {name}` to succeed",
                f"exit code {code}:\n{self._daemons.tail(name)}\n",
                f"the whole log: {log}",
            )

    def _wait_healthy(self, name: str, url: str) -> None:
        gone = False

        def settled() -> bool:
            nonlocal gone
            gone = not self._daemons.alive(name)
            return gone or _answers(url)

        in_time = processes.wait_until(settled, HEALTH_TIMEOUT_SECONDS, 0.2)
        if gone or not in_time:
            told = self._daemons.tail(name)
            self._stop_services()
            raise StartFailed(
                f"{name} to answer at {url}",
                f"{'that it ended' if gone else f'no answer in {HEALTH_TIMEOUT_SECONDS} s'}:\n{told}\n",
                f"the whole log: {self._daemons.log(name)}",
            )

    def _wait_jobs(self) -> None:
        heartbeat = self._folder / "jobs-heartbeat"
        if not processes.wait_until(lambda: heartbeat.exists() or not self._daemons.alive("mlflow-jobs"), 60):
            console.warn("the judges' process is slow to start; verdicts will be late")
        if not self._daemons.alive("mlflow-jobs"):
            told = self._daemons.tail("mlflow-jobs")
            self._stop_services()
            raise StartFailed(
                "the judges' process to run",
                f"that it ended:\n{told}\n",
                f"the whole log: {self._daemons.log('mlflow-jobs')}",
            )

    def _stop_services(self) -> None:
        running = [name for name in reversed(SERVICES) if self._daemons.alive(name)]
        if running:
            with console.step("stopping the embedded stack"):
                for name in running:
                    self._daemons.stop(name)
        (self._folder / "jobs-heartbeat").unlink(missing_ok=True)

    # Knowing

    def _state(self) -> dict[str, object]:
        try:
            return json.loads((self._folder / "state.json").read_text())
        except (OSError, ValueError):
            return {}

    def _url(self) -> str:
        return f"http://127.0.0.1:{self._state().get('port', settings_module.DEFAULT_PORT)}"

    def _secret(self, name: str) -> str:
        return (self._secrets / name).read_text()

    def _require_running(self) -> None:
        if not (self._state().get("ready") and self._daemons.alive("mlflow")):
            raise NotRunning("a running stack", "none", "start it: ./paddock up --embedded")


class _PlainProcess(AgentProcess):
    """An agent without a container, which would end what the agent has started."""

    def __init__(self, process: "subprocess.Popen[str]", request: Request, terminals: Path) -> None:
        super().__init__(process, request)
        self._terminals = terminals

    def wait(self) -> int:
        code = super().wait()
        _end_terminals(self._terminals)
        return code


class _KeptProcess(AgentProcess):
    """An agent that writes to files, started by this call or by another one."""

    def __init__(
        self,
        known: processes.Known,
        files: tuple[Path, Path],
        terminals: Path | None,
        process: "subprocess.Popen[str] | None",
        request: Request | None,
    ) -> None:
        # Not the pipes' beginnings: there are none but standard input's.
        self._known = known
        self._out, self._err = files
        self._terminals = terminals
        self._child = process
        if process is not None and request is not None:
            self._process = process
            threading.Thread(target=self._hand_over, args=[request.handover()], daemon=True).start()

    def lines(self) -> Iterator[str]:
        """What it said from its start on, until it has ended."""
        with self._out.open(errors="replace") as file:
            text = ""
            while True:
                # Asked before the file is read: what comes after its end has come already.
                running = self._running()
                while piece := file.readline(MAX_LINE):
                    text += piece
                    if text.endswith("\n") or len(text) >= MAX_LINE:
                        yield text
                        text = ""
                if not running:
                    break
                time.sleep(_TAIL_SECONDS)
            if text:
                yield text

    def wait(self) -> int:
        """The exit code; of a process that is no child of this one the system tells none, and it counts as 1."""
        while self._running():
            time.sleep(_TAIL_SECONDS)
        if self._terminals is not None:
            _end_terminals(self._terminals)
        return self._child.wait() if self._child is not None else 1

    def errors(self, lines: int = 20) -> str:
        """The last lines of standard error."""
        try:
            with self._err.open("rb") as file:
                file.seek(max(0, self._err.stat().st_size - MAX_TOLD))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def send(self, number: "int") -> None:  # type: ignore[override]
        process = self._known.process()
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._known.process() is not None


def _new_file(path: Path) -> "IO[bytes]":
    """A file of mode 0600 that is empty."""
    write_private(path, "")
    return path.open("wb")


def _end_terminals(folder: Path) -> None:
    """End the terminal servers of a run: they are daemons, and outlive an agent that was killed."""
    for socket in folder.glob("tmux-*/*"):
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["tmux", "-S", str(socket), "kill-server"], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _passed(*groups: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for group in groups for name in group if name in os.environ}


def _demo_url(port: object) -> str:
    return f"http://127.0.0.1:{port}/v1"


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


def _answers(url: str) -> bool:
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
