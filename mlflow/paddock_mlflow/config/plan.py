"""The difference between what a file asks for and what a server has: data, made without a request."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from paddock_mlflow.config import fingerprints
from paddock_mlflow.config.desired import (
    BudgetEntry,
    Desired,
    EndpointEntry,
    GuardrailEntry,
    KeyEntry,
    ModelEntry,
    PriceEntry,
    RateEntry,
    SecretEntry,
    UserEntry,
    WebhookEntry,
)
from paddock_mlflow.config.model import KINDS_OF_TOKENS
from paddock_mlflow.config.state import EndpointState, State

Verb = Literal["create", "update", "delete"]
Entry = (
    SecretEntry
    | ModelEntry
    | EndpointEntry
    | PriceEntry
    | BudgetEntry
    | RateEntry
    | GuardrailEntry
    | UserEntry
    | KeyEntry
    | WebhookEntry
)

STACK_USERS = frozenset({"admin", "agent", "judge"})
"""Made by the set-up, which looks after their grants itself."""

_WEIGHT_STEP = 1e-3
"""MLflow keeps weights as short floating-point numbers."""


@dataclass(frozen=True)
class Difference:
    """One field; texts for people, empty where there is none. A secret's value is never in it."""

    field: str
    old: str
    new: str


@dataclass(frozen=True)
class Change:
    """One thing to write: what `apply` needs for it, and what a person is shown."""

    verb: Verb
    kind: str
    """provider, model, price, endpoint, fallbacks, guardrail, user, grant, key, budget, rate limit, webhook."""
    name: str
    differences: tuple[Difference, ...] = ()
    entry: Entry | None = field(default=None, repr=False)
    id: str = ""

    def text(self) -> str:
        """One line, like `update endpoint coder: model demo → gpt-5-mini`."""
        fields = ", ".join(
            f"{one.field} {one.old or 'none'} → {one.new or 'none'}" for one in self.differences
        )
        shown = f": {fields}" if fields and self.verb == "update" else ""
        return f"{self.verb} {self.kind} {self.name}{shown}"

    def as_json(self) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "kind": self.kind,
            "name": self.name,
            "fields": {one.field: {"old": one.old, "new": one.new} for one in self.differences},
        }


