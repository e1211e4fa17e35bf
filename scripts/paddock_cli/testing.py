"""`./paddock test`: every test that this machine can run, in the environments that the parts themselves use.

Three sessions of pytest, because the agent runner, MLflow and the clients of its gateway can't share an environment.
What is missing on the machine is looked at first and named; tests that need it are skipped with that reason, or fail
where it is required.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from paddock_cli import console, exposure, preflight
from paddock_cli.environments import Environments
from paddock_cli.errors import CliError, UsageFailed
from paddock_cli.exit_codes import ExitCode
from paddock_cli.settings import GATEWAY_CONFIG, PROVIDER_CHOICES, PROVIDER_KEYS, Paths

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
    servers: str = ""
    """The lock of the environment that its tests start servers from, in PADDOCK_TEST_STACK_PYTHON."""


SESSIONS = (
    Session("agent", "agent/requirements-test.txt", ("agent", "services/demo-model"), ("tests/unit/agent",)),
    Session(
        "stack",
        "tests/requirements.txt",
        ("scripts", "mlflow", "services/demo-model", "services/egress"),
        (
            "tests/lint",
            "tests/unit/cli",
            "tests/unit/demo_model",
            "tests/unit/egress",
            "tests/unit/mlflow",
            "tests/embedded",
            "tests/stack",
            "tests/escape",
            "tests/browser",
        ),
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


def run(where: Paths, required: set[str], keyword: str, selected: list[str], *, as_json: bool) -> Summary:
    """Run all sessions.

    Args:
        required: of `docker`, `browser`: missing is then a failure.
        keyword: pytest's -k.
        selected: files, folders or node ids under tests/; all where empty.
        as_json: keep standard output free; pytest writes to standard error.

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
    outcomes = []
    for session in SESSIONS:
        tests = _tests(where, session, selected)
        if tests:
            outcomes.append(
                _run_session(where, environments, session, tests, keyword, required, missing, as_json)
            )
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


def _run_session(
    where: Paths,
    environments: Environments,
    session: Session,
    tests: list[str],
    keyword: str,
    required: set[str],
    missing: dict[str, str],
    as_json: bool,
) -> Outcome:
    python = environments.python(f"test-{session.name}", where.root / session.lock)
    variables = {
        name: value
        for name, value in os.environ.items()
        # A test must not reach a real provider, nor the stack that the user runs.
        if name
        not in (
            *PROVIDER_KEYS,
            *PROVIDER_CHOICES,
            GATEWAY_CONFIG,
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
    console.say(f"--- {session.name}: {' '.join(tests)}", style="bold")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(python), "-m", "pytest", *tests, f"--junitxml={report}", "-p", "no:cacheprovider"]
        command += ["-k", keyword] if keyword else []
        sys.stdout.flush()
        code = subprocess.run(
            command, cwd=where.root, env=variables, stdout=sys.stderr if as_json else None, check=False
        ).returncode
        return _outcome(session.name, code, report)


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
