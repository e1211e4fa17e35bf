"""Ends a run from outside: SIGTERM, SIGINT and the wall clock.

The signal handler raises `RunStopped` in the main thread, where the conversation runs, so a model call or a command
under way ends at once and every open span is closed on the way out. It waits a moment where raising would tear
something: while an event is being written, or inside the tracing library.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from .errors import RunStopped
from .outcomes import Outcome

_SIGNALS = {
    signal.SIGTERM: Outcome.TERMINATED,
    signal.SIGINT: Outcome.INTERRUPTED,
    # The terminal or the connection that the run was started from is gone.
    signal.SIGHUP: Outcome.TERMINATED,
}
# Module prefixes in which a run must not be torn apart, in short pieces of code all of them.
_FRAGILE = (
    "openhands.sdk.conversation",
    "openhands.sdk.io",
    "openhands.sdk.observability",
    "lmnr",
    "opentelemetry",
)
_FRAGILE_OWN = f"{__package__}.output"
_RETRY_SECONDS = 0.02
_PATIENCE_SECONDS = 2.0
# Should something swallow the exception, it is raised again until the runner says that it is out.
_RAISE_AGAIN_SECONDS = 3.0


class Interruption:
    """Signal handlers and the wall clock of one run; to be used as a context manager in the main thread."""

    def __init__(self, timeout: float, hard_exit: Callable[[Outcome], None]) -> None:
        """`timeout` in seconds from now; `hard_exit` is called, from a thread, at the second signal and when a run
        does not come to its end within 15 s."""
        self.outcome: Outcome | None = None
        self._deadline = time.monotonic() + timeout
        self._hard_exit = hard_exit
        self._stopped_at = 0.0
        self._out = False
        self._watchdog: threading.Timer | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        for number in (*_SIGNALS, signal.SIGALRM):
            self._previous[number] = signal.signal(number, self._handle)
        self._set_alarm(max(self._deadline - time.monotonic(), 0.001))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """The run is over: nothing is raised any more; a second signal still forces the exit."""
        self._out = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._watchdog:
            self._watchdog.cancel()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        outcome = _SIGNALS.get(signal.Signals(number), Outcome.TIMEOUT)
        from_clock = number == signal.SIGALRM
        if self._out and (from_clock or self.outcome is None):
            # The run had ended of itself; its last spans are on their way and the exit is near.
            if not from_clock:
                self.outcome = outcome
            return
        if self.outcome is None:
            self.outcome = outcome
            self._stopped_at = time.monotonic()
            self._watchdog = threading.Timer(15, self._hard_exit, [outcome])
            self._watchdog.daemon = True
            self._watchdog.start()
        elif not from_clock:
            threading.Thread(target=self._hard_exit, args=[self.outcome], daemon=True).start()
            return
        waited = time.monotonic() - self._stopped_at
        if waited < _PATIENCE_SECONDS and _is_fragile(frame):
            self._set_alarm(_RETRY_SECONDS)
            return
        self._set_alarm(_RAISE_AGAIN_SECONDS)
        raise RunStopped(self.outcome)

    def _set_alarm(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _is_fragile(frame: FrameType | None) -> bool:
    """Whether the innermost frame that is not the standard library's belongs to code that must not be torn apart."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name == _FRAGILE_OWN or any(name == part or name.startswith(part + ".") for part in _FRAGILE):
            return True
        spec = frame.f_globals.get("__spec__")
        origin = str(getattr(spec, "origin", "") or "")
        if "site-packages" in origin or name.startswith(__package__):
            return False
        frame = frame.f_back
    return False
