"""The settings of one run, typed and checked before anything heavy is imported.

Flags come first, then the environment: PADDOCK_AGENT_<NAME> for each flag, LLM_BASE_URL and LLM_API_KEY for the
gateway, and the three OTEL_ variables that OpenHands itself reads for the traces. No file is read, so nothing that an
agent writes into its workspace changes a later run.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import UsageError

TOOL_NAMES = ("terminal", "file_editor", "task_tracker", "glob", "grep", "browser")
DEFAULT_TOOLS = TOOL_NAMES[:3]
KEYLESS = "added-by-gate"
"""What stands for a key where a run has none of its own."""
_PROXY_PREFIX = "litellm_proxy/"


class RunSettings(BaseSettings):
    """What one run is to do and how far it may go."""

    model_config = SettingsConfigDict(
        env_prefix="PADDOCK_AGENT_", env_ignore_empty=True, extra="ignore", populate_by_name=True, frozen=True
    )

    task: str | None = Field(default=None, description="What the agent is to do; None only when resuming.")
    endpoint: str = Field(default="coder", min_length=1, description="Endpoint of the AI Gateway.")
    workspace: Path = Field(default=Path("/workspace"), description="The folder that the agent works on.")
    max_iterations: int = Field(
        default=100, ge=1, description="Steps, each one model call, until the run is stopped."
    )
    timeout: float = Field(
        default=3600, gt=0, le=30 * 86400, description="Wall-clock seconds until it is stopped."
    )
    tools: Annotated[tuple[str, ...], NoDecode] = DEFAULT_TOOLS
    mcp: Path | None = Field(default=None, description='JSON file: {"mcpServers": {name: {…}}}.')
    run_id: uuid.UUID = Field(
        default_factory=uuid.uuid4, description="Also the conversation's and the session's id."
    )
    resume: uuid.UUID | None = Field(default=None, description="Id of the run to go on with.")
    state_dir: Path = Field(
        default=Path("/state"), description="Where runs are kept, so that they can be resumed."
    )
    output: Literal["text", "jsonl"] = "text"
    landlock: Literal["auto", "require", "off"] = Field(
        default="auto",
        description="Hold back writes outside of the run's folders: where the kernel can, or else refuse to run.",
    )
    writable: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda: (Path.home(),),
        description="Folders that the agent's tools may write besides the workspace and the temporary folder; "
        "separated by colons.",
    )
    user: str | None = Field(default=None, description="Who asked for the run; stands on the trace.")
    tags: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict, description="Put on the trace.")

    llm_base_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("llm_base_url", "LLM_BASE_URL"),
        description="Of the gateway.",
    )
    # The gate adds the identity; the SDK refuses to send a request without any key.
    llm_api_key: SecretStr = Field(
        default=SecretStr(KEYLESS), validation_alias=AliasChoices("llm_api_key", "LLM_API_KEY")
    )
    llm_timeout: float = Field(
        default=300, gt=0, description="Seconds that one attempt of a model call may take."
    )
    llm_attempts: int = Field(
        default=5, ge=1, le=20, description="Attempts of one model call, the first included."
    )
    llm_retry_wait: int = Field(default=8, ge=0, description="Most seconds between two attempts.")
    egress: str | None = Field(
        default=None,
        validation_alias=AliasChoices("egress", "PADDOCK_EGRESS"),
        description="HOST:PORT of the egress proxy, in runs that have a way out.",
    )
    max_output_tokens: int | None = Field(
        default=None, ge=1, description="Of one model call; None leaves it open."
    )
    flush_timeout: float = Field(
        default=5, gt=0, description="Seconds given to the last spans when a run ends."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="CRITICAL", description="Of the SDK's own log on standard error; DEBUG shows stack traces."
    )

    otel_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "otel_endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
        ),
    )
    otel_headers: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "otel_headers", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"
        ),
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        **_: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    @field_validator("tools", mode="before")
    @classmethod
    def _split_tools(cls, value: object) -> object:
        if isinstance(value, str):
            value = [name for part in value.split(",") if (name := part.strip())]
        if isinstance(value, Iterable):
            value = tuple(dict.fromkeys(str(name) for name in value))
            unknown = [name for name in value if name not in TOOL_NAMES]
            if unknown:
                raise ValueError(f"expected tools out of {', '.join(TOOL_NAMES)}, found {', '.join(unknown)}")
        return value

    @field_validator("writable", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @field_validator("tags", mode="before")
    @classmethod
    def _split_tags(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        if isinstance(value, (list, tuple)):
            pairs = [str(item).partition("=") for item in value]
            if bad := [name for name, equals, _ in pairs if not (name.strip() and equals)]:
                raise ValueError(f"expected tags as name=value, found {bad[0]!r}")
            return {name.strip(): text for name, _, text in pairs}
        return value

    @field_validator("workspace", "state_dir", "mcp", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # Not resolve(): the folder keeps the name that its user gave it, links and all.
        return None if value is None else value.expanduser().absolute()

    @model_validator(mode="after")
    def _task_or_resume(self) -> RunSettings:
        if self.resume is None and not (self.task and self.task.strip()):
            raise ValueError(
                'expected a task, found none; say what to do: paddock-agent "Write a test for utils.py"'
            )
        return self

    @property
    def id(self) -> uuid.UUID:
        """The run's id, whether new or resumed."""
        return self.resume or self.run_id

    @property
    def model(self) -> str:
        """The endpoint as the SDK wants it: LiteLLM finds no provider in a bare alias, and `litellm_proxy/` sends an
        alias nothing but model, messages and tools, where `openai/` adds parameters that not every model takes."""
        return self.endpoint if self.endpoint.startswith(_PROXY_PREFIX) else _PROXY_PREFIX + self.endpoint

    @property
    def experiment_id(self) -> str | None:
        """The MLflow experiment that the traces go to, as the OTLP headers name it."""
        headers = self.otel_headers.get_secret_value() if self.otel_headers else ""
        for pair in headers.split(","):
            name, _, value = pair.partition("=")
            if name.strip().lower() == "x-mlflow-experiment-id":
                return value.strip() or None
        return None


