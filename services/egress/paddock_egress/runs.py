"""Which run a client belongs to, and what that run may reach: asked of MLflow's plugin, by the hash of the run's key.

An answer counts for `FRESH_SECONDS`, so a revoked key opens nothing soon after; where MLflow is away, nothing new does.
"""

import hashlib
import re
import time
from collections import OrderedDict
from dataclasses import dataclass

import httpx

from paddock_egress.config import hosts
from paddock_egress.errors import Refusal

FRESH_SECONDS = 2.0
TIMEOUT_SECONDS = 4.0
_REMEMBERED = 4096
_KEY = re.compile(r"pdk_[A-Za-z0-9_-]{16,128}")
PATH = "/api/3.0/paddock-egress/run"


@dataclass(frozen=True)
class Run:
    """A run that lives, and the hosts that were allowed to it alone."""

    run_id: str
    key_id: str
    allow: tuple[str, ...]


class Runs:
    """Looks runs up. `client` has the server's address and this proxy's own token."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._known: OrderedDict[str, tuple[float, Run | Refusal]] = OrderedDict()

    async def of(self, key: str) -> Run:
        """The run of a key.

        Raises:
            Refusal: the key is not, or no longer, one of a run; status 503 where MLflow does not answer.
        """
        if not _KEY.fullmatch(key):
            raise _unknown("a password that is none")
        return await self.of_hash(hashlib.sha256(key.encode()).hexdigest())

    async def of_hash(self, sha256: str, *, fresh: bool = False) -> Run:
        """As `of`; `fresh` asks anew whatever is remembered."""
        at, answer = self._known.get(sha256, (0.0, None))
        if fresh or answer is None or time.monotonic() - at > FRESH_SECONDS:
            answer = await self._ask(sha256)
            self._known[sha256] = (time.monotonic(), answer)
            self._known.move_to_end(sha256)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        if isinstance(answer, Refusal):
            raise answer
        return answer

    async def _ask(self, sha256: str) -> Run | Refusal:
        """What MLflow says. Raises Refusal, which is not remembered, where it says nothing."""
        try:
            answer = await self._client.post(PATH, json={"sha256": sha256}, timeout=TIMEOUT_SECONDS)
            body = answer.json() if answer.status_code in (200, 404) else {}
        except (httpx.HTTPError, ValueError) as error:
            raise _away(type(error).__name__) from None
        if answer.status_code == 404 and "expected" not in str(body.get("detail", "")):
            # Another MLflow than ours: nothing is known of the key.
            raise _away("no such route")
        if answer.status_code == 404:
            return _unknown("a key that no run has")
        if answer.status_code != 200:
            raise _away(str(answer.status_code))
        if body["state"] != "active":
            return Refusal(
                f"key-{body['state']}",
                "the key of a run that goes on",
                f"one that is {body['state']} ({body['key_id']})",
                "start another run",
            )
        allow = tuple(entry for entry in body["allow"] if hosts.is_entry(entry))
        return Run(str(body["run_id"]), str(body["key_id"]), allow)


def _unknown(found: str) -> Refusal:
    return Refusal(
        "unknown-key",
        "the key of a run as the proxy's password",
        found,
        "start the agent by ./paddock run, which makes one",
        status=407,
    )


def _away(why: str) -> Refusal:
    return Refusal(
        "mlflow-away",
        "MLflow to say what the run may reach",
        f"no answer ({why})",
        "nothing is let through meanwhile: try again",
        status=503,
    )
