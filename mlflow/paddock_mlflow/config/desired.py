"""What a configuration means here and now: settings filled in, providers without a key left out, names resolved.

The same classes describe what a server has (`state`), so that `plan` compares like with like.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from pydantic import ValidationError

from paddock_mlflow.config.guardrails import DEFAULT_MODEL, SCORERS
from paddock_mlflow.config.model import KEPT, KINDS_OF_TOKENS, Configuration, Endpoint, Price, Provider

_SETTING = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")
_WEIGHT = 1.0
_FREE = Price(input=Decimal(0), output=Decimal(0))


@dataclass(frozen=True)
class SecretEntry:
    """A provider's key, and where the provider is. `credentials` is None where the value is the gateway's own."""

    provider: str
    kind: str
    credentials: Mapping[str, str] | None = field(repr=False, hash=False)
    auth: Mapping[str, str] = field(hash=False)
    variables: tuple[str, ...] = ()
    name: str = ""
    """As MLflow lists it."""


@dataclass(frozen=True)
class ModelEntry:
    name: str
    secret: str
    kind: str
    model: str


@dataclass(frozen=True)
class EndpointEntry:
    """`fallbacks` and `max_attempts` are None where the file does not claim them."""

    name: str
    primaries: tuple[tuple[str, float], ...]
    fallbacks: tuple[str, ...] | None
    max_attempts: int | None
    usage_tracking: bool


@dataclass(frozen=True)
class PriceEntry:
    """USD per million tokens."""

    kind: str
    model: str
    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None


@dataclass(frozen=True)
class BudgetEntry:
    scope: str
    target: str
    unit: str
    count: int
    action: str
    amount: Decimal

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What makes it this budget: another amount is a change of it."""
        return self.scope, self.target, self.unit, self.count, self.action


@dataclass(frozen=True)
class RateEntry:
    scope: str
    target: str
    requests_per_minute: int | None
    tokens_per_minute: int | None


@dataclass(frozen=True)
class GuardrailEntry:
    name: str
    scorer: str
    stage: str
    action: str
    endpoints: tuple[str, ...]
    instructions: str = ""
    model: str = ""
    order: int = 0
    """Its place among those of an endpoint: that in the file."""


@dataclass(frozen=True)
class UserEntry:
    """`grants` are (resource type, name of the resource, permission)."""

    name: str
    grants: frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class KeyEntry:
    name: str
    user: str
    endpoints: tuple[str, ...] | None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class WebhookEntry:
    name: str
    url: str
    secret: str | None = field(repr=False)
    variable: str = ""
    kept: bool = False
    """Whether it signs with what the gateway has, whatever that is."""


@dataclass(frozen=True)
class Desired:
    """Everything that a server should have."""

    secrets: dict[str, SecretEntry]
    models: dict[str, ModelEntry]
    endpoints: dict[str, EndpointEntry]
    prices: dict[tuple[str, str], PriceEntry]
    budgets: tuple[BudgetEntry, ...]
    rates: tuple[RateEntry, ...]
    guardrails: dict[str, GuardrailEntry]
    users: dict[str, UserEntry] | None
    keys: dict[str, KeyEntry]
    webhooks: dict[str, WebhookEntry]
    absent: tuple[str, ...] = ()
    """Providers that the file has and that are not there, for want of a key."""


def secret_name(name: str, provider: Provider) -> str:
    """The name of a provider's secret in MLflow."""
    return provider.secret_name or f"{name}-key"


def settings_in(text: str | None) -> list[str]:
    """The names of the settings that a text refers to as `${NAME}`."""
    return _SETTING.findall(text or "")


def filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with its settings in place; those that are not set are empty."""
    return _SETTING.sub(lambda match: variables.get(match[1], ""), text)


def credentials_of(provider: Provider) -> dict[str, str]:
    """Field and variable of each secret that the provider needs."""
    if provider.credentials:
        return dict(provider.credentials)
    return {"api_key": provider.secret} if provider.secret and provider.secret != KEPT else {}


def available(providers: Mapping[str, Provider], variables: Mapping[str, str]) -> list[str]:
    """The names of the providers that are there, in the order of the file."""

    def complete(provider: Provider) -> bool:
        needed = [*credentials_of(provider).values(), *settings_in(provider.base_url)]
        return all(variables.get(name) for name in needed)

    others = [
        name
        for name, provider in providers.items()
        if provider.when == "always" or (provider.when == "secret set" and complete(provider))
    ]
    if others:
        return others
    return [
        name
        for name, provider in providers.items()
        if provider.when == "no other provider" and complete(provider)
    ]


class NoSuchModel(Exception):
    """A setting names a model that can't be had. Attributes: `setting`, `value`, `there` (providers with a key)."""

    def __init__(self, setting: str, value: str, there: list[str]) -> None:
        super().__init__(setting)
        self.setting, self.value, self.there = setting, value, there


