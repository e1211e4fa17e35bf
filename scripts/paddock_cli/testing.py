"""`./paddock test`: every test that this machine can run, in the environments that the parts themselves use.

Several sessions of pytest, because the agent runner, MLflow and the clients of its gateway can't share an environment,
and because the Compose stack's can then run beside the others, which need none. What is missing on the machine is looked
at first and named; tests that need it are skipped with that reason, or fail where it is required.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from paddock_cli import console, exposure, preflight
from paddock_cli.environments import Environments
from paddock_cli.errors import CliError, UsageFailed
from paddock_cli.exit_codes import ExitCode
from paddock_cli.settings import (
    GATEWAY_CONFIG,
    JUDGES_CODE,
    JUDGES_CONFIG,
    PROVIDER_CHOICES,
    PROVIDER_KEYS,
    Paths,
)

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
REQUIRE_ENV = "PADDOCK_TEST_REQUIRE"
MISSING_ENV = "PADDOCK_TEST_MISSING"
SERVERS_ENV = "PADDOCK_TEST_STACK_PYTHON"
_NO_TESTS = 5
"""pytest's exit code where it collected nothing."""


@dataclass(frozen=True)
class Session:
    """One call of pytest."""

    name: str
    lock: str
    python_path: tuple[str, ...]
    tests: tuple[str, ...]
    environment: str = ""
    """The name of its environment where another session has the same; else its own name."""
    servers: str = ""
    """The lock of the environment that its tests start servers from, in PADDOCK_TEST_STACK_PYTHON."""
    beside: bool = False
    """Whether `--parallel` runs it beside all others, which run one after another."""


SESSIONS = (
    Session("agent", "agent/requirements-test.txt", ("agent", "services/demo-model"), ("tests/unit/agent",)),
    Session(
        "servers",
        "tests/requirements.txt",
        ("scripts", "mlflow", "services/demo-model", "services/egress"),
        (
            "tests/lint",
            "tests/unit/cli",
            "tests/unit/demo_model",
            "tests/unit/egress",
            "tests/unit/mlflow",
            "tests/embedded",
        ),
        environment="stack",
    ),
    Session(
        "stack",
        "tests/requirements.txt",
        ("scripts", "mlflow", "services/demo-model", "services/egress"),
        ("tests/stack", "tests/escape"),
        beside=True,
    ),
    Session(
        "clients",
        "tests/requirements-clients.txt",
        (),
        ("tests/clients",),
        servers="tests/requirements.txt",
    ),
)


@dataclass
class Outcome:
    """What a session of pytest counted."""

    name: str
    exit_code: int = 0
    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason → number of tests."""


@dataclass(frozen=True)
class Summary:
    """All sessions and what the machine lacks."""

    outcomes: list[Outcome]
    missing: dict[str, str]
    required: set[str]

    @property
    def passed(self) -> int:
        """Tests that passed."""
        return sum(outcome.passed for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        """Tests that failed or broke."""
        return sum(outcome.failed for outcome in self.outcomes)

    @property
    def skipped(self) -> Counter[str]:
        """Reason → number of tests that were not run."""
        return sum((outcome.skipped for outcome in self.outcomes), Counter())

    @property
    def exit_code(self) -> ExitCode:
        """TESTS_FAILED for red tests, for what was required and is missing, and where nothing ran at all."""
        broken = any(outcome.exit_code not in (0, _NO_TESTS) for outcome in self.outcomes)
        lacking = self.required & self.missing.keys()
        if broken or self.failed or lacking or not (self.passed or self.skipped):
            return ExitCode.TESTS_FAILED
        return ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The document of --json."""
        return {
            "passed": self.passed,
            "failed": self.failed,
            "skipped": sum(self.skipped.values()),
            "skipped_because": dict(self.skipped),
            "missing": self.missing,
            "required": sorted(self.required),
            "sessions": [
                {
                    "name": one.name,
                    "exit_code": one.exit_code,
                    "passed": one.passed,
                    "failed": one.failed,
                    "skipped": sum(one.skipped.values()),
                }
                for one in self.outcomes
            ],
            "exit_code": int(self.exit_code),
        }


def run(
    where: Paths,
    required: set[str],
    keyword: str,
    selected: list[str],
    *,
    as_json: bool,
    parallel: bool = False,
) -> Summary:
    """Run all sessions.

    Args:
        required: of `docker`, `browser`: missing is then a failure.
        keyword: pytest's -k.
        selected: files, folders or node ids under tests/; all where empty.
        as_json: keep standard output free; pytest writes to standard error.
        parallel: run the Compose stack's session beside the others; what it says is shown at its end.

    Raises:
        UsageFailed: an unknown requirement or test.
        EnvironmentFailed: a session's packages can't be installed.
    """
    unknown = required - {"docker", "browser"}
    if unknown:
        raise UsageFailed("--require docker or browser", ", ".join(sorted(unknown)), "mend --require")
    missing = _missing()
    for part, reason in missing.items():
        console.warn(f"not on this machine: {part} ({reason}){' - required' if part in required else ''}")
    environments = Environments(where.cache)
    calls = []
    for session in SESSIONS:
        if tests := _tests(where, session, selected):
            command, variables = _call(where, environments, session, tests, keyword, required, missing)
            calls.append(_Call(session, tests, command, variables))
    apart = [call for call in calls if parallel and call.session.beside and len(calls) > 1]
    with ThreadPoolExecutor(max_workers=max(1, len(apart))) as pool:
        running = [pool.submit(call.run, where, as_json=as_json, held_back=True) for call in apart]
        outcomes = [call.run(where, as_json=as_json) for call in calls if call not in apart]
        outcomes += [one.result() for one in running]
    summary = Summary(outcomes, missing, required)
    _tell(summary)
    return summary


