"""What a suite's file may say. The JSON Schema that editors use is made from these classes.

Paths are relative to the file and stay below its folder.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

KINDS_OF_WORKSPACE = ("folder", "archive", "git")
KINDS_OF_CHECK = ("run", "diff_only", "file")
CHECK_SECONDS = 60
"""How long a check's command may take where the file doesn't say."""

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
"""Of a suite or a task: small letters, digits and dashes."""
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
CheckName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9 _.,()+-]{0,62}[A-Za-z0-9.)+])?$")
]
"""Of a check; it is part of the name of an assessment: `check/<name>`."""
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Commit = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
"""A whole commit id: what a branch or a tag names can change, and results would mean something else."""
Address = Annotated[str, StringConstraints(pattern=r"^(https?|ssh|file)://[^\s]{1,1000}$")]
"""Of a git repository. Transports that run a program of their own (`ext::`) are none."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Tool = Literal["terminal", "file_editor", "task_tracker", "glob", "grep", "browser"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _exactly_one_of(names: tuple[str, ...]) -> dict[str, Any]:
    return {"oneOf": [{"required": [name]} for name in names]}


class Limits(_Part):
    """What one attempt may take. What is left out comes from the suite's defaults, then from the runner's own."""

    max_iterations: int | None = Field(None, ge=1, le=10_000, description="Steps of the agent.")
    timeout: int | None = Field(None, ge=1, le=86_400, description="Seconds of the agent's run.")
    budget_usd: Decimal | None = Field(
        None,
        gt=0,
        le=1_000_000,
        max_digits=18,
        decimal_places=10,
        description="What all model calls of an attempt may cost together, in USD.",
    )
    max_output_tokens: int | None = Field(None, ge=16, le=1_000_000, description="Of one model call.")

    def over(self, others: "Limits") -> "Limits":
        """These, and what they leave out from the others."""
        return others.model_copy(update=self.model_dump(exclude_none=True))


class Defaults(_Part):
    """What holds for every task that does not say otherwise."""

    limits: Limits = Limits()
    tools: tuple[Tool, ...] | None = Field(None, min_length=1, description="Of the agent.")


class Workspace(_Part):
    """Where the files come from that the agent works on; each attempt has a copy of its own."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra=_exactly_one_of(KINDS_OF_WORKSPACE)
    )

    folder: RelativePath | None = Field(None, description="A folder beside the suite's file.")
    archive: RelativePath | None = Field(None, description="A .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip.")
    git: Address | None = Field(None, description="A git repository, cloned without submodules and hooks.")
    commit: Commit | None = Field(None, description="With git: the whole commit id.")


class Check(_Part):
    """What must hold of the finished workspace. The agent sees neither the check nor its files."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_exactly_one_of(KINDS_OF_CHECK))

    name: CheckName
    run: Text | None = Field(
        None, description="A shell command in a copy of the finished workspace; passes with exit code 0."
    )
    files: RelativePath | None = Field(
        None, description="With run: a folder that is laid over the copy before the command."
    )
    timeout: int | None = Field(
        None, ge=1, le=3600, description=f"With run: seconds. Left out: {CHECK_SECONDS}."
    )
    diff_only: tuple[Glob, ...] | None = Field(
        None, min_length=1, description="Globs that hold all files which changed."
    )
    file: RelativePath | None = Field(
        None, description="A file of the finished workspace, for matches or absent."
    )
    matches: Text | None = Field(
        None, description="With file: a regular expression of Python that its text has somewhere."
    )
    absent: Literal[True] | None = Field(None, description="With file: there is none of that name.")


class Task(_Part):
    """One piece of work."""

    id: Identifier
    title: str = Field("", max_length=200)
    prompt: Text = Field(description="What the agent is told.")
    workspace: Workspace
    setup: Text | None = Field(
        None,
        description="A shell command in the workspace before the agent starts, in a container like the agent's.",
    )
    checks: tuple[Check, ...] = Field(
        (), description="All must pass. A task without any passes where the agent finishes."
    )
    expect: tuple[Text, ...] = Field((), description="Facts that the answer must have, for Correctness.")
    limits: Limits = Limits()
    tools: tuple[Tool, ...] | None = Field(None, min_length=1)
    mcp: RelativePath | None = Field(None, description="A JSON file of MCP servers.")
    tags: tuple[Tag, ...] = ()
    difficulty: int | None = Field(None, ge=1, le=5)
    solution: RelativePath | None = Field(
        None, description="A patch that solves the task, for tests of the suite itself; no attempt sees it."
    )


class SuiteFile(_Part):
    """A suite: tasks, each tried on several models and several times."""

    version: Literal[1]
    name: Identifier
    description: str = Field("", max_length=10_000)
    defaults: Defaults = Defaults()
    tasks: tuple[Task, ...] = Field(min_length=1)
