"""Wrong passwords are slowed down: MLflow 3.17 checks as many as anybody sends.

An attempt costs a token before the password is looked at, and a right password gives it back. Buckets of tokens stand for

- an address: so that nobody tries passwords of one user after the other;
- a user: so that nobody tries one user's password from many addresses;
- a user at an address from which that user has logged in before: those two are left alone by what others do.

So nobody is locked out by strangers: not who has logged in from where they are, and not who comes by the port that the
stack publishes on loopback (`./paddock` does), which has buckets of its own. Everybody else waits until the next token,
seconds and never longer, whatever strangers send (OWASP Authentication Cheat Sheet, "Account Lockout").

Counted in memory, by each worker for itself: a database would let strangers write, on every attempt, into what the team
works with. Several workers allow as many times more, and a restart forgets.
"""

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from paddock_mlflow.errors import PaddockError

REMEMBERED = 20_000
"""Buckets, and known pairs of user and address, that are kept; the longest unused go first."""


@dataclass(frozen=True)
class Rate:
    """So many wrong passwords at once, and then one in so many seconds."""

    burst: int
    seconds: float


ADDRESS = Rate(10, 30.0)
USER = Rate(50, 10.0)
PAIR = Rate(10, 30.0)


class TooManyLogins(PaddockError):
    """The password was not looked at; `retry_after` is in whole seconds, at least one."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(
            f"expected fewer wrong passwords, found too many of this user or from this address; try again in"
            f" {self.retry_after} s"
        )


class Attempts:
    """The attempts of one worker. Safe in threads.

    Args:
        clock: seconds, never going back.
        address, user, pair: the rates of the three kinds of buckets.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        address: Rate = ADDRESS,
        user: Rate = USER,
        pair: Rate = PAIR,
    ) -> None:
        self._clock = clock
        self._address, self._user, self._pair = address, user, pair
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, ...], tuple[float, float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def check(self, user: str, address: str, right: Callable[[], bool], *, local: bool) -> bool:
        """Whether the password is right, by `right()`, which is called without any lock held.

        Args:
            address: the client's; those of one IPv6 network of 64 bits are one.
            local: whether it came by the port on loopback.

        Raises:
            TooManyLogins: there were too many wrong ones, and `right` was not called.
        """
        network = f"loopback {_network(address)}" if local else _network(address)
        taken = self._take(user, network, local)
        accepted = False
        try:
            accepted = right()
        except BaseException:
            # Nobody knows whether it was right: the database is away.
            self._give_back(taken)
            raise
        if accepted:
            self._give_back(taken, known=(user, network))
        return accepted

    def _take(self, user: str, network: str, local: bool) -> list[tuple[tuple[str, ...], Rate]]:
        with self._lock:
            if (user, network) in self._known:
                wanted = [(("pair", user, network), self._pair)]
            elif local:
                wanted = [(("address", network), self._address)]
            else:
                wanted = [(("address", network), self._address), (("user", user), self._user)]
            now = self._clock()
            levels = [(bucket, rate, self._level(bucket, rate, now)) for bucket, rate in wanted]
            waits = [(1 - level) * rate.seconds for _, rate, level in levels if level < 1]
            if waits:
                raise TooManyLogins(max(waits))
            for bucket, _, level in levels:
                self._keep(bucket, level - 1, now)
            return wanted

    def _give_back(
        self, taken: list[tuple[tuple[str, ...], Rate]], known: tuple[str, str] | None = None
    ) -> None:
        with self._lock:
            now = self._clock()
            for bucket, rate in taken:
                self._keep(bucket, min(self._level(bucket, rate, now) + 1, rate.burst), now)
            if known is not None:
                self._known[known] = None
                self._known.move_to_end(known)
                _trim(self._known)

    def _level(self, bucket: tuple[str, ...], rate: Rate, now: float) -> float:
        level, since = self._buckets.get(bucket, (rate.burst, now))
        return min(level + (now - since) / rate.seconds, rate.burst)

    def _keep(self, bucket: tuple[str, ...], level: float, now: float) -> None:
        self._buckets[bucket] = (level, now)
        self._buckets.move_to_end(bucket)
        _trim(self._buckets)


def _trim(kept: OrderedDict) -> None:  # type: ignore[type-arg]
    while len(kept) > REMEMBERED:
        kept.popitem(last=False)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 6:
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
