"""The command line's exceptions: what was expected, what was found, what to do.

CliError
├── UsageFailed         the call makes no sense
├── UnknownEndpoint     the gateway has no such endpoint
├── EnvironmentFailed   a Python environment can't be made
├── EngineMissing       no Docker engine answers
├── ComposeMissing      no Compose plugin, or too old
├── NoSpace             disk nearly full
├── PortTaken           someone else listens on the port
├── BadSettings         a setting that can't be used
├── BadWorkspace        a folder that the agent can't work in
├── BuildFailed         an image can't be built
├── StartFailed         a service does not become healthy
├── NotRunning          no stack runs
├── ServerFailed        MLflow refuses or is silent
├── RunnerFailed        the agent ended without a result
├── NotFound            no such run, trace, judge or image
├── TestsFailed         red tests or missing parts
├── BadConfiguration    mistakes in a declared configuration, or in a suite's file
├── NotApplied          it can't be applied, or not as a whole
├── NoBaseline          nothing that a suite run can be compared with
└── Declined            not confirmed
"""

from typing import ClassVar

from paddock_cli.exit_codes import ExitCode


class CliError(Exception):
    """A failure that the user can understand and mend.

    Args:
        expected: what should have been so.
        found: what was so.
        remedy: what to do, a command where there is one.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, found {found}; {remedy}")
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def as_json(self) -> dict[str, object]:
        """The failure for --json: `{"error": {"kind", "expected", "found", "remedy"}, "exit_code"}`."""
        return {
            "error": {
                "kind": type(self).__name__,
                "expected": self.expected,
                "found": self.found,
                "remedy": self.remedy,
            },
            "exit_code": int(self.exit_code),
        }


class UsageFailed(CliError):
    """The call itself makes no sense."""

    exit_code = ExitCode.USAGE


class UnknownEndpoint(CliError):
    """The gateway has no such endpoint."""

    exit_code = ExitCode.UNKNOWN_ENDPOINT


class EnvironmentFailed(CliError):
    """A Python environment can't be made."""

    exit_code = ExitCode.ENVIRONMENT


class EngineMissing(CliError):
    """No Docker engine answers."""

    exit_code = ExitCode.NO_ENGINE


class ComposeMissing(CliError):
    """No Compose plugin, or an old one."""

    exit_code = ExitCode.NO_COMPOSE


class NoSpace(CliError):
    """The disk is nearly full."""

    exit_code = ExitCode.NO_SPACE


class PortTaken(CliError):
    """Someone else listens on the port."""

    exit_code = ExitCode.PORT_TAKEN


class BadSettings(CliError):
    """A setting that can't be used."""

    exit_code = ExitCode.BAD_SETTINGS


class BadWorkspace(CliError):
    """A folder that the agent can't work in."""

    exit_code = ExitCode.BAD_WORKSPACE


class BuildFailed(CliError):
    """An image can't be built."""

    exit_code = ExitCode.BUILD_FAILED


class StartFailed(CliError):
    """A service does not become healthy."""

    exit_code = ExitCode.START_FAILED


class NotRunning(CliError):
    """No stack runs."""

    exit_code = ExitCode.NOT_RUNNING


class ServerFailed(CliError):
    """MLflow refuses or is silent."""

    exit_code = ExitCode.SERVER


class RunnerFailed(CliError):
    """The agent ended without a result."""

    exit_code = ExitCode.NO_RUNNER


class NotFound(CliError):
    """No such run, trace, judge or image."""

    exit_code = ExitCode.NOT_FOUND


class TestsFailed(CliError):
    """Red tests, or parts that were required and are missing."""

    exit_code = ExitCode.TESTS_FAILED


class BadConfiguration(CliError):
    """Mistakes in a declared configuration, or in a suite's file.

    Args:
        file: its name.
        problems: each with line, column, path, expected, found, remedy.
        text: the same, a line each, for people.
    """

    exit_code = ExitCode.BAD_CONFIGURATION

    def __init__(self, file: str, problems: list[dict[str, object]], text: str) -> None:
        count = f"{len(problems)} mistake{'' if len(problems) == 1 else 's'}"
        super().__init__(f"{file} to be valid", f"{count}:\n{text}", "mend them; nothing was changed")
        self.file = file
        self.problems = problems

    def as_json(self) -> dict[str, object]:
        """As every failure, and `problems`."""
        return {**super().as_json(), "file": self.file, "problems": self.problems}


class NotApplied(CliError):
    """The declared configuration can't be applied, or not as a whole."""

    exit_code = ExitCode.NOT_APPLIED


class NoBaseline(CliError):
    """Nothing that a suite run can be compared with."""

    exit_code = ExitCode.NO_BASELINE


class Declined(CliError):
    """The user did not confirm."""

    exit_code = ExitCode.DECLINED
