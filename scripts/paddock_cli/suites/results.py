"""What a suite run leaves: the seam between the runner, which writes it, and the report and the gate, which read it.

One JSON document, `results.json`, in the folder of the suite run and as an artifact of its MLflow run.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1


class _Record(BaseModel):
    # A newer Paddock may say more; what is missing is an error, and so is a figure that is no number.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class TokenCounts(_Record):
    """Tokens of an attempt. `cached_input` is part of `input`, `reasoning` of `output`."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0


class CheckResult(_Record):
    """One check on the finished workspace. `error` says why it could not be decided; then it has not passed."""

    name: str
    passed: bool
    seconds: float = 0
    output: str = ""
    """The end of what it printed."""
    error: str = ""


class JudgeResult(_Record):
    """A judge's newest verdict. `passed` is None where the judge's scale has no pass, or it gave no verdict."""

    value: str | None = None
    passed: bool | None = None
    rationale: str = ""
    error: str = ""


class Attempt(_Record):
    """One task, tried once by one endpoint.

    `state` is `done` where the agent ran and the checks were made, whatever they said, and `error` where something else
    stood in the way (a repository that could not be cloned, a set-up command that failed); such an attempt has not
    passed, and is told apart everywhere.
    """

    task: str
    endpoint: str
    repeat: int = Field(ge=1)
    state: Literal["done", "error"]
    passed: bool
    """The agent finished, and every check passed."""
    outcome: str = ""
    """The runner's own: finished, limit, budget, timeout, error …"""
    message: str = ""
    error: str = ""
    run_id: str | None = None
    trace_id: str | None = None
    trace_url: str = ""
    mlflow_run_id: str | None = None
    model: str = ""
    checks: tuple[CheckResult, ...] = ()
    judges: dict[str, JudgeResult] = {}
    cost_usd: float | None = None
    """None where the model's price is not known."""
    tokens: TokenCounts = TokenCounts()
    seconds: float = 0
    steps: int = 0
    tools: dict[str, int] = {}
    difficulty: int | None = None
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells attempts of one suite run apart."""
        return (self.task, self.endpoint, self.repeat)


class SuiteRun(_Record):
    """All attempts of a suite, with what they were made from."""

    format: Literal[1] = FORMAT
    id: str
    suite: str
    suite_sha256: str
    """Of the suite's file and everything it names: results of other contents compare by task alone."""
    label: str | None = None
    """A name to find it by, such as the branch it was made from."""
    created: str
    """ISO 8601, UTC."""
    stack: str
    endpoints: tuple[str, ...]
    repeat: int
    budget_usd: str | None = None
    complete: bool = True
    """False while attempts are missing: cut off, or beyond the budget."""
    missing_because: str = ""
    git: dict[str, Any] | None = None
    """`{"commit": …, "branch": …, "dirty": …}` of the folder the suite stands in, where that is a repository."""
    mlflow_run_id: str | None = None
    mlflow_url: str = ""
    attempts: tuple[Attempt, ...] = ()
