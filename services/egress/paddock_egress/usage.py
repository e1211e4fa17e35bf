"""What each run uses, and where it ends. Counted in this process: a restart begins anew."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from paddock_egress.config.model import Limits
from paddock_egress.errors import Refusal

_REMEMBERED = 10_000
"""Runs; the oldest that has no connection open is forgotten first."""


@dataclass
class Usage:
    """Of one run. Bytes are those inside of tunnels, or of bodies where a service is looked at."""

    connections: int = 0
    sent: int = 0
    received: int = 0


class Meter:
    """Counts, and refuses what goes beyond a limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._runs: OrderedDict[str, Usage] = OrderedDict()

    @contextmanager
    def connection(self, run_id: str) -> Iterator["Count"]:
        """One more connection of a run, as long as the block lasts.

        Raises:
            Refusal: the run has as many as it may, or used its bytes up.
        """
        usage = self._runs.setdefault(run_id, Usage())
        self._runs.move_to_end(run_id)
        self._forget()
        if usage.connections >= self._limits.connections:
            raise Refusal(
                "too-many-connections",
                f"at most {self._limits.connections} connections of a run at the same time",
                "one more",
                "close some, or raise limits.connections in egress.yaml",
                status=429,
            )
        count = Count(usage, self._limits)
        count.check()
        usage.connections += 1
        try:
            yield count
        finally:
            usage.connections -= 1

    def _forget(self) -> None:
        for run_id in list(self._runs)[: max(0, len(self._runs) - _REMEMBERED)]:
            if not self._runs[run_id].connections:
                del self._runs[run_id]


class Count:
    """The bytes of one connection, which count for its run."""

    def __init__(self, run: Usage, limits: Limits) -> None:
        self._run = run
        self._limits = limits
        self.sent = 0
        self.received = 0

    def up(self, size: int) -> None:
        """So many bytes are about to be sent. Raises Refusal where they would be too many."""
        self.sent += size
        self._run.sent += size
        self.check()

    def down(self, size: int) -> None:
        """So many bytes were received. Raises Refusal where they were too many."""
        self.received += size
        self._run.received += size
        self.check()

    def check(self) -> None:
        """Raises Refusal where the run used its bytes up."""
        for used, limit, name in (
            (self._run.sent, self._limits.upload_bytes, "upload_bytes"),
            (self._run.received, self._limits.download_bytes, "download_bytes"),
        ):
            if used > limit:
                raise Refusal(
                    "too-many-bytes",
                    f"at most {limit} bytes of a run ({name})",
                    f"{used}",
                    f"raise limits.{name} in egress.yaml",
                    status=429,
                )
