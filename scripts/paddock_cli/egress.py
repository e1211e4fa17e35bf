"""The egress proxy as the command line sees it: its configuration, what a run is allowed, and what was refused.

What a configuration means is the proxy's package `paddock_egress.config`, which is read from the checkout.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddock_cli.errors import BadConfiguration, NotRunning, UsageFailed
from paddock_cli.settings import Settings

sys.path.append(str(Path(__file__).resolve().parents[2] / "services" / "egress"))

from paddock_egress.config import hosts as names
from paddock_egress.config import validation
from paddock_egress.config.errors import InvalidConfiguration
from paddock_egress.config.model import Configuration

if TYPE_CHECKING:
    from paddock_cli.stack import Stack

PROFILE = "egress"
MOST = 100
"""Hosts of one run, as the server has it."""
_SWITCH_ON = "write COMPOSE_PROFILES=egress into .env, then: ./paddock up"


def hosts(given: list[str]) -> tuple[str, ...]:
    """The hosts of `--allow`, each once, in small letters.

    Raises:
        UsageFailed: one is no name of a host.
    """
    found = tuple(dict.fromkeys(text.strip().lower() for text in given))
    for text in found:
        if not names.is_entry(text):
            raise UsageFailed(
                "--allow with the name of a host, like index.example or *.files.example",
                repr(text),
                "leave out scheme, port and path; addresses and single words are never allowed",
            )
    if len(found) > MOST:
        raise UsageFailed(
            f"--allow at most {MOST} times", str(len(found)), "put what every run needs into egress.yaml"
        )
    return found


def for_run(stack: "Stack", allow: tuple[str, ...]) -> bool:
    """Whether a run has a way out.

    Raises:
        UsageFailed: hosts are allowed to it in a stack without a fence.
        NotRunning: hosts are allowed to it, and no proxy runs that would let it reach them.
    """
    if stack.kind == "embedded":
        if allow:
            raise UsageFailed(
                "a stack with a fence for --allow",
                "the embedded one, where an agent reaches what you reach",
                "leave --allow out, or ./paddock up with Docker",
            )
        return False
    running = stack.egress()
    if allow and not running:
        raise NotRunning("the egress proxy to run, for --allow", "that it does not", _SWITCH_ON)
    return running


def validate(path: Path) -> Configuration:
    """Look at a configuration; no stack needs to run.

    Raises:
        BadConfiguration: it has mistakes.
    """
    try:
        return validation.load(path)
    except InvalidConfiguration as error:
        raise BadConfiguration(
            error.file, [problem.as_json() for problem in error.problems], str(error)
        ) from None


def require_valid(settings: Settings) -> None:
    """That the proxy will start, where the settings switch it on. Raises BadConfiguration."""
    if PROFILE not in settings.exposed.profiles:
        return
    configuration = validate(settings.egress_config)
    missing: list[dict[str, object]] = [
        {
            "line": 0,
            "column": 0,
            "path": f"services.{name}.credential.secret",
            "expected": f"a value of {service.credential.secret}",
            "found": "none",
            "remedy": "write it into .env",
        }
        for name, service in configuration.services.items()
        if service.credential is not None and service.credential.secret not in settings.keys
    ]
    if missing:
        lines = [
            f"{one['path']}: expected {one['expected']}, found {one['found']}; {one['remedy']}"
            for one in missing
        ]
        raise BadConfiguration(str(settings.egress_config), missing, "\n".join(lines))


def decisions(stack: "Stack", *, run_id: str, every: bool) -> Iterator[dict[str, Any]]:
    """What the proxy decided, oldest first: refusals, or `every` line of its log; of one run where it is named.

    Raises:
        NotRunning: there is no proxy.
    """
    if not stack.egress():
        raise NotRunning("a running egress proxy", "none", _SWITCH_ON)
    for text in stack.logs(["egress"], follow=False, tail=0):
        # Compose puts the container's name before each line.
        _, separator, rest = text.partition("{")
        try:
            line = json.loads(separator + rest)
        except ValueError:
            continue
        if (every or line.get("event") == "refused") and (not run_id or line.get("run_id") == run_id):
            yield line
