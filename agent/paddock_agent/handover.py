"""What reaches the runner by standard input alone: keys and secrets.

A container's environment and arguments can be read by who may use the engine, its environment also by everything
inside; a file outlives the run. Standard input is read once, before anything else runs.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from .errors import UsageError
from .masking import SHORTEST

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_BYTES = 4 * 1024 * 1024


class Handover(BaseModel):
    """A JSON object of these fields; all may be missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    llm_api_key: SecretStr | None = Field(default=None, description="The run's key for the gateway.")
    secrets: dict[str, SecretStr] = Field(
        default_factory=dict, description="Exported to the command that names one, and masked everywhere."
    )
    mcp: dict[str, Any] | None = Field(default=None, description='{"mcpServers": {name: {…}}}.')
    task: str | None = Field(
        default=None,
        description="Of a resumed run: what it was begun with, which the agent can't have changed.",
    )

    @field_validator("secrets")
    @classmethod
    def _can_be_used(cls, secrets: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in secrets.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"expected a variable's name, found {name!r}")
            if len(value.get_secret_value()) < SHORTEST:
                raise ValueError(
                    f"expected at least {SHORTEST} characters in {name}, found fewer, which stand in ordinary words"
                )
        return secrets

    @property
    def secret_values(self) -> list[str]:
        """The values of the declared secrets."""
        return [secret.get_secret_value() for secret in self.secrets.values()]


def read() -> Handover:
    """Reads standard input to its end and closes it.

    Raises:
        UsageError: it holds no such object. The text quotes nothing of it.
    """
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    # Nobody after this finds something to read there, or the pipe itself.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    form = 'expected {"llm_api_key": …, "secrets": {…}, "mcp": {…}} on standard input'
    if len(data) > MAX_BYTES:
        raise UsageError(f"{form} of at most {MAX_BYTES} bytes, found more; shorten it")
    try:
        return Handover.model_validate(json.loads(data))
    except ValidationError as error:
        # Not pydantic's own text, which quotes the input.
        told = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        )
        raise UsageError(f"{form}, found something else at {told}; correct it") from None
    except ValueError:
        raise UsageError(f"{form}, found no JSON; correct it, or leave out --handover") from None