def load_settings(**flags: Any) -> RunSettings:
    """Settings from the flags that are not None, then the environment.

    Raises:
        UsageError: one of them can't be used; the text names each with what was expected and found.
    """
    try:
        settings = RunSettings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise UsageError("; ".join(_say(item) for item in error.errors())) from None
    if not settings.llm_base_url:
        raise UsageError(
            "expected the gateway's address in LLM_BASE_URL (such as http://127.0.0.1:5000/gateway/mlflow/v1), "
            "found none; set it"
        )
    if not settings.llm_base_url.startswith(("http://", "https://")):
        raise UsageError(
            f"expected an http:// or https:// address in LLM_BASE_URL, found {settings.llm_base_url!r}"
        )
    return settings


def _say(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    place = ".".join(str(part) for part in item["loc"])
    if not place:
        return message
    if message.startswith("expected"):
        return f"{place}: {message}"
    return f"{place}: expected a usable value, found {item['input']!r}: {message[:1].lower()}{message[1:]}"


def check_workspace(workspace: Path) -> None:
    """
    Raises:
        UsageError: the workspace is no folder that the process can read.
    """
    remedy = "name a folder with --workspace"
    if not workspace.exists():
        raise UsageError(f"expected a folder at {workspace}, found nothing; {remedy}")
    if not workspace.is_dir():
        raise UsageError(f"expected a folder at {workspace}, found a file; {remedy}")
    if not os.access(workspace, os.R_OK | os.X_OK):
        raise UsageError(
            f"expected a folder that uid {os.getuid()} can read at {workspace}, found permission denied; "
            "run as its owner (AGENT_UID, AGENT_GID) or change its mode"
        )