class BadPrice(Exception):
    """A setting is no price; its text is what was found."""


def price_in(text: str) -> Price | None:
    """A price as a setting writes it: `free`, or INPUT,OUTPUT[,CACHE_READ] in USD per million tokens; None if empty.

    Raises:
        BadPrice: it is neither.
    """
    if not text.strip():
        return None
    if text.strip() == "free":
        return _FREE
    amounts = [part.strip() for part in text.split(",")]
    try:
        kinds = ("input", "output", "cache_read")[: max(2, len(amounts))]
        return Price.model_validate(dict(zip(kinds, amounts, strict=True)))
    except (ValidationError, ValueError):
        raise BadPrice(text) from None


class Cycle(Exception):
    """Endpoints that fall back to each other; `way` names them, the first one again at the end."""

    def __init__(self, way: list[str]) -> None:
        super().__init__(" → ".join(way))
        self.way = way


class Resolver:
    """Finds the models behind endpoints. Models that only a setting names are added to `models` as they turn up."""

    def __init__(self, configuration: Configuration, variables: Mapping[str, str]) -> None:
        self._endpoints = configuration.endpoints
        self._variables = variables
        self._providers = configuration.providers
        self.there = available(configuration.providers, variables)
        self.models: dict[str, ModelEntry] = {
            name: self._entry(name, model.provider, model.model)
            for name, model in configuration.models.items()
            if model.provider in self.there
        }
        self._declared = configuration.models
        self._provider_of = {name: model.provider for name, model in configuration.models.items()}

    def prices(self) -> dict[tuple[str, str], PriceEntry]:
        """What the models of providers with a price cost, by kind and model.

        Raises:
            BadPrice: a setting is none.
        """
        found = {}
        for name, model in self.models.items():
            price = self._price_of(self._providers[self._provider_of[name]])
            if price is not None:
                found[model.kind, model.model] = _price_entry(model.kind, model.model, price)
        return found

    def _price_of(self, provider: Provider) -> Price | None:
        if isinstance(provider.price, str):
            return price_in(filled(provider.price, self._variables))
        return provider.price

    def primaries(self, endpoint: Endpoint) -> tuple[tuple[str, float], ...]:
        """Models and weights; empty where none of them is there.

        Raises:
            NoSuchModel: a setting names a model of no provider that is there.
        """
        if endpoint.split:
            there = [(name, float(weight)) for name, weight in endpoint.split.items() if name in self.models]
            # One model needs no weight, and MLflow asks for none.
            return tuple(there) if len(there) > 1 else tuple((name, _WEIGHT) for name, _ in there)
        for reference in endpoint.model or []:
            named = settings_in(reference)
            if named and not (value := self._variables.get(named[0], "").strip()):
                continue
            name = self._by_setting(named[0], value) if named else reference
            if name in self.models:
                return ((name, _WEIGHT),)
        return ()

    def fallbacks(self, name: str) -> tuple[str, ...]:
        """The models that an endpoint falls back to, each once, its own first model not among them.

        Raises:
            Cycle: endpoints fall back to each other.
            NoSuchModel: as `primaries`.
        """
        own = {model for model, _ in self.primaries(self._endpoints[name])}
        found = dict.fromkeys(model for model in self._chain(name, [name]) if model not in own)
        return tuple(found)

    def _chain(self, name: str, way: list[str]) -> Iterator[str]:
        for reference in self._endpoints[name].fallbacks or []:
            if reference in self._declared:
                if reference in self.models:
                    yield reference
            elif reference in self._endpoints:
                if reference in way:
                    raise Cycle([*way[way.index(reference) :], reference])
                yield from (model for model, _ in self.primaries(self._endpoints[reference]))
                yield from self._chain(reference, [*way, reference])

    def _by_setting(self, setting: str, value: str) -> str:
        if value in self._declared:
            if value in self.models:
                return value
            raise NoSuchModel(setting, value, self.there)
        prefix, slash, rest = value.partition("/")
        if slash and prefix in self.there:
            return self._add(prefix, rest)
        # A name without a provider, or with a slash of its own where there is no choice.
        if self.there and (not slash or (len(self.there) == 1 and prefix not in self._providers)):
            return self._add(self.there[0], value)
        raise NoSuchModel(setting, value, self.there)

    def _add(self, provider: str, model: str) -> str:
        entry = self._entry(f"{provider}/{model}", provider, model)
        for known in self.models.values():
            if (known.secret, known.model) == (entry.secret, entry.model):
                return known.name
        self.models[entry.name] = entry
        self._provider_of[entry.name] = provider
        return entry.name

    def _entry(self, name: str, provider: str, model: str) -> ModelEntry:
        declared = self._providers[provider]
        return ModelEntry(name, secret_name(provider, declared), declared.kind, model)


