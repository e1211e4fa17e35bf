"""Checks: what must hold of a workspace once an agent has left it.

They look at copies. A command runs on a copy of its own, in a fresh container without a network, and the files that
belong to it are laid over that copy then: no agent has seen them.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddock_cli import trees
from paddock_cli.errors import BadWorkspace
from paddock_cli.mlflow_api import CHECK_PREFIX, Mlflow, Trace
from paddock_cli.stack import Stack
from paddock_cli.suites.model import CHECK_SECONDS, Check
from paddock_cli.suites.results import CheckResult
from paddock_cli.trees import Tree

MAX_TEXT_BYTES = 1024 * 1024
"""How much of a file `matches` looks at."""
MATCH_SECONDS = 10
NO_FENCE = (
    "Checks run EMBEDDED, without Docker: what the agent has left is started as a plain process of yours, on a copy but"
    " without a fence."
)
CUT_OFF = ("interrupted", "terminated")
"""Outcomes of a run that somebody ended."""
NOT_THE_AGENT = ("authentication", "provider_unavailable", "unknown_endpoint")
"""Outcomes that say nothing of the model: it was not reached."""
_SHOWN_NAMES = 20
_NO_NAME = re.compile(r"[^A-Za-z0-9 _.,()+-]+")
_LONGEST_NAME = 60
# A pattern can take forever on a text that was made for it, and Python can't be told to stop looking.
_SEARCH = (
    "import re, sys\n"
    "text = sys.stdin.buffer.read().decode(errors='replace')\n"
    "sys.exit(0 if re.search(sys.argv[1], text, re.MULTILINE) else 3)\n"
)


@dataclass(frozen=True)
class Finished:
    """A workspace once an agent has left it.

    Args:
        folder: a copy of it that nobody else writes.
        before: what the workspace held when the agent began.
        after: what `folder` was copied from.
    """

    folder: Path
    before: Tree
    after: Tree


def run_all(
    stack: Stack,
    checks: Sequence[Check],
    finished: Finished,
    files: Path,
    show: Callable[[str], None] = lambda _: None,
) -> tuple[CheckResult, ...]:
    """Make every check, whatever the others said.

    Args:
        files: the folder that the checks' own `files` are named from.
        show: told the name of each check as it begins.
    """
    results = []
    for one in checks:
        show(one.name)
        began = time.monotonic()
        try:
            result = _made(stack, one, finished, files)
        except BadWorkspace as error:
            result = CheckResult(
                name=one.name, passed=False, error=f"expected {error.expected}, found {error.found}"
            )
        except OSError as error:
            result = CheckResult(name=one.name, passed=False, error=f"it could not be made: {error}")
        took = result.seconds or round(time.monotonic() - began, 3)
        results.append(result.model_copy(update={"seconds": took}))
    return tuple(results)


def commands(texts: Sequence[str]) -> tuple[Check, ...]:
    """The checks of `--check COMMAND`, each named by what of its command a name can hold."""
    found: dict[str, Check] = {}
    for number, text in enumerate(texts, 1):
        name = " ".join(_NO_NAME.sub(" ", text).split())[:_LONGEST_NAME].strip(" _,(+-")
        if not name or not name[0].isalnum() or name.lower() in found:
            name = f"command {number}"
        found[name.lower()] = Check(name=name, run=text)
    return tuple(found.values())


def log(server: Mlflow, trace: Trace, made: tuple[CheckResult, ...]) -> None:
    """The checks' results beside the judges' on a trace, each once."""
    known = {verdict.judge for verdict in trace.checks}
    for check in made:
        name = f"{CHECK_PREFIX}{check.name}"
        if name not in known:
            rationale = check.error or check.output
            server.assess(trace.trace_id, name, check.passed, rationale, error=check.error)


def _made(stack: Stack, one: Check, finished: Finished, files: Path) -> CheckResult:
    if one.run is not None:
        return _command(stack, one, one.run, finished, files)
    if one.diff_only is not None:
        return _diff_only(one, one.diff_only, finished)
    assert one.file is not None
    if one.absent:
        there = trees.exists(finished.after, one.file)
        return CheckResult(
            name=one.name, passed=not there, output=f"{one.file} is {'there' if there else 'absent'}"
        )
    return _matches(one, one.file, one.matches or "", finished)


def _command(stack: Stack, one: Check, command: str, finished: Finished, files: Path) -> CheckResult:
    limit = one.timeout or CHECK_SECONDS
    copy = finished.folder.with_name(f"{finished.folder.name}-check")
    shutil.rmtree(copy, ignore_errors=True)
    trees.copy(finished.folder, copy)
    try:
        if one.files is not None:
            trees.lay_over(files / one.files, copy)
        trees.let_agents_have(stack.kind, copy)
        ended = stack.run_apart(command, copy, limit)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    error = ended.failed or (f"no end within {limit} s, so it was ended" if ended.timed_out else "")
    return CheckResult(
        name=one.name,
        passed=not error and ended.code == 0,
        seconds=round(ended.seconds, 3),
        output=ended.output + ("" if error or ended.code == 0 else f"\n(exit code {ended.code})"),
        error=error,
    )


def _diff_only(one: Check, globs: tuple[str, ...], finished: Finished) -> CheckResult:
    within = trees.matcher(globs)
    changed = trees.changed(finished.before, finished.after)
    outside = [name for name in changed if not within(name)]
    shown = "\n".join(_some(outside)) if outside else f"{len(changed)} changed, all within {', '.join(globs)}"
    return CheckResult(
        name=one.name, passed=not outside, output=f"changed beside it:\n{shown}" if outside else shown
    )


def _matches(one: Check, name: str, pattern: str, finished: Finished) -> CheckResult:
    text = trees.read(finished.folder, name, MAX_TEXT_BYTES)
    if text is None:
        found = finished.after.get(name)
        what = "no such file" if found is None else f"no file, but a {found.kind} one"
        return CheckResult(name=one.name, passed=False, output=f"{name}: {what}")
    try:
        code = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH, pattern],
            input=text,
            capture_output=True,
            timeout=MATCH_SECONDS,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        error = f"the pattern came to no end within {MATCH_SECONDS} s"
        return CheckResult(name=one.name, passed=False, error=error)
    found = {0: "matches", 3: "does not match"}.get(code)
    if found is None:
        return CheckResult(name=one.name, passed=False, error=f"the search ended with exit code {code}")
    return CheckResult(name=one.name, passed=code == 0, output=f"{name} {found} {pattern}")


def _some(names: list[str]) -> Iterator[str]:
    yield from (trees.shown(name) for name in names[:_SHOWN_NAMES])
    if len(names) > _SHOWN_NAMES:
        yield f"and {len(names) - _SHOWN_NAMES} more"
