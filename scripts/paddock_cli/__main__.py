"""Entry point: turns every failure into a message and a documented exit code."""

import os
import sys
import time
import traceback

# The launcher set it to find this package; programs that are started from here must not see it.
os.environ.pop("PYTHONPATH", None)

from paddock_cli import console
from paddock_cli.errors import CliError
from paddock_cli.exit_codes import ExitCode


def main() -> int:
    """Run a command. Returns the exit code."""
    import typer

    from paddock_cli.app import app

    as_json = "--json" in sys.argv[1:]
    try:
        code = app(standalone_mode=False, prog_name="paddock")
        return int(code or 0)
    except CliError as error:
        return _report(error, as_json)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except typer.TyperException as error:
        return _report_usage(error, as_json)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left (`| head`). Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 - nobody above this could report it
        return _report_unexpected(error, as_json)


def _report(error: CliError, as_json: bool) -> int:
    if as_json:
        console.document(error.as_json())
    console.say(f"paddock: expected {error.expected}, found {error.found}", style="red")
    console.say(f"  → {error.remedy}")
    return error.exit_code


def _report_usage(error: Exception, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "paddock"
    message = getattr(error, "format_message", error.__str__)()
    if as_json:
        console.document(
            {
                "error": {
                    "kind": "Usage",
                    "expected": "a valid call",
                    "found": message,
                    "remedy": f"{path} --help",
                },
                "exit_code": int(ExitCode.USAGE),
            }
        )
    # A call without a command has shown the help, and has no message.
    if message:
        console.say(f"paddock: {message}", style="red")
        console.say(f"  → see ./{path} --help")
    return ExitCode.USAGE


def _report_unexpected(error: Exception, as_json: bool) -> int:
    from paddock_cli.settings import paths

    where = paths()
    log = where.logs / f"failure-{time.strftime('%Y%m%d-%H%M%S')}.log"
    try:
        where.make()
        log.write_text(traceback.format_exc())
        details = f"details: {log}"
    except OSError as unwritable:
        details = f"no details kept ({unwritable})"
    found = f"{type(error).__name__}: {error}"
    if as_json:
        console.document(
            {
                "error": {
                    "kind": "Unexpected",
                    "expected": "no such failure",
                    "found": found,
                    "remedy": details,
                },
                "exit_code": int(ExitCode.UNEXPECTED),
            }
        )
    console.say(f"paddock: this should not have happened: {found}", style="red")
    console.say(f"  → {details}")
    return ExitCode.UNEXPECTED


if __name__ == "__main__":
    sys.exit(main())