def resolve(configuration: Configuration, variables: Mapping[str, str]) -> Desired:
    """What a valid configuration asks for.

    Args:
        configuration: one that `validation.check` found no problem in.
        variables: settings and secrets by the names of .env.
    """
    resolver = Resolver(configuration, variables)
    endpoints = {
        name: EndpointEntry(
            name=name,
            primaries=resolver.primaries(endpoint),
            fallbacks=None if endpoint.fallbacks is None else resolver.fallbacks(name),
            max_attempts=endpoint.max_attempts,
            usage_tracking=endpoint.usage_tracking,
        )
        for name, endpoint in configuration.endpoints.items()
    }
    return Desired(
        secrets={
            (entry := _secret(name, configuration.providers[name], variables)).name: entry
            for name in resolver.there
        },
        models=resolver.models,
        endpoints=endpoints,
        prices=resolver.prices() | {price.kind_and_model: price.entry for price in prices_of(configuration)},
        budgets=tuple(
            BudgetEntry(
                budget.scope,
                budget.target or "",
                *window_of(budget.window),
                action=budget.action,
                amount=budget.amount,
            )
            for budget in configuration.budgets
        ),
        rates=(
            *(
                RateEntry(rate.scope, rate.target, rate.requests_per_minute, rate.tokens_per_minute)
                for rate in configuration.rate_limits
            ),
            *(
                RateEntry("key", name, key.requests_per_minute, key.tokens_per_minute)
                for name, key in configuration.keys.items()
                if key.requests_per_minute or key.tokens_per_minute
            ),
        ),
        guardrails={
            name: GuardrailEntry(
                name,
                rail.scorer,
                rail.stage,
                rail.action,
                tuple(sorted(rail.endpoints)),
                rail.instructions or "",
                (rail.model or DEFAULT_MODEL) if SCORERS[rail.scorer].judges else "",
                order,
            )
            for order, (name, rail) in enumerate(configuration.guardrails.items())
        },
        users=None
        if configuration.users is None
        else {
            name: UserEntry(
                name,
                frozenset(
                    {("gateway_endpoint", endpoint, "USE") for endpoint in user.grants.endpoints}
                    | {("experiment", title, rank) for title, rank in user.grants.experiments.items()}
                ),
            )
            for name, user in configuration.users.items()
        },
        keys={
            name: KeyEntry(
                name,
                key.user,
                None if key.endpoints is None else tuple(key.endpoints),
                key.requests_per_minute,
                key.tokens_per_minute,
            )
            for name, key in configuration.keys.items()
        },
        webhooks={
            name: WebhookEntry(
                name,
                hook.url,
                variables.get(hook.secret) if hook.secret else None,
                hook.secret if hook.secret and hook.secret != KEPT else "",
                hook.secret == KEPT,
            )
            for name, hook in configuration.webhooks.items()
        },
        absent=tuple(name for name in configuration.providers if name not in resolver.there),
    )


def window_of(text: str) -> tuple[str, int]:
    """`6 hours` as MLflow's unit and number: ("HOURS", 6)."""
    number, unit = text.split()
    return unit.rstrip("s").upper() + "S", int(number)


@dataclass(frozen=True)
class DeclaredPrice:
    """A price, and the model of the file that names it."""

    name: str
    entry: PriceEntry

    @property
    def kind_and_model(self) -> tuple[str, str]:
        """What MLflow looks a price up by: the provider's kind, and the provider's name of the model."""
        return self.entry.kind, self.entry.model


def prices_of(configuration: Configuration) -> Iterator[DeclaredPrice]:
    """Every price of the file, also of models whose provider is not there."""
    for name, model in configuration.models.items():
        provider = configuration.providers.get(model.provider)
        if provider is None or model.price is None:
            continue
        price = _FREE if model.price == "free" else model.price
        yield DeclaredPrice(name, _price_entry(provider.kind, model.model, price))


def _price_entry(kind: str, model: str, price: Price) -> PriceEntry:
    return PriceEntry(kind, model, **{kind: getattr(price, kind) for kind in KINDS_OF_TOKENS})


def _secret(name: str, provider: Provider, variables: Mapping[str, str]) -> SecretEntry:
    base = filled(provider.base_url, variables) if provider.base_url else ""
    needed = credentials_of(provider)
    # A server without a key is asked with a word that says so; MLflow has no secret without a value.
    values = {field_name: variables[variable] for field_name, variable in needed.items()} or {
        "api_key": "none"
    }
    return SecretEntry(
        provider=name,
        kind=provider.kind,
        credentials=None if provider.secret == KEPT else values,
        auth={**provider.options, **({"api_base": base} if base else {})},
        variables=tuple(needed.values()),
        name=secret_name(name, provider),
    )
