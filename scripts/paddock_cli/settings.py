"""What the user has set: `.env` beside docker-compose.yml, and the calling shell, which wins, as in Compose.

Nothing else in this package reads the environment for settings. Provider keys are kept apart from the rest: they go
into files that only their owner reads, never into an argument or a container's environment.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

from paddock_cli import exposure
from paddock_cli.errors import BadSettings

PROVIDER_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "LLM_API_KEY")
PROVIDER_CHOICES = ("LLM_BASE_URL", "LLM_PRICE", "CODER_MODEL", "JUDGE_MODEL")
GATEWAY_CONFIG = "GATEWAY_CONFIG"
JUDGES_CONFIG = "JUDGES_CONFIG"
JUDGES_CODE = "JUDGES_CODE"
EGRESS_CONFIG = "EGRESS_CONFIG"
DEFAULT_PORT = 5000
DEFAULT_BASE_IMAGE = "debian:trixie-slim"
MAXIMUM_CPUS = 1024
_REMEMBERED = "provider.env"
_GATEWAY_PATH = "/gateway/mlflow/v1"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OWN_KEYS = ("pdk_", "pdk-")
"""What keys of the gateway begin with: those that are made, and the stack's own."""
_COMMENT = re.compile("#.*")
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9_]{2,99}\b")
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")


@dataclass(frozen=True)
class Paths:
    """Where things are. `state` is readable by the user alone."""

    root: Path
    state: Path
    cache: Path

    @property
    def runs(self) -> Path:
        """One folder a run: its conversation, for a resume, and what the command line noted of it."""
        return self.state / "runs"

    @property
    def logs(self) -> Path:
        """Logs of builds and of the command line's own failures."""
        return self.state / "logs"

    @property
    def env_file(self) -> Path:
        """The user's settings file."""
        return Path(os.environ.get("PADDOCK_ENV_FILE") or self.root / ".env")

    def make(self) -> None:
        """Make the state folder, closed to other users."""
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o700)
        self.runs.mkdir(exist_ok=True)
        self.logs.mkdir(exist_ok=True)


def paths() -> Paths:
    """The folders of this checkout; PADDOCK_STATE_DIR and XDG_CACHE_HOME move two of them."""
    root = Path(__file__).resolve().parents[2]
    state = Path(os.environ.get("PADDOCK_STATE_DIR") or root / ".paddock").absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddock"
    return Paths(root=root, state=state, cache=cache)


@dataclass(frozen=True)
class Settings:
    """Checked settings. `mtu` is in bytes; 0 as `port` means any free one."""

    port: int = DEFAULT_PORT
    mtu: int | None = None
    ca_bundle: Path | None = None
    base_image: str = DEFAULT_BASE_IMAGE
    python_index: str = ""
    go_proxy: str = ""
    exposed: exposure.Exposure = field(default_factory=exposure.Exposure)
    agent_runtime: str = ""
    """The engine's container runtime for agents; empty is the engine's default."""
    gateway_config: Path = Path("mlflow/gateway.yaml")
    """The gateway's declared configuration, as an absolute path."""
    judges_config: Path = Path("mlflow/judges.yaml")
    """The declared judges, as an absolute path."""
    judges_code: Path = Path("mlflow/scorers")
    """The folder of code scorers, as an absolute path."""
    egress_config: Path = Path("services/egress/egress.yaml")
    """What agents may reach through the egress proxy, as an absolute path."""
    provider: dict[str, str] = field(default_factory=dict)
    """Those of PROVIDER_CHOICES that are set."""
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    """Provider keys by variable name, and what else the declared configuration names that is set."""
    remembered: dict[str, str] = field(default_factory=dict, repr=False)
    """Those of both that came from the shell, now or at an earlier start, and don't stand in `.env`."""