@dataclass(frozen=True)
class Plan:
    """`changes` bring the server to the file; `unmanaged` is what it has beyond it, which only a prune deletes."""

    changes: tuple[Change, ...]
    unmanaged: tuple[Change, ...]
    conflicts: tuple[str, ...]
    """What no apply can mend: it refuses before it writes anything."""
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether server and file agree."""
        return not (self.changes or self.unmanaged or self.conflicts)

    def as_json(self) -> dict[str, Any]:
        return {
            "changes": [change.as_json() for change in self.changes],
            "unmanaged": [change.as_json() for change in self.unmanaged],
            "conflicts": list(self.conflicts),
            "notes": list(self.notes),
            "clean": self.clean,
        }


def plan(desired: Desired, state: State) -> Plan:
    """What to write, in an order that works and that a second apply can take up anywhere."""
    work = _Work(desired, state)
    changes = [
        *work.prices(),
        *work.secrets(),
        *work.models(),
        *work.endpoints(),
        *work.guardrails(),
        *work.users(),
        *work.keys(),
        *work.budgets(),
        *work.rates(),
        *work.webhooks(),
    ]
    if state.default_passphrase:
        work.conflicts.append(
            "expected a passphrase of the stack's own over the secrets, found MLflow's well-known default: whoever reads"
            " the database can decrypt every key; set KEK_PASSPHRASE (the stack's secrets service makes one) and restart"
        )
    return Plan(tuple(changes), tuple(work.unmanaged()), tuple(work.conflicts), tuple(work.notes))


class _Work:
    def __init__(self, desired: Desired, state: State) -> None:
        self._want = desired
        self._have = state
        self.conflicts: list[str] = []
        self.notes: list[str] = []

    def prices(self) -> Iterator[Change]:
        for key, entry in self._want.prices.items():
            known = self._have.prices.get(key)
            name = "/".join(key)
            if known is None:
                yield Change("create", "price", name, _fields(_price(None), _price(entry)), entry)
            elif known != entry:
                yield Change("update", "price", name, _fields(_price(known), _price(entry)), entry)

    def secrets(self) -> Iterator[Change]:
        for name, entry in self._want.secrets.items():
            known = self._have.secrets.get(name)
            if known is None:
                if entry.credentials is None:
                    self.conflicts.append(
                        f"expected the gateway to have the secret {name}, found none; name its variable under"
                        f" `secret:` of provider {entry.provider}, and put the value into .env"
                    )
                    continue
                shown = {
                    "kind": entry.kind,
                    **_auth(entry.auth),
                    "secret": ", ".join(entry.variables) or "none",
                }
                yield Change("create", "provider", entry.provider, _fields({}, shown), entry)
                continue
            if known.kind != entry.kind:
                self.conflicts.append(
                    f"expected provider {entry.provider} to be of kind {known.kind}, as the gateway has it, found"
                    f" {entry.kind}; MLflow can't change that: give the provider another name"
                )
                continue
            differences = _fields(_auth(known.auth), _auth(entry.auth))
            if entry.credentials is not None:
                found = fingerprints.of(self._have.salt, entry.credentials)
                if found != known.fingerprint:
                    what = ", ".join(entry.variables) or "key"
                    old = "unreadable" if not known.fingerprint else "another value"
                    differences += (Difference(f"secret {what}", old, "the value of .env"),)
            if differences:
                yield Change("update", "provider", entry.provider, differences, entry, known.id)

    def models(self) -> Iterator[Change]:
        for name, entry in self._want.models.items():
            known = self._have.models.get(name)
            new = {"provider": _provider_of(entry.secret), "model": entry.model}
            if known is None:
                yield Change("create", "model", name, _fields({}, new), entry)
                continue
            old = {"provider": _provider_of(known.secret), "model": known.model}
            # One that lost its secret still has the kind, and needs the secret again.
            differences = _fields(old, new) or _fields({"kind": known.kind}, {"kind": entry.kind})
            if differences:
                yield Change("update", "model", name, differences, entry, known.id)

    def endpoints(self) -> Iterator[Change]:
        for name, entry in self._want.endpoints.items():
            known = self._have.endpoints.get(name)
            if known is None:
                yield Change("create", "endpoint", name, _fields({}, _endpoint(entry)), entry)
                continue
            whole = EndpointEntry(
                name,
                entry.primaries,
                known.fallbacks if entry.fallbacks is None else entry.fallbacks,
                entry.max_attempts if entry.fallbacks is not None else known.max_attempts,
                entry.usage_tracking,
            )
            if _same_models(known, whole) and (known.max_attempts, known.usage_tracking) == (
                whole.max_attempts if whole.fallbacks else None,
                whole.usage_tracking,
            ):
                continue
            yield Change(
                "update", "endpoint", name, _fields(_endpoint(known), _endpoint(whole)), whole, known.id
            )

    def guardrails(self) -> Iterator[Change]:
        for name, entry in self._want.guardrails.items():
            new = _guardrail(entry)
            same = [one for one in self._have.guardrails if one.name == name]
            # Two of one name are what is left of a change that was cut off: the one that fits already is ours.
            known = next(
                (one for one in same if not _fields(_guardrail(one), new)), same[0] if same else None
            )
            if known is None:
                yield Change("create", "guardrail", name, _fields({}, new), entry)
            elif differences := _fields(_guardrail(known), new):
                yield Change("update", "guardrail", name, differences, entry, known.id)

    def users(self) -> Iterator[Change]:
        for name, entry in (self._want.users or {}).items():
            known = self._have.users.get(name)
            for kind, title, _ in sorted(entry.grants):
                if kind == "experiment" and title not in self._have.experiments:
                    self.conflicts.append(
                        f"expected the experiment {title}, which user {name} is granted, to exist, found none; make it in"
                        " the UI, or remove the grant"
                    )
            if known is None:
                yield Change("create", "user", name, (), entry)
            ranks = {(kind, title): rank for kind, title, rank in known or ()}
            for grant in sorted(entry.grants):
                kind, title, rank = grant
                have = ranks.get((kind, title), "")
                if have != rank:
                    yield Change(
                        "update" if have else "create",
                        "grant",
                        f"{name} on {_thing(kind)} {title}",
                        (Difference("permission", have, rank),),
                        UserEntry(name, frozenset({grant})),
                    )

    def keys(self) -> Iterator[Change]:
        for name, entry in self._want.keys.items():
            known = [key for key in self._have.keys if (key.name, key.user) == (name, entry.user)]
            if not known:
                opens = " ".join(f"--endpoint {one}" for one in entry.endpoints or ())
                self.notes.append(
                    f"key {name} is not made yet, because its text is shown once and to you alone:"
                    f" ./paddock keys create --user {entry.user} --name {name} {opens}".rstrip()
                )
            if len(known) > 1:
                self.conflicts.append(
                    f"expected one key {name} of {entry.user}, found {len(known)}; revoke the others: ./paddock keys list"
                )
                continue
            for key in known:
                if entry.endpoints is not None and set(entry.endpoints) != set(key.endpoints):
                    differences = _fields(
                        {"endpoints": _listed(key.endpoints)}, {"endpoints": _listed(entry.endpoints)}
                    )
                    yield Change("update", "key", name, differences, entry, key.id)

    def budgets(self) -> Iterator[Change]:
        for entry in self._want.budgets:
            same = [one for one in self._have.budgets if one.entry.key == entry.key]
            if not same:
                yield Change(
                    "create",
                    "budget",
                    _budget_name(entry),
                    (Difference("amount", "", _usd(entry.amount)),),
                    entry,
                )
            # Of several, the one that fits already is ours; the others are reported.
            elif all(one.entry.amount != entry.amount for one in same):
                difference = Difference("amount", _usd(same[0].entry.amount), _usd(entry.amount))
                yield Change("update", "budget", _budget_name(entry), (difference,), entry, same[0].id)

    def rates(self) -> Iterator[Change]:
        for entry, target in self._rates_wanted():
            known = next(
                (one for one in self._have.rates if (one.scope, one.target) == (entry.scope, target)), None
            )
            name = f"{entry.scope} {entry.target}"
            new = _rate(entry.requests_per_minute, entry.tokens_per_minute)
            wanted = RateEntry(entry.scope, target, entry.requests_per_minute, entry.tokens_per_minute)
            if known is None:
                yield Change("create", "rate limit", name, _fields({}, new), wanted)
            elif differences := _fields(_rate(known.requests_per_minute, known.tokens_per_minute), new):
                yield Change("update", "rate limit", name, differences, wanted, known.id)

    def _rates_wanted(self) -> Iterator[tuple[RateEntry, str]]:
        """Each limit with its target as the server names it: a key by its id."""
        for entry in self._want.rates:
            if entry.scope != "key":
                yield entry, entry.target
                continue
            declared = self._want.keys.get(entry.target)
            known = [
                key
                for key in self._have.keys
                if key.id == entry.target
                or (key.name == entry.target and (declared is None or declared.user == key.user))
            ]
            if len(known) == 1:
                yield entry, known[0].id
            elif not known and declared is None:
                self.notes.append(
                    f"the limit of key {entry.target} waits for that key: ./paddock keys create --name {entry.target} …"
                )
            elif known and declared is None:
                self.conflicts.append(
                    f"expected one key {entry.target}, found {len(known)}; name it by its id: ./paddock keys list"
                )

    def webhooks(self) -> Iterator[Change]:
        for name, entry in self._want.webhooks.items():
            known = self._have.webhooks.get(name)
            if known is None:
                yield Change(
                    "create",
                    "webhook",
                    name,
                    _fields({}, {"url": entry.url, "secret": entry.variable}),
                    entry,
                )
                continue
            differences = _fields({"url": known.url}, {"url": entry.url})
            wanted = fingerprints.of(self._have.salt, entry.secret) if entry.secret else ""
            if wanted != known.fingerprint and not entry.kept:
                old = "another value" if known.fingerprint else ""
                differences += (
                    Difference(
                        f"secret {entry.variable}".rstrip(), old, "the value of .env" if wanted else ""
                    ),
                )
            if differences:
                yield Change("update", "webhook", name, differences, entry, known.id)

    def unmanaged(self) -> Iterator[Change]:
        """What the server has and the file does not name, in the order in which it can be deleted."""
        for name, hook in self._have.webhooks.items():
            if name not in self._want.webhooks:
                yield Change("delete", "webhook", name, (Difference("url", hook.url, ""),), id=hook.id)
        yield from self._unmanaged_rates()
        yield from self._unmanaged_budgets()
        yield from self._unmanaged_guardrails()
        yield from self._unmanaged_people()
        yield from self._unmanaged_endpoints()
        yield from self._unmanaged_models()

    def _unmanaged_rates(self) -> Iterator[Change]:
        targets = {(entry.scope, target) for entry, target in self._rates_wanted()}
        self.notes = list(dict.fromkeys(self.notes))
        self.conflicts = list(dict.fromkeys(self.conflicts))
        for rate in self._have.rates:
            if (rate.scope, rate.target) not in targets:
                shown = _fields(_rate(rate.requests_per_minute, rate.tokens_per_minute), {})
                yield Change("delete", "rate limit", f"{rate.scope} {rate.target}", shown, id=rate.id)

    def _unmanaged_guardrails(self) -> Iterator[Change]:
        kept: set[str] = set()
        for name, entry in self._want.guardrails.items():
            same = [one for one in self._have.guardrails if one.name == name]
            fitting = [one for one in same if not _fields(_guardrail(one), _guardrail(entry))] or same
            kept |= {one.id for one in fitting[:1]}
        for rail in self._have.guardrails:
            if rail.id not in kept:
                yield Change("delete", "guardrail", rail.name, _fields(_guardrail(rail), {}), id=rail.id)

    def _unmanaged_endpoints(self) -> Iterator[Change]:
        for name, endpoint in self._have.endpoints.items():
            entry = self._want.endpoints.get(name)
            if entry is None:
                yield Change("delete", "endpoint", name, _fields(_endpoint(endpoint), {}), id=endpoint.id)
            elif entry.fallbacks is None and endpoint.fallbacks:
                bare = EndpointEntry(name, entry.primaries, (), None, entry.usage_tracking)
                shown = (Difference("fallbacks", _listed(endpoint.fallbacks), ""),)
                yield Change("delete", "fallbacks", name, shown, bare, endpoint.id)

    def _unmanaged_models(self) -> Iterator[Change]:
        for name, model in self._have.models.items():
            if name not in self._want.models:
                shown = _fields({"provider": _provider_of(model.secret), "model": model.model}, {})
                yield Change("delete", "model", name, shown, id=model.id)
        for name, secret in self._have.secrets.items():
            if name not in self._want.secrets:
                shown = (Difference("kind", secret.kind, ""),)
                yield Change("delete", "provider", _provider_of(name), shown, id=secret.id)
        for key, price in self._have.prices.items():
            if key not in self._want.prices:
                yield Change("delete", "price", "/".join(key), _fields(_price(price), {}), price)

    def _unmanaged_budgets(self) -> Iterator[Change]:
        kept: set[str] = set()
        for entry in self._want.budgets:
            same = [one for one in self._have.budgets if one.entry.key == entry.key]
            fitting = [one for one in same if one.entry.amount == entry.amount] or same
            kept |= {one.id for one in fitting[:1]}
        for one in self._have.budgets:
            if one.id not in kept:
                shown = (Difference("amount", _usd(one.entry.amount), ""),)
                yield Change("delete", "budget", _budget_name(one.entry), shown, id=one.id)

    def _unmanaged_people(self) -> Iterator[Change]:
        if self._want.users is None:
            return
        for name, grants in self._have.users.items():
            entry = self._want.users.get(name)
            if entry is None:
                if name not in STACK_USERS:
                    yield Change("delete", "user", name)
                continue
            named = {(kind, title) for kind, title, _ in entry.grants}
            for kind, title, rank in sorted(grants):
                # On experiments a user has what comes of making them; and the stack's own users have the set-up's.
                if kind == "gateway_endpoint" and (kind, title) not in named and name not in STACK_USERS:
                    yield Change(
                        "delete",
                        "grant",
                        f"{name} on {_thing(kind)} {title}",
                        (Difference("permission", rank, ""),),
                        UserEntry(name, frozenset({(kind, title, rank)})),
                    )


def _same_models(known: EndpointState, wanted: EndpointEntry) -> bool:
    if known.fallbacks != (wanted.fallbacks or ()):
        return False
    have, want = dict(known.primaries), dict(wanted.primaries)
    if have.keys() != want.keys():
        return False
    if len(want) == 1:
        return True
    shares, wanted_shares = shares_of(have), shares_of(want)
    return all(abs(shares[name] - wanted_shares[name]) < _WEIGHT_STEP for name in want)


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights as parts of one, which MLflow wants: it makes whole percents of them."""
    total = sum(weights.values()) or 1.0
    return {name: round(weight / total, 4) for name, weight in weights.items()}


