"""What a run's key is worth: at another endpoint, after its end, beyond its budget, or made up."""

from __future__ import annotations

import json
import time

from paddock_probes.gate import MODELS, exchange, request
from paddock_probes.network import every, reason
from paddock_probes.registry import Attempt, NothingToAimAt, Targets, probe

# Where the clients of OpenAI, Anthropic, Azure and Gemini put a key.
_HEADERS = ("Authorization: Bearer {}", "X-Api-Key: {}", "Api-Key: {}", "X-Goog-Api-Key: {}")


def _call(targets: Targets, key: str, endpoint: str, header: str) -> Attempt:
    body = json.dumps(
        {"model": endpoint, "max_tokens": 16, "messages": [{"role": "user", "content": "Say nothing."}]}
    )
    sent = request("POST", MODELS, header.format(key), "Connection: close", body=body)
    seen = ""
    for wait in (0, 1, 3):
        # A gateway that is away has refused nothing.
        time.sleep(wait)
        try:
            status = exchange(targets.gate, sent, seconds=20).split(b" ", 2)[1:2]
        except OSError as error:
            seen = reason(error)
            continue
        code = int(status[0]) if status and status[0].isdigit() else 0
        seen = f"HTTP {code}"
        if 0 < code < 500:
            return Attempt(f"{endpoint} by {header.split(':', maxsplit=1)[0]}", code == 200, seen)
    raise NothingToAimAt(f"the gateway does not answer: {seen}")


def _key(targets: Targets, name: str) -> str:
    if name not in targets.keys:
        raise NothingToAimAt(f"no key {name!r} was made for it")
    return targets.keys[name]


def _by_every_header(targets: Targets, key: str, endpoint: str) -> list[Attempt]:
    return every((lambda h=header: _call(targets, key, endpoint, h)) for header in _HEADERS)


@probe(
    "key-other-endpoint",
    attempt="a run's key for an endpoint that it was not made for: the judges'",
    wall="a key opens the endpoints that stand with it in the database; every other does not exist for it",
    marks=("ASI03", "LLM06"),
)
def key_other_endpoint(targets: Targets) -> list[Attempt]:
    return _by_every_header(targets, _key(targets, "run"), targets.closed_endpoint)


@probe(
    "key-ended",
    attempt="a run's key after the run's end",
    wall="it is revoked at the run's end, and looked up at each call",
    marks=("ASI03",),
)
def key_ended(targets: Targets) -> list[Attempt]:
    return _by_every_header(targets, _key(targets, "ended"), targets.endpoint)


@probe(
    "key-spent",
    attempt="a run's key beyond its budget",
    wall="what a call may cost is reserved before it, in the database",
    marks=("LLM10", "ASI03"),
)
def key_spent(targets: Targets) -> list[Attempt]:
    return _by_every_header(targets, _key(targets, "spent"), targets.endpoint)


@probe(
    "key-made-up",
    attempt="a key that nobody made, of the right form",
    wall="256 random bits; the gateway knows their SHA-256",
    marks=("ASI03",),
)
def key_made_up(targets: Targets) -> list[Attempt]:
    return _by_every_header(targets, targets.keys.get("made-up", "pdk_" + "A" * 43), targets.endpoint)
