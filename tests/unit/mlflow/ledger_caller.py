"""A server's worth of callers on one ledger, as a process of its own: `python ledger_caller.py '<json>'`.

Calls until the budget is spent, the rate is used up, or `calls` are made by each caller; prints what came of it as JSON.
With `hold` it makes its calls, says so, and waits to be killed.
"""

import asyncio
import json
import random
import secrets
import sys
import time
from collections import Counter
from decimal import Decimal
from typing import Any

from paddock_mlflow.ledger import open_ledger
from paddock_mlflow.ledger.types import (
    Admission,
    Admitted,
    KeyCredential,
    Outcome,
    Reason,
    Refused,
    Settlement,
    StaleConfiguration,
    UserCredential,
)


class Caller:
    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.ledger = open_ledger(given["url"])
        self.counts: Counter[str] = Counter()
        self.choice = random.Random(given.get("seed", 0))
        self.version = 0

    def admission(self) -> Admission:
        key = self.choice.choice(self.given.get("keys") or [None])
        name = self.choice.choice(self.given.get("users", ["ada"]))
        return Admission(
            call_id=secrets.token_hex(8),
            credential=KeyCredential(bytes.fromhex(key)) if key else UserCredential(name),
            endpoint_id=self.choice.choice(self.given.get("endpoints", ["e-coder"])),
            endpoint_name="coder",
            tokens=self.given.get("tokens", 10),
            bound=Decimal(self.given["bound"]),
            lease_seconds=self.given.get("lease", 60.0),
            config_version=self.version,
        )

    async def call(self) -> Reason | None:
        asked = self.admission()
        answer = await self.ledger.admit(asked)
        if isinstance(answer, StaleConfiguration):
            self.version = answer.config_version
            return None
        if isinstance(answer, Refused):
            self.counts[answer.reason] += 1
            return answer.reason
        assert isinstance(answer, Admitted)
        self.counts["admitted"] += 1
        if not self.given.get("hold"):
            await asyncio.sleep(self.choice.random() * 0.02)
            cost = Decimal(self.given["cost"])
            await self.ledger.settle(Settlement(asked.call_id, Outcome.OK, cost))
        return None

    async def work(self) -> None:
        made = 0
        while made < self.given.get("calls", 1_000_000):
            refused = await self.call()
            if refused is Reason.BUDGET_RESERVED:
                await asyncio.sleep(0.01)
                continue
            if refused is not None and not self.given.get("go_on"):
                return
            made += 1

    async def main(self) -> None:
        self.version = await self.ledger.config_version()
        if (begin := self.given.get("begin")) is not None:
            # All processes at once, whatever their start took.
            await asyncio.sleep(max(begin - time.time(), 0))
        started = time.monotonic()
        await asyncio.gather(*(self.work() for _ in range(self.given["callers"])))
        print(json.dumps(self.counts | {"seconds": time.monotonic() - started}), flush=True)
        if self.given.get("hold"):
            await asyncio.sleep(3600)
        await self.ledger.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(Caller(json.loads(sys.argv[1])).main())