def _fields(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Difference, ...]:
    names = list(dict.fromkeys([*old, *new]))
    return tuple(
        Difference(name, old.get(name, ""), new.get(name, ""))
        for name in names
        if old.get(name, "") != new.get(name, "")
    )


def _endpoint(endpoint: EndpointEntry | EndpointState) -> dict[str, str]:
    shares = shares_of(dict(endpoint.primaries))
    split = len(shares) > 1
    models = _listed(f"{name} {share:.0%}" if split else name for name, share in shares.items())
    return {
        "model": models,
        "fallbacks": _listed(endpoint.fallbacks or ()),
        "max_attempts": str(endpoint.max_attempts) if endpoint.fallbacks and endpoint.max_attempts else "",
        "usage_tracking": "yes" if endpoint.usage_tracking else "no",
    }


def _guardrail(rail: Any) -> dict[str, str]:
    return {
        "scorer": rail.scorer,
        "stage": rail.stage,
        "action": rail.action,
        "endpoints": _listed(sorted(rail.endpoints)),
        "instructions": rail.instructions,
        "model": rail.model,
    }


def _price(price: PriceEntry | None) -> dict[str, str]:
    if price is None:
        return {}
    return {kind: _usd(amount) for kind in KINDS_OF_TOKENS if (amount := getattr(price, kind)) is not None}


def _rate(requests: int | None, tokens: int | None) -> dict[str, str]:
    return {
        "requests_per_minute": "" if requests is None else str(requests),
        "tokens_per_minute": "" if tokens is None else str(tokens),
    }


def _auth(auth: Mapping[str, str]) -> dict[str, str]:
    return {("base_url" if name == "api_base" else name): value for name, value in auth.items()}


def _budget_name(entry: BudgetEntry) -> str:
    whose = "of all calls" if entry.scope == "global" else f"of {entry.scope} {entry.target}"
    unit = entry.unit.lower().rstrip("s") + ("s" if entry.count > 1 else "")
    return f"{whose}, {entry.count} {unit}, {entry.action}"


def _thing(kind: str) -> str:
    return "endpoint" if kind == "gateway_endpoint" else kind


def _provider_of(secret: str) -> str:
    return secret.removesuffix("-key") or "none"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _usd(amount: Decimal) -> str:
    return f"${amount.normalize():f}"
