"""The command line `paddock-agent`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import __version__
from .errors import UsageError
from .handover import Handover
from .handover import read as read_handover
from .isolation import take_stdout
from .outcomes import EXIT_CODES, USAGE_EXIT_CODE, Outcome
from .output import make_writer
from .runner import run
from .settings import DEFAULT_TOOLS, TOOL_NAMES, load_settings


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is an exception, so that it can be told as JSON too."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see paddock-agent --help")


def make_parser() -> argparse.ArgumentParser:
    """The flags; every default is None here, so that the environment comes between flag and default."""
    codes = ", ".join(f"{code} {outcome.value}" for outcome, code in EXIT_CODES.items())
    parser = _Parser(
        prog="paddock-agent",
        description="Runs one OpenHands agent task through the AI Gateway, traced in MLflow.",
        epilog=f"Exit codes: {codes}, {USAGE_EXIT_CODE} usage. "
        "Each flag can be set as PADDOCK_AGENT_<NAME> too; LLM_BASE_URL, LLM_API_KEY and "
        "OTEL_EXPORTER_OTLP_{ENDPOINT,HEADERS} name the gateway and where traces go.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "task", nargs="?", metavar="TASK", help="what the agent is to do; - reads it from standard input"
    )
    add = parser.add_argument
    add("--endpoint", help="endpoint of the AI Gateway (coder)")
    add("--workspace", metavar="DIR", help="folder that the agent works on (/workspace)")
    add("--max-iterations", metavar="N", help="steps until the run is stopped (100)")
    add("--timeout", metavar="SECONDS", help="wall-clock seconds until the run is stopped (3600)")
    add(
        "--max-output-tokens",
        metavar="N",
        help="of one model call (open); a budget reserves so much before each",
    )
    add(
        "--tools",
        metavar="NAMES",
        help=f"comma-separated out of {', '.join(TOOL_NAMES)} ({','.join(DEFAULT_TOOLS)})",
    )
    add("--mcp", metavar="FILE", help="JSON file with MCP servers under mcpServers")
    add(
        "--handover",
        action="store_true",
        help='read {"llm_api_key": …, "secrets": {NAME: VALUE}, "mcp": {"mcpServers": …}} from standard input: what '
        "no argument, environment or file is to hold",
    )
    add(
        "--landlock",
        choices=("auto", "require", "off"),
        help="hold back writes outside of the run's folders (auto)",
    )
    add("--run-id", metavar="UUID", help="id of the new run (random)")
    add(
        "--resume",
        metavar="RUN_ID",
        help="go on with this run; a TASK is then a further message to the agent",
    )
    add("--state-dir", metavar="DIR", help="folder where runs are kept (/state)")
    add("--output", choices=("text", "jsonl"), help="lines for people, or one JSON object a line (text)")
    add("--user", metavar="NAME", help="who asked for the run; stands on the trace")
    add("--tag", metavar="NAME=VALUE", action="append", dest="tags", help="put on the trace; may be repeated")
    add("--version", action="version", version=f"paddock-agent {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command; ends the process with the outcome's exit code, 2 for a mistake of the caller."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        flags = vars(make_parser().parse_args(words))
    except UsageError as error:
        make_writer(_asked_output(words), sys.stdout).usage_error(str(error))
        raise SystemExit(USAGE_EXIT_CODE) from None
    writer = make_writer(_asked_output(words), take_stdout())
    try:
        handed_over = Handover()
        if flags.pop("handover"):
            if flags["task"] == "-":
                raise UsageError("expected the task as an argument beside --handover, found -; name it")
            handed_over = read_handover()
        elif flags["task"] == "-":
            flags["task"] = sys.stdin.read()
        run(load_settings(**flags), handed_over, writer)
    except UsageError as error:
        writer.usage_error(str(error))
        sys.stderr.flush()
        os._exit(USAGE_EXIT_CODE)
    except KeyboardInterrupt:
        # Before the run has taken the signals over.
        os._exit(Outcome.INTERRUPTED.exit_code)


def _asked_output(words: Sequence[str]) -> str:
    """The form of output that was asked for, even where the rest of the command line makes no sense."""
    form = os.environ.get("PADDOCK_AGENT_OUTPUT", "text")
    for index, word in enumerate(words):
        if word == "--output" and index + 1 < len(words):
            form = words[index + 1]
        elif word.startswith("--output="):
            form = word.partition("=")[2]
    return form
