"""Every exit code of `./paddock`.

0 to 19 and 124 and above come from the agent runner, whose table this repeats: `./paddock run` and `demo` end with the
code of the run's outcome. 20 to 49 are the command line's own.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a caller can tell from the exit status alone."""

    # Outcomes of a run (agent runner)
    OK = 0
    RUN_ERROR = 1
    USAGE = 2
    MAX_ITERATIONS = 3
    BUDGET = 4
    STUCK = 5
    WAITING = 6
    AUTHENTICATION = 7
    PROVIDER_UNAVAILABLE = 8
    UNKNOWN_ENDPOINT = 9
    NOT_SET_UP = 78
    TIMEOUT = 124
    INTERRUPTED = 130
    TERMINATED = 143

    # The command line's own
    ENVIRONMENT = 20
    """A Python environment could not be made (no Python, no pip, no package index)."""
    NO_ENGINE = 21
    """No Docker engine answers."""
    NO_COMPOSE = 22
    """The engine has no Compose plugin, or an older one than 2.20."""
    NO_SPACE = 23
    """Too little free disk space."""
    PORT_TAKEN = 24
    """Another process listens on MLFLOW_PORT."""
    BAD_SETTINGS = 25
    """A value of .env or of the environment can't be used."""
    BAD_WORKSPACE = 26
    """The workspace is missing, no folder, or can't be read or written."""
    BUILD_FAILED = 27
    """An image, or the base image, could not be built."""
    START_FAILED = 28
    """A service did not become healthy."""
    NOT_RUNNING = 29
    """The command needs a running stack."""
    SERVER = 30
    """MLflow refused a request or did not answer."""
    NO_RUNNER = 31
    """The agent ended without telling its result."""
    NOT_FOUND = 32
    """No such run, trace, judge or image."""
    TESTS_FAILED = 33
    """A test failed, or a required part is missing."""
    DECLINED = 34
    """The user did not confirm."""
    BAD_CONFIGURATION = 35
    """A declared configuration, or a suite's file, has mistakes."""
    NOT_APPLIED = 36
    """It can't be applied, or an apply was stopped in the middle; the message says what was done."""
    ADVISORIES = 37
    """A known vulnerability was found, or what is known could not be looked up."""
    FENCE_BROKEN = 38
    """`audit` found something that the fence must stop and does not."""
    CHECK_FAILED = 39
    """The agent finished, and a check of `run --check` did not pass."""
    SUITE_INCOMPLETE = 41
    """Attempts of a suite run are missing, or something else than the agent stood in their way."""
    JUDGE_TURNED = 45
    """`judges probe`: a trace told the judge its verdict, and was obeyed."""
    UNEXPECTED = 40
    """A defect of the command line; the message names the log."""
    GATE_FAILED = 42
    """`suite gate`: a criterion does not hold."""
    GATE_UNDECIDED = 43
    """`suite gate`: can't be decided: attempts are missing or in state `error`, or a figure is not known."""
    NO_BASELINE = 44
    """No such baseline, or one that has no task in common with the suite run."""
