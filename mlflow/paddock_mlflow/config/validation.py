"""The file against its form, itself, the settings and the secrets: every error at once, each with its line."""

import difflib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paddock_mlflow.config import desired, form, guardrails, model
from paddock_mlflow.config.errors import InvalidConfiguration, Problem
from paddock_mlflow.config.form import made, once, shown
from paddock_mlflow.config.model import KEPT, Configuration
from paddock_mlflow.config.source import Source, Steps, read

STACK_ENDPOINTS = {
    "coder": "the stack's agents call it",
    "judge": "the stack's judges call it",
}
OWN_UPSTREAMS = ("LLM_BASE_URL", "DEMO_MODEL_URL")
"""Settings whose servers may have a private address or no TLS: `upstreams.py` lets the gateway reach just these."""

_ITEMS: dict[str, type[BaseModel]] = {
    "providers": model.Provider,
    "models": model.Model,
    "endpoints": model.Endpoint,
    "guardrails": model.Guardrail,
    "users": model.User,
    "keys": model.Key,
    "webhooks": model.Webhook,
}
_LISTS: dict[str, type[BaseModel]] = {"budgets": model.Budget, "rate_limits": model.RateLimit}
_EXAMPLE = "the shipped mlflow/gateway.yaml and docs/configuration.md"
_MEND = f"mend it; {_EXAMPLE} show the form"
_PLACEHOLDER = re.compile(r"{{\s*(\w+)\s*}}")


@dataclass
class Checked:
    """A file that may be applied."""

    configuration: Configuration
    source: Source
    notes: list[str] = field(default_factory=list)
    """What is worth a word and no error."""


def load(path: Path, variables: Mapping[str, str]) -> Checked:
    """Read and check a file.

    Args:
        path: the file.
        variables: settings and secrets by the names of .env; those that are not set are missing or empty.

    Raises:
        InvalidConfiguration: with every problem of the file.
    """
    return check(read(path), variables)


def check(source: Source, variables: Mapping[str, str]) -> Checked:
    """As `load`, of what was read already."""
    problems = list(source.problems)
    configuration: Configuration | None = None
    try:
        configuration = Configuration.model_validate(source.data)
    except ValidationError as error:
        problems += _FORM.problems(source, error)
    problems += _Rules(source, configuration or _partial(source), variables).problems()
    if problems or configuration is None:
        raise InvalidConfiguration(source.file, once(problems))
    return Checked(configuration, source, list(_notes(configuration, variables)))


# The form


def _special(source: Source, steps: Steps, error: ErrorDetails) -> Problem | None:
    kind, value = error["type"], error.get("input")
    if kind == "missing" and steps[-1] == "model" and isinstance(value, dict) and "price" in value:
        return source.problem(
            (*steps[:-1], "price"),
            "a price of a model",
            "no `model` beside it",
            "say which model it is the price of",
        )
    if kind == "model_type" and steps and steps[-1] == "price":
        return source.problem(steps, "`free`, or a mapping with `input` and `output`", shown(value), _MEND)
    if kind == "greater_than" and steps and steps[-1] == "amount":
        return source.problem(
            steps,
            f"a number above {error.get('ctx', {}).get('gt')}",
            shown(value),
            "a budget that allows nothing is a revoked key or a removed grant",
        )
    return None


def _pattern(pattern: str, is_key: bool) -> tuple[str, str]:
    if pattern == model.WINDOW:
        return "a window such as `1 day` or `6 hours`", "units are minute, hour, day, week, month"
    if pattern.startswith("^https"):
        return "an https address", "MLflow delivers webhooks to public https addresses alone"
    if pattern.startswith("^[A-Z]"):
        return "the name of a variable such as OPENAI_API_KEY", "put the value into .env, and its name here"
    if pattern.startswith(r"^\$"):
        return "a model's name, or ${NAME} for a setting of .env", "mend the name"
    what = "a name of letters, digits and `_ . -`" if is_key or "/" not in pattern else "a model's name"
    return what, "rename it"


def _fields_at(steps: Steps) -> list[str]:
    if not steps:
        return list(Configuration.model_fields)
    section = str(steps[0])
    item = _ITEMS.get(section) or _LISTS.get(section)
    if item is None or len(steps) < 2:
        return []
    if len(steps) == 2:
        return list(item.model_fields)
    return list({"price": model.Price, "grants": model.Grants}.get(str(steps[2]), BaseModel).model_fields)


_FORM = form.Words(_fields_at, _EXAMPLE, _pattern, _special)