def load(where: Paths, environ: dict[str, str] | None = None, beside: Path | None = None) -> Settings:
    """Read and check the settings.

    Args:
        beside: a configuration that is looked at without being GATEWAY_CONFIG: the secrets that it names count too.

    Raises:
        BadSettings: a value can't be used; the text names the variable.
    """
    shell = _without_a_clients_settings(dict(os.environ if environ is None else environ))
    written = read_env_file(where.env_file)
    values = written | {name: value for name, value in shell.items() if value}
    earlier = read_env_file(where.state / _REMEMBERED)
    # A path is the checkout's, as for Compose, wherever the call comes from.
    gateway_config = where.root / (values.get(GATEWAY_CONFIG) or "mlflow/gateway.yaml")
    egress_config = where.root / (values.get(EGRESS_CONFIG) or "services/egress/egress.yaml")
    judges_config = where.root / (values.get(JUDGES_CONFIG) or "mlflow/judges.yaml")
    judges_code = where.root / (values.get(JUDGES_CODE) or "mlflow/scorers")
    named = [
        name
        for path in (gateway_config, beside, egress_config)
        for name in (_secrets_named_in(path) if path else ())
    ]
    keys = tuple(dict.fromkeys([*PROVIDER_KEYS, *named]))
    remembered = {
        name: value
        for name in (*keys, *PROVIDER_CHOICES)
        # Set but empty forgets what an earlier shell told.
        if (value := shell[name] if name in shell else ("" if name in written else earlier.get(name)))
    }
    values = remembered | values
    settings = Settings(
        port=_number(values, "MLFLOW_PORT", DEFAULT_PORT, 0, 65535),
        mtu=_number(values, "NETWORK_MTU", 0, 576, 65535) or None,
        ca_bundle=_ca_bundle(values),
        base_image=values.get("BASE_IMAGE") or DEFAULT_BASE_IMAGE,
        python_index=values.get("UV_DEFAULT_INDEX") or values.get("PIP_INDEX_URL", ""),
        go_proxy=values.get("GOPROXY", ""),
        exposed=exposure.of(values),
        agent_runtime=values.get("AGENT_RUNTIME", "").strip(),
        provider={name: values[name] for name in PROVIDER_CHOICES if values.get(name)},
        gateway_config=gateway_config,
        judges_config=judges_config,
        judges_code=judges_code,
        egress_config=egress_config,
        keys={name: values[name] for name in keys if values.get(name)},
        remembered=remembered,
    )
    if values.get(GATEWAY_CONFIG) and not os.access(gateway_config, os.R_OK):
        raise BadSettings(
            "GATEWAY_CONFIG to name a readable file",
            str(gateway_config),
            "mend GATEWAY_CONFIG in .env, or unset it for the shipped mlflow/gateway.yaml",
        )
    if values.get(JUDGES_CONFIG) and not os.access(judges_config, os.R_OK):
        raise BadSettings(
            "JUDGES_CONFIG to name a readable file",
            str(judges_config),
            "mend JUDGES_CONFIG in .env, or unset it for the shipped mlflow/judges.yaml",
        )
    # The engine would make the folder that it lacks, as root's.
    if values.get(JUDGES_CODE) and not judges_code.is_dir():
        raise BadSettings(
            "JUDGES_CODE to name a folder",
            str(judges_code),
            "mend JUDGES_CODE in .env, or unset it for the shipped mlflow/scorers",
        )
    # Compose multiplies them, and tells what it could not read in words of its own.
    _number(values, "AGENT_CPUS", 2, 0, MAXIMUM_CPUS)
    _number(values, "SERVICE_CPUS", 2, 1, MAXIMUM_CPUS)
    if values.get(EGRESS_CONFIG) and not os.access(egress_config, os.R_OK):
        raise BadSettings(
            "EGRESS_CONFIG to name a readable file",
            str(egress_config),
            "mend EGRESS_CONFIG in .env, or unset it for the shipped services/egress/egress.yaml",
        )
    _check_provider(settings, shipped=not values.get(GATEWAY_CONFIG))
    return settings


