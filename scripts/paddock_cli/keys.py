"""`./paddock keys`: what a person writes for budgets and times, and how keys look."""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from rich.table import Table
from rich.text import Text

from paddock_cli import console
from paddock_cli.errors import NotFound, UnknownEndpoint, UsageFailed
from paddock_cli.mlflow_api import Mlflow

PATH = "/api/3.0/paddock/keys"
MAX_BUDGET_USD = 1_000_000
MAX_DAYS = 3660

_UNITS = {"minute": "MINUTES", "hour": "HOURS", "day": "DAYS", "week": "WEEKS", "month": "MONTHS"}
_BUDGET = re.compile(r"\$?(?P<usd>[^/\s]+)(?:\s*/\s*(?P<count>\d+)?\s*(?P<unit>[a-z]+?)s?)?")
_DURATION = re.compile(r"(?P<count>\d{1,9})\s*(?P<unit>m|min|h|d|w)")
_SECONDS = {"m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")


@dataclass(frozen=True)
class Budget:
    """USD for a window of `count` units (MINUTES to MONTHS); without a unit, for a whole life."""

    usd: Decimal
    unit: str | None = None
    count: int = 1

    def as_json(self) -> dict[str, Any]:
        """As the server takes it; the amount as text, so that it stays exact."""
        return {"usd": f"{self.usd:f}", "unit": self.unit, "count": self.count}


def parse_budget(text: str, option: str = "--budget") -> Budget:
    """`5/day`, `0.50/hour`, `20/2 weeks`, or `3` for a whole life.

    Raises:
        UsageFailed: anything else.
    """
    match = _BUDGET.fullmatch(text.strip().lower())
    unit = match["unit"] if match else None
    if match is None or (unit is not None and unit not in _UNITS):
        raise UsageFailed(
            f"{option} like 5/day, 0.50/hour, 20/2 weeks, or 3 for the key's whole life",
            repr(text),
            f"write USD, a slash, and one of {', '.join(_UNITS)}",
        )
    count = int(match["count"] or 1)
    if not 0 < count <= 10_000:
        raise UsageFailed(f"{option} for 1 to 10000 {unit}s", repr(text), "mend the number of units")
    return Budget(usd_of(match["usd"], option), _UNITS[unit] if unit else None, count)


def usd_of(text: str, option: str) -> Decimal:
    """An amount above zero, to the ten decimal places that are kept of it.

    Raises:
        UsageFailed: it is none.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        amount = Decimal(0)
    places = amount.as_tuple().exponent if amount.is_finite() else 0
    if not amount.is_finite() or not 0 < amount <= MAX_BUDGET_USD or int(places) < -10:
        raise UsageFailed(
            f"{option} of more than 0 and at most {MAX_BUDGET_USD} USD, with ten decimal places at most",
            repr(text),
            f"write it like {option} 0.50",
        )
    return amount


def parse_duration(text: str, option: str = "--expires") -> float:
    """`30d`, `12h`, `90m` or `2w`, in seconds.

    Raises:
        UsageFailed: anything else, nothing at all, or more than ten years.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = int(match["count"]) * _SECONDS[match["unit"]] if match else 0
    if not 0 < seconds <= MAX_DAYS * 86400:
        raise UsageFailed(
            f"{option} like 30d, 12h, 90m or 2w, at most {MAX_DAYS}d", repr(text), f"mend {option}"
        )
    return float(seconds)


def wanted(
    *,
    user: str,
    endpoints: list[str],
    budget: str | None = None,
    expires: str | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    experiments: list[str] | None = None,
    name: str = "",
) -> dict[str, Any]:
    """The body that asks for a key.

    Raises:
        UsageFailed: a value makes no sense.
    """
    if not _USER.fullmatch(user):
        raise UsageFailed(
            "--user of letters, digits and . _ @ + - , 128 at most", repr(user), "choose another name"
        )
    if not endpoints:
        raise UsageFailed(
            "--endpoint NAME at least once", "none", "name what the key may call: --endpoint coder"
        )
    body: dict[str, Any] = {"user": user, "endpoints": endpoints, "name": name}
    if budget is not None:
        body["budget"] = parse_budget(budget).as_json()
    if expires is not None:
        body["expires_in"] = parse_duration(expires)
    if experiments is not None:
        body["experiments"] = experiments
    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    return body | {name: value for name, value in limits.items() if value is not None}