def _partial(source: Source) -> Configuration:
    """What of the file is well-formed by itself, so that the rules can be looked at too."""
    parts: dict[str, Any] = {"version": 1}
    for section, item in _ITEMS.items():
        given = source.data.get(section)
        if isinstance(given, dict):
            parts[section] = {
                name: one for name, entry in given.items() if (one := made(item, entry)) is not None
            }
    for section, item in _LISTS.items():
        given = source.data.get(section)
        if isinstance(given, list):
            # Positions are kept: they lead to the lines.
            parts[section] = [made(item, entry) for entry in given]
    return Configuration.model_construct(**{"providers": {}, "endpoints": {}, **parts})


# The rules


class _Rules:
    """What the form can't say. Entries that are not well-formed count as known names, and are not looked at."""

    def __init__(self, source: Source, configuration: Configuration, variables: Mapping[str, str]) -> None:
        self._source = source
        self._file = configuration
        self._set = variables
        self._names = {
            section: set(given) if isinstance(given := source.data.get(section), dict) else set()
            for section in _ITEMS
        }

    def problems(self) -> Iterator[Problem]:
        yield from self._providers()
        yield from self._models()
        yield from self._endpoints()
        yield from self._budgets()
        yield from self._rates()
        yield from self._guardrails()
        yield from self._people()
        yield from self._webhooks()

    def _problem(self, steps: Steps, expected: str, found: str, remedy: str) -> Problem:
        return self._source.problem(steps, expected, found, remedy)

    def _unknown(self, steps: Steps, section: str, name: str) -> Problem:
        known = sorted(self._names[section])
        what = section.rstrip("s")
        near = difflib.get_close_matches(name, known, n=1)
        if near:
            remedy = f"did you mean `{near[0]}`?"
        else:
            remedy = f"declare it under `{section}`" + (f"; there are: {', '.join(known)}" if known else "")
        return self._problem(
            steps, f"{'an' if what == 'endpoint' else 'a'} {what} of this file", f"`{name}`", remedy
        )

    def _providers(self) -> Iterator[Problem]:
        secrets: dict[str, str] = {}
        for name, provider in self._file.providers.items():
            steps: Steps = ("providers", name)
            needed = desired.credentials_of(provider)
            named = desired.secret_name(name, provider)
            if (first := secrets.setdefault(named, name)) != name:
                yield self._problem(
                    steps,
                    "each secret of MLflow once",
                    f"`{named}`, which {first} has",
                    "give it another `secret_name`",
                )
            if isinstance(provider.price, str):
                try:
                    desired.price_in(desired.filled(provider.price, self._set))
                except desired.BadPrice as error:
                    yield self._problem(
                        (*steps, "price"),
                        f"{provider.price} to be `free` or INPUT,OUTPUT[,CACHE_READ] in USD per million tokens",
                        f"`{error}`",
                        f"mend {desired.settings_in(provider.price)[0]} in .env",
                    )
            if provider.secret and provider.credentials:
                yield self._problem(
                    (*steps, "credentials"),
                    "`secret` or `credentials`",
                    "both",
                    "keep the one that the provider takes",
                )
            if provider.when == "secret set" and not needed:
                yield self._problem(
                    (*steps, "when"),
                    "a `secret` for `when: secret set`",
                    "none",
                    "name its variable, or say `when: always`",
                )
            if provider.when == "always":
                for field_name, variable in needed.items():
                    if not self._set.get(variable):
                        field_steps = ("secret",) if provider.secret else ("credentials", field_name)
                        yield self._problem(
                            (*steps, *field_steps),
                            f"the secret {variable} to be set",
                            "that it is not",
                            f"put {variable}=… into .env, or say `when: secret set`",
                        )
            yield from self._base_url(steps, provider, list(needed.values()))

    def _base_url(self, steps: Steps, provider: model.Provider, secrets: list[str]) -> Iterator[Problem]:
        if not provider.base_url:
            return
        steps = (*steps, "base_url")
        settings = desired.settings_in(provider.base_url)
        unset = [name for name in settings if not self._set.get(name)]
        if unset:
            given = [name for name in secrets if self._set.get(name)]
            if provider.when == "always" or given:
                yield self._problem(
                    steps,
                    f"{' and '.join([*settings, *secrets])} together",
                    f"only {', '.join(given)}" if given else "none",
                    f"set {', '.join(unset)} in .env",
                )
            return
        if settings and secrets and provider.when == "secret set" and not any(map(self._set.get, secrets)):
            yield self._problem(
                steps,
                f"{' and '.join([*settings, *secrets])} together",
                f"only {', '.join(settings)}",
                f"set {', '.join(secrets)} in .env (any word where the server asks for no key)",
            )
        url = urlparse(desired.filled(provider.base_url, self._set))
        if url.scheme not in ("http", "https") or not url.hostname:
            yield self._problem(
                steps,
                "an http or https address",
                shown(url.geturl()),
                "write it like https://models.example.com/v1",
            )
            return
        own = {_host_and_port(self._set[name]) for name in OWN_UPSTREAMS if self._set.get(name)}
        if _host_and_port(url.geturl()) not in own and (url.scheme == "http" or _is_private(url.hostname)):
            yield self._problem(
                steps,
                "a public https address",
                shown(url.geturl()),
                "a server of your own is named by LLM_BASE_URL in .env, and by ${LLM_BASE_URL} here",
            )

    def _models(self) -> Iterator[Problem]:
        for name, entry in self._file.models.items():
            if entry.provider not in self._names["providers"]:
                yield self._unknown(("models", name, "provider"), "providers", entry.provider)
        first: dict[tuple[str, str], desired.DeclaredPrice] = {}
        for price in desired.prices_of(self._file):
            known = first.setdefault(price.kind_and_model, price)
            if known.entry != price.entry:
                yield self._problem(
                    ("models", price.name, "price"),
                    f"one price of {'/'.join(price.kind_and_model)}",
                    f"another one than at `{known.name}`",
                    "MLflow keeps prices by protocol and model: give both the same",
                )

    def _endpoints(self) -> Iterator[Problem]:
        for name, why in STACK_ENDPOINTS.items():
            if name not in self._names["endpoints"] and "endpoints" in self._source.data:
                yield self._problem(("endpoints",), f"an endpoint `{name}`", "none", f"declare it: {why}")
        resolver = desired.Resolver(self._file, self._set) if self._resolvable() else None
        for name, endpoint in self._file.endpoints.items():
            steps: Steps = ("endpoints", name)
            references = list(self._references(steps, endpoint))
            yield from references
            yield from self._shape(steps, endpoint)
            if resolver is None or any(found.path.startswith(f"endpoints.{name}.") for found in references):
                continue
            yield from self._resolved(steps, name, endpoint, resolver)

    def _resolvable(self) -> bool:
        """Whether models can be found: with a provider or model that is not well-formed, endpoints can't be judged."""
        return (
            set(self._file.providers) == self._names["providers"]
            and set(self._file.models) == self._names["models"]
            and set(self._file.endpoints) == self._names["endpoints"]
            and all(entry.provider in self._file.providers for entry in self._file.models.values())
        )

    def _references(self, steps: Steps, endpoint: model.Endpoint) -> Iterator[Problem]:
        given = self._source.data["endpoints"][steps[1]].get("model")
        for index, reference in enumerate(endpoint.model or []):
            if not desired.settings_in(reference) and reference not in self._names["models"]:
                place = (*steps, "model", index) if isinstance(given, list) else (*steps, "model")
                yield self._unknown(place, "models", reference)
        for reference in endpoint.split or {}:
            if reference not in self._names["models"]:
                yield self._unknown((*steps, "split", reference), "models", reference)
        for index, reference in enumerate(endpoint.fallbacks or []):
            if reference not in self._names["models"] | self._names["endpoints"]:
                yield self._unknown((*steps, "fallbacks", index), "models", reference)

    def _shape(self, steps: Steps, endpoint: model.Endpoint) -> Iterator[Problem]:
        if (endpoint.model is None) == (endpoint.split is None):
            found = "both" if endpoint.model else "neither: an endpoint without a model"
            yield self._problem(steps, "`model` or `split`", found, "name the model that answers")
        fallbacks = endpoint.fallbacks or []
        for index, reference in enumerate(fallbacks):
            own = endpoint.model == [reference] or (
                reference == steps[1] and reference not in self._names["models"]
            )
            if own:
                yield self._problem(
                    (*steps, "fallbacks", index),
                    "another model than the first",
                    f"`{reference}` again: a cyclic fallback",
                    "name another, or remove it",
                )
            elif reference in fallbacks[:index]:
                yield self._problem(
                    (*steps, "fallbacks", index),
                    "each fallback once",
                    f"`{reference}` a second time",
                    "remove it",
                )
        if endpoint.max_attempts is not None and not fallbacks:
            yield self._problem(
                (*steps, "max_attempts"),
                "`fallbacks` that it counts",
                "none",
                "name fallbacks, or remove max_attempts",
            )

    def _resolved(
        self, steps: Steps, name: str, endpoint: model.Endpoint, resolver: desired.Resolver
    ) -> Iterator[Problem]:
        try:
            if not resolver.primaries(endpoint) and (endpoint.model or endpoint.split):
                yield self._problem(
                    (*steps, "model" if endpoint.model else "split"),
                    "a model whose provider is there",
                    f"none: an endpoint without a model (providers with a key: {', '.join(resolver.there) or 'none'})",
                    self._how_to_serve(endpoint),
                )
            resolver.fallbacks(name)
        except desired.NoSuchModel as error:
            yield self._problem(
                (*steps, "model"),
                f"{error.setting} to begin with a provider that has a key ({', '.join(error.there) or 'none has'})",
                f"`{error.value}`",
                f"mend {error.setting} in .env",
            )
        except desired.Cycle as error:
            # Told once, at the first endpoint of the circle; one that falls back to itself is told where it says so.
            if len(error.way) > 2 and name == next(one for one in self._file.endpoints if one in error.way):
                yield self._problem(
                    (*steps, "fallbacks"),
                    "fallbacks that end",
                    f"a cyclic fallback: {error}",
                    "take one of them out, or name models instead of endpoints",
                )

    def _how_to_serve(self, endpoint: model.Endpoint) -> str:
        settings = [name for reference in endpoint.model or [] for name in desired.settings_in(reference)]
        if desired.available(self._file.providers, self._set) and settings:
            return f"set {settings[-1]}=<provider>/<model> in .env"
        secrets = [
            variable
            for provider in self._file.providers.values()
            if provider.when == "secret set"
            for variable in desired.credentials_of(provider).values()
        ]
        return (
            f"set one of {', '.join(secrets)} in .env"
            if secrets
            else "name a model of a provider that is there"
        )

    def _budgets(self) -> Iterator[Problem]:
        seen: dict[tuple[object, ...], int] = {}
        for index, budget in enumerate(self._file.budgets):
            if budget is None:
                continue
            steps: Steps = ("budgets", index)
            if budget.scope == "global" and budget.target:
                yield self._problem(
                    (*steps, "target"), "no target for scope `global`", f"`{budget.target}`", "remove it"
                )
            if budget.scope != "global" and not budget.target:
                yield self._problem(steps, f"a `target`: the {budget.scope}'s name", "none", "add `target:`")
            if budget.scope == "endpoint" and budget.target and budget.target not in self._names["endpoints"]:
                yield self._unknown((*steps, "target"), "endpoints", budget.target)
            if budget.scope == "user" and budget.target and self._is_unknown_user(budget.target):
                yield self._unknown((*steps, "target"), "users", budget.target)
            key = (budget.scope, budget.target, *desired.window_of(budget.window), budget.action)
            if key in seen:
                line, _ = self._source.places[("budgets", seen[key])]
                yield self._problem(
                    steps,
                    "each budget once",
                    f"the scope, target, window and action of line {line}",
                    "merge the two",
                )
            seen.setdefault(key, index)

    def _is_unknown_user(self, name: str) -> bool:
        return self._file.users is not None and name not in self._names["users"] | {"admin", "agent", "judge"}

    def _rates(self) -> Iterator[Problem]:
        counted = Counter(
            [
                *((rate.scope, rate.target) for rate in self._file.rate_limits if rate is not None),
                *(
                    ("key", name)
                    for name, key in self._file.keys.items()
                    if key.requests_per_minute or key.tokens_per_minute
                ),
            ]
        )
        for index, rate in enumerate(self._file.rate_limits):
            if rate is None:
                continue
            steps: Steps = ("rate_limits", index)
            if rate.scope == "endpoint" and rate.target not in self._names["endpoints"]:
                yield self._unknown((*steps, "target"), "endpoints", rate.target)
            if rate.scope == "user" and self._is_unknown_user(rate.target):
                yield self._unknown((*steps, "target"), "users", rate.target)
            if rate.requests_per_minute is None and rate.tokens_per_minute is None:
                yield self._problem(
                    steps,
                    "`requests_per_minute` or `tokens_per_minute`",
                    "neither",
                    "say how many, or remove the limit",
                )
            if counted[rate.scope, rate.target] > 1:
                yield self._problem(
                    steps,
                    f"one limit of {rate.scope} `{rate.target}`",
                    "several",
                    "merge them (a key's may stand under `keys`)",
                )

    def _guardrails(self) -> Iterator[Problem]:
        for name, rail in self._file.guardrails.items():
            steps: Steps = ("guardrails", name)
            for index, endpoint in enumerate(rail.endpoints):
                if endpoint not in self._names["endpoints"]:
                    yield self._unknown((*steps, "endpoints", index), "endpoints", endpoint)
            known = guardrails.SCORERS.get(rail.scorer)
            if known is None:
                why = guardrails.UNUSABLE.get(rail.scorer, "")
                yield self._problem(
                    (*steps, "scorer"),
                    "a scorer that can guard a call",
                    f"`{rail.scorer}`" + (f": {why}" if why else ""),
                    f"take one of {', '.join(guardrails.SCORERS)}",
                )
                continue
            if rail.action not in known.actions:
                yield self._problem(
                    (*steps, "action"),
                    f"{' or '.join(known.actions)} for {rail.scorer}, which judges the whole and finds no place to mask",
                    f"`{rail.action}`",
                    "take validation, or mask by PIIDetection or SecretDetection",
                )
            yield from self._judge(steps, rail, known)

    def _judge(self, steps: Steps, rail: model.Guardrail, known: guardrails.Scorer) -> Iterator[Problem]:
        if rail.model and not known.judges:
            yield self._problem(
                (*steps, "model"),
                f"no `model` for {rail.scorer}, which asks none",
                f"`{rail.model}`",
                "remove it",
            )
        if rail.instructions and not known.instructed:
            yield self._problem(
                (*steps, "instructions"),
                f"no `instructions` for {rail.scorer}",
                "some",
                "remove them, or take Judge",
            )
        if known.instructed:
            yield from self._instructions(steps, rail)
        if not known.judges:
            return
        decides = rail.model or guardrails.DEFAULT_MODEL
        if decides not in self._names["endpoints"]:
            yield self._unknown((*steps, "model"), "endpoints", decides)
        elif decides in rail.endpoints:
            yield self._problem(
                (*steps, "model"),
                "another endpoint to decide than those it guards",
                f"`{decides}`: each look would ask for another look, without end",
                "name an endpoint for judges that is not guarded by one",
            )

    def _instructions(self, steps: Steps, rail: model.Guardrail) -> Iterator[Problem]:
        asked = set(_PLACEHOLDER.findall(rail.instructions or ""))
        fitting = {"inputs"} if rail.stage == "before" else {"inputs", "outputs"}
        if not asked or asked - fitting:
            wanted = " or ".join(f"{{{{ {name} }}}}" for name in sorted(fitting))
            found = ", ".join(f"{{{{ {name} }}}}" for name in sorted(asked)) or "no such place in them"
            yield self._problem(
                (*steps, "instructions") if rail.instructions else steps,
                f"`instructions` that ask for {wanted} at the stage `{rail.stage}`",
                found,
                "write them like: Answer true if {{ inputs }} is about the project, else false.",
            )

    def _people(self) -> Iterator[Problem]:
        for name, user in (self._file.users or {}).items():
            if name == "admin":
                yield self._problem(
                    ("users", name),
                    "users with grants",
                    "the administrator, who may do everything",
                    "remove it",
                )
            for index, endpoint in enumerate(user.grants.endpoints):
                if endpoint not in self._names["endpoints"]:
                    yield self._unknown(("users", name, "grants", "endpoints", index), "endpoints", endpoint)
        for name, key in self._file.keys.items():
            if self._is_unknown_user(key.user):
                yield self._unknown(("keys", name, "user"), "users", key.user)
            for index, endpoint in enumerate(key.endpoints or []):
                if endpoint not in self._names["endpoints"]:
                    yield self._unknown(("keys", name, "endpoints", index), "endpoints", endpoint)

    def _webhooks(self) -> Iterator[Problem]:
        for name, hook in self._file.webhooks.items():
            if hook.secret and hook.secret != KEPT and not self._set.get(hook.secret):
                yield self._problem(
                    ("webhooks", name, "secret"),
                    f"the secret {hook.secret} to be set",
                    "that it is not",
                    f"put {hook.secret}=… into .env",
                )


def _notes(configuration: Configuration, variables: Mapping[str, str]) -> Iterator[str]:
    there = desired.available(configuration.providers, variables)
    without = [
        name
        for name, provider in configuration.providers.items()
        if name not in there and provider.when == "secret set"
    ]
    if without:
        yield f"not there, for want of a key: {', '.join(without)}"
    for name, provider in configuration.providers.items():
        if provider.secret == KEPT:
            yield f"provider {name}: its key is the one in the gateway, and is not looked at"


def _host_and_port(url: str) -> tuple[str | None, int]:
    parts = urlparse(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _is_private(host: str) -> bool:
    if re.fullmatch(r"localhost|.*\.(local|internal|localhost)", host):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        # A name: what it resolves to is the gateway's own to look at, at every call.
        return False