def _without_a_clients_settings(shell: dict[str, str]) -> dict[str, str]:
    """The shell without what makes it a client of a gateway of ours, as after `eval "$(./paddock env)"`: that is no
    provider for this stack to use."""
    url = urlparse(shell.get("LLM_BASE_URL", ""))
    own = (
        {"LLM_BASE_URL", "LLM_API_KEY"} if url.path == _GATEWAY_PATH and url.hostname in _LOOPBACK else set()
    )
    own |= {
        name for name in PROVIDER_KEYS if name != "LLM_API_KEY" and shell.get(name, "").startswith(_OWN_KEYS)
    }
    return {name: value for name, value in shell.items() if name not in own}


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a dotenv file that have a value; empty where there is no such file.

    Raises:
        BadSettings: it is there and can't be read.
    """
    # dotenv takes 30 ms to import: not for those who have no such file.
    if not path.exists():
        return {}
    from dotenv import dotenv_values

    try:
        return {name: value for name, value in dotenv_values(path).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(
            f"{path} to be a readable dotenv file",
            f"{error}",
            "mend the file, or compare it with .env.example",
        ) from None


def remember(where: Paths, settings: Settings) -> None:
    """Keep what the shell told of providers, for a later call from another shell; only the owner can read it."""
    path = where.state / _REMEMBERED
    if settings.remembered:
        write_private(path, "".join(f"{name}='{value}'\n" for name, value in settings.remembered.items()))
    else:
        path.unlink(missing_ok=True)


def forget(where: Paths) -> None:
    """Drop what `remember` kept."""
    (where.state / _REMEMBERED).unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def _secrets_named_in(path: Path) -> list[str]:
    """Names of variables in a declared configuration, comments left out; a file that can't be read names none here, and
    is refused where it is used."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = _VARIABLE.findall(_COMMENT.sub("", text))
    return [
        name for name in dict.fromkeys(found) if name not in PROVIDER_CHOICES and not name.startswith("DEMO_")
    ]


def _number(values: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = values.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadSettings(
            f"{name} to be a number from {low} to {high}", repr(text), f"mend {name} in .env or unset it"
        )
    return int(text)


def _ca_bundle(values: dict[str, str]) -> Path | None:
    if named := values.get("CA_BUNDLE"):
        path = Path(named).absolute()
        if not os.access(path, os.R_OK) or path.is_dir():
            raise BadSettings(
                "CA_BUNDLE to name a readable file", str(path), "mend CA_BUNDLE in .env or unset it"
            )
        return path
    for name in CA_VARIABLES:
        path = Path(values.get(name) or "/nonexistent")
        if path.is_file() and os.access(path, os.R_OK):
            return path.absolute()
    return None


def _check_provider(settings: Settings, *, shipped: bool) -> None:
    for name, value in settings.keys.items():
        if any(character.isspace() or character in "'\"" for character in value):
            raise BadSettings(
                f"{name} to be one word", "blanks or quotes in it", f"copy the key of {name} anew"
            )
    base = settings.provider.get("LLM_BASE_URL", "")
    if base:
        url = urlparse(base)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise BadSettings(
                "LLM_BASE_URL to be an http or https address",
                repr(base),
                "write it like https://models.example.com/v1",
            )
        if "LLM_API_KEY" not in settings.keys:
            raise BadSettings(
                "LLM_BASE_URL and LLM_API_KEY together",
                "only LLM_BASE_URL",
                "set LLM_API_KEY in .env (any word where no key is asked)",
            )
        # A configuration of the user's own may name the server's models itself.
        if shipped and "CODER_MODEL" not in settings.provider:
            raise BadSettings(
                "CODER_MODEL to name a model of LLM_BASE_URL",
                "none",
                "set CODER_MODEL=custom/<model> in .env",
            )
    elif "LLM_API_KEY" in settings.keys:
        raise BadSettings(
            "LLM_BASE_URL and LLM_API_KEY together", "only LLM_API_KEY", "set LLM_BASE_URL in .env"
        )