def create(server: Mlflow, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for a key; its text is in the answer's `key`, and can't be had again.

    Raises:
        UnknownEndpoint: the gateway has no endpoint of that name.
        ServerFailed: the server refused the rest; its words say why.
    """
    known = server.endpoints()
    for name in body["endpoints"]:
        if name not in known:
            raise UnknownEndpoint(
                f"an endpoint of the gateway: {', '.join(sorted(known)) or 'none is there'}",
                repr(name),
                f"name one of them, or make it in the UI: {server.url}/#/gateway",
            )
    return server.call("POST", PATH, json=body)


def listed(server: Mlflow, runs: bool = False) -> list[dict[str, Any]]:
    """Every key; those of single runs only where asked for."""
    found: list[dict[str, Any]] = server.call("GET", PATH, params={"runs": str(runs).lower()})["keys"]
    return found


def revoke(server: Mlflow, key_id: str) -> dict[str, Any]:
    """From now on the key opens nothing.

    Raises:
        NotFound: there is no such key.
    """
    if not re.fullmatch(r"pk_[A-Za-z0-9]+", key_id):
        raise NotFound("the id of a key, like pk_3f09c1", repr(key_id), "list them: ./paddock keys list")
    try:
        return server.call("POST", f"{PATH}/{key_id}/revoke")
    except NotFound:
        raise NotFound(f"a key {key_id}", "none of that id", "list them: ./paddock keys list") from None


def money(text: str | None) -> str:
    """An amount as the server writes it, for people."""
    return f"${Decimal(text or 0):f}"


def budget_of(key: dict[str, Any]) -> str:
    """`$5/day`, `$3 in all`, or a dash."""
    budget = key["budget"]
    if budget is None:
        return "–"
    if budget["unit"] is None:
        return f"{money(budget['usd'])} in all"
    unit = budget["unit"].lower().removesuffix("s")
    return f"{money(budget['usd'])}/" + (unit if budget["count"] == 1 else f"{budget['count']} {unit}s")


def show_new(key: dict[str, Any], url: str) -> None:
    """The new key, and how to use it."""
    console.out.print(key["key"], soft_wrap=True)
    limits = [
        f"{key[name]} {name.removesuffix('_per_minute')} a minute"
        for name in ("requests_per_minute", "tokens_per_minute")
        if key[name]
    ]
    facts = [f"user {key['user']}", f"endpoints {', '.join(key['endpoints'])}"]
    facts += [f"budget {budget_of(key)}"] if key["budget"] else []
    facts += limits + ([f"until {_day(key['expires_at'])}"] if key["expires_at"] else ["without an end"])
    if key["new_user"]:
        facts.append(f"{key['user']} is a new user, without a password")
    console.say(f"{key['id']}: {'; '.join(facts)}")
    console.say("Shown this once; revoke it with: ./paddock keys revoke " + key["id"])
    console.say(
        f"OpenAI clients: OPENAI_BASE_URL={url}/gateway/mlflow/v1 OPENAI_API_KEY=KEY, model {key['endpoints'][0]}"
    )
    console.say(f"Anthropic's:    ANTHROPIC_BASE_URL={url}/gateway/anthropic ANTHROPIC_API_KEY=KEY")


def table(keys: list[dict[str, Any]]) -> Table:
    """A row for each key."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("id", "user", "endpoints", "budget", "spent", "expires", "last used", "state"):
        shown.add_column(column, no_wrap=column in ("id", "budget", "spent", "state"), overflow="fold")
    for key in keys:
        style = {"active": "green", "expired": "yellow"}.get(key["state"], "red")
        shown.add_row(
            key["id"],
            Text(key["user"]),
            Text(", ".join(key["endpoints"])),
            budget_of(key),
            money(key["spent_usd"]),
            _day(key["expires_at"]),
            _day(key["last_used_at"]),
            Text(key["state"], style=style),
        )
    return shown


def _day(moment: str | None) -> str:
    """A moment of the server, which is in UTC."""
    return moment[:16].replace("T", " ") + "Z" if moment else "–"
