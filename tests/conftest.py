"""Fixtures and marks that every test shares.

`./paddock test` tells by two variables what the machine lacks and what must not be missing; a bare `pytest` looks for
itself.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"

# The cases that run on more than one stack are a module beside the folders that use it.
sys.path.insert(0, str(TESTS))
pytest.register_assert_rewrite("cases", "cis", "compose_stack", "handles", "linting", "pages")

# The Compose stack's fixtures, in the environment that can start one: shared, so that its folders share the stack.
pytest_plugins = ["compose_stack"] if importlib.util.find_spec("testcontainers") else []

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
BUILD_SECONDS = 2400
"""What the first test of a session may take whose fixtures build every image, on a slow machine without any cache."""


def _given_missing() -> dict[str, str] | None:
    given = os.environ.get("PADDOCK_TEST_MISSING")
    if given is None:
        return None
    return {part: reason for part, _, reason in (line.partition("=") for line in given.splitlines())}


def _engine_missing() -> str:
    if not shutil.which("docker"):
        return "no docker program on PATH"
    answers = [
        subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=False)
        for arguments in (["version", "--format", "{{.Server.Version}}"], ["compose", "version"])
    ]
    failed = next((answer for answer in answers if answer.returncode), None)
    return "" if failed is None else (failed.stderr.strip().splitlines() or ["no engine answers"])[-1]


def _looked_up_missing() -> dict[str, str]:
    missing = {}
    if reason := _engine_missing():
        missing["docker"] = reason
    if not chromium():
        missing["browser"] = "no chromium on PATH"
    return missing


def chromium() -> str:
    """Path of the machine's Chromium, or an empty text."""
    return next((found for name in CHROMIUM if (found := shutil.which(name))), "")


def pytest_report_header() -> list[str]:
    """What the report was made with."""
    lines = [f"paddock: {ROOT.name}, Python {sys.version.split()[0]}"]
    missing = _given_missing()
    if missing:
        lines += [f"not on this machine: {part}: {reason}" for part, reason in missing.items()]
    return lines


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the machine can't run; where it is required, let it run into the reason.

    Last of its kind: folders have marked their tests by now, and `-k` has chosen.
    """
    # A test's time limit holds for its fixtures too.
    first = next((item for item in items if "built" in getattr(item, "fixturenames", ())), None)
    if first is not None:
        first.add_marker(pytest.mark.timeout(BUILD_SECONDS))
    marked = {
        mark
        for item in items
        for mark in ("docker", "browser")
        if item.get_closest_marker(f"requires_{mark}")
    }
    if not marked:
        return
    missing = _given_missing()
    missing = _looked_up_missing() if missing is None else missing
    required = set(filter(None, os.environ.get("PADDOCK_TEST_REQUIRE", "").split(",")))
    for item in items:
        for part in marked & missing.keys():
            if not item.get_closest_marker(f"requires_{part}"):
                continue
            reason = f"needs {part}: {missing[part]}"
            if part in required:
                item.add_marker(pytest.mark.usefixtures("_required_and_missing"))
                item.user_properties.append(("missing", reason))
            else:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def _required_and_missing(request: pytest.FixtureRequest) -> None:
    reasons = [reason for name, reason in request.node.user_properties if name == "missing"]
    pytest.fail("; ".join(reasons) + " (required by --require)", pytrace=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of the machine's Chromium, for Playwright's `executable_path`."""
    return chromium()