def _missing() -> dict[str, str]:
    missing = {}
    try:
        preflight.require_engine()
    except CliError as error:
        missing["docker"] = error.found
    if not any(shutil.which(name) for name in CHROMIUM):
        missing["browser"] = "no chromium on PATH; on Debian: apt-get install chromium"
    return missing


def _tests(where: Paths, session: Session, selected: list[str]) -> list[str]:
    """What of the selection belongs to this session, relative to the root."""
    if not selected:
        return [name for name in session.tests if (where.root / name).exists()]
    found = []
    for one in selected:
        file, separator, node = one.partition("::")
        candidates = ((folder / file).resolve() for folder in (Path.cwd(), where.root))
        inside_tests = (path for path in candidates if path.is_relative_to(where.root / "tests"))
        path = next((path for path in inside_tests if path.exists()), None)
        if path is None:
            raise UsageFailed("a file or folder under tests/", one, "name one, like tests/unit/cli")
        relative = path.relative_to(where.root).as_posix()
        inside = any(relative == name or relative.startswith(name + "/") for name in session.tests)
        if inside:
            found.append(relative + separator + node)
        else:
            found += [
                name
                for name in session.tests
                if name.startswith(relative + "/") and (where.root / name).exists()
            ]
    return found


@dataclass(frozen=True)
class _Call:
    """One call of pytest, ready to be made."""

    session: Session
    tests: list[str]
    command: list[str]
    variables: dict[str, str]

    def run(self, where: Paths, *, as_json: bool, held_back: bool = False) -> Outcome:
        """Make it. What it says is shown while it runs, or where it is `held_back`, in one piece at its end."""
        title = f"--- {self.session.name}: {' '.join(self.tests)}"
        console.say(f"{title}  (beside the others: its output comes at its end)" if held_back else title)
        shown = sys.stderr if as_json else sys.stdout
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            said = Path(folder) / "output.txt"
            shown.flush()
            with said.open("w") if held_back else contextlib.nullcontext(shown) as output:
                code = subprocess.run(
                    [*self.command, f"--junitxml={report}"],
                    cwd=where.root,
                    env=self.variables,
                    stdout=output,
                    stderr=subprocess.STDOUT if held_back else None,
                    check=False,
                ).returncode
            if held_back:
                shown.write(f"{title}\n{said.read_text(errors='replace')}")
                shown.flush()
            return _outcome(self.session.name, code, report)


def _call(
    where: Paths,
    environments: Environments,
    session: Session,
    tests: list[str],
    keyword: str,
    required: set[str],
    missing: dict[str, str],
) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a session's pytest."""
    python = environments.python(f"test-{session.environment or session.name}", where.root / session.lock)
    variables = {
        name: value
        for name, value in os.environ.items()
        # A test must not reach a real provider, nor the stack that the user runs.
        if name
        not in (
            *PROVIDER_KEYS,
            *PROVIDER_CHOICES,
            GATEWAY_CONFIG,
            JUDGES_CONFIG,
            JUDGES_CODE,
            "PADDOCK_STATE_DIR",
            "MLFLOW_PORT",
            "PADDOCK_ENV_FILE",
            *exposure.NAMES,
        )
        and not name.startswith(("MLFLOW_", "OTEL_", "LMNR_", "PADDOCK_AGENT_"))
    }
    variables |= {
        "PYTHONPATH": os.pathsep.join(str(where.root / part) for part in session.python_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        REQUIRE_ENV: ",".join(sorted(required)),
        MISSING_ENV: "\n".join(f"{part}={reason}" for part, reason in sorted(missing.items())),
    }
    if session.servers:
        variables[SERVERS_ENV] = str(environments.python("test-stack", where.root / session.servers))
    command = [str(python), "-m", "pytest", *tests, "-p", "no:cacheprovider"]
    return command + (["-k", keyword] if keyword else []), variables


def _outcome(name: str, code: int, report: Path) -> Outcome:
    outcome = Outcome(name, code)
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return outcome
    for case in cases:
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif skip is not None:
            outcome.skipped[skip.get("message", "no reason")] += 1
        else:
            outcome.passed += 1
    return outcome


def _tell(summary: Summary) -> None:
    skipped = summary.skipped
    for reason, count in skipped.most_common():
        console.warn(f"not run: {count} test(s): {reason}")
    for part in sorted(summary.required & summary.missing.keys()):
        console.say(f"required and missing: {part}: {summary.missing[part]}", style="red")
    for outcome in summary.outcomes:
        if outcome.exit_code not in (0, 1, _NO_TESTS):
            console.say(
                f"session {outcome.name}: pytest ended with exit code {outcome.exit_code}", style="red"
            )
    style = "green" if summary.exit_code == ExitCode.OK else "red"
    console.say(
        f"paddock test: {summary.passed} passed, {summary.failed} failed, {sum(skipped.values())} not run",
        style=style,
    )
