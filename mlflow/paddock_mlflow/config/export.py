"""What a server has, as a file: one that is valid, and from which a plan has nothing to change.

Made by hand rather than by a YAML library: the parts are few, and people read the result. Secrets are named, never shown.
"""

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, get_args

from paddock_mlflow.config import fingerprints
from paddock_mlflow.config.desired import credentials_of
from paddock_mlflow.config.model import KEPT, KINDS_OF_TOKENS, Configuration, Kind
from paddock_mlflow.config.plan import STACK_USERS, shares_of
from paddock_mlflow.config.state import SecretState, State
from paddock_mlflow.config.validation import OWN_UPSTREAMS

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*( [A-Za-z0-9_.-]+)*")
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_HEADER = """\
# yaml-language-server: $schema=gateway.schema.json
#
# What the gateway had when this was written: ./paddock config export
version: 1
"""


def export(state: State, known: Configuration | None, variables: Mapping[str, str]) -> str:
    """The file's text.

    Args:
        state: what the server has, people and keys included.
        known: the file in use, for the names of the variables that hold secrets; None where there is none.
        variables: settings and secrets by the names of .env.
    """
    sections = (
        ("providers", _providers(state, known, variables)),
        ("models", _models(state)),
        ("endpoints", _endpoints(state)),
        ("budgets", _budgets(state)),
        ("rate_limits", _rates(state)),
        ("guardrails", _guardrails(state)),
        ("users", _users(state)),
        ("webhooks", _webhooks(state, known, variables)),
    )
    return _HEADER + "".join(_section(name, content) for name, content in sections if content)


def _providers(
    state: State, known: Configuration | None, variables: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for secret in state.secrets.values():
        name = _provider(secret.name, state)
        entry: dict[str, Any] = {"kind": secret.kind, **_credentials(name, secret, state, known, variables)}
        if secret.name != f"{name}-key":
            entry["secret_name"] = secret.name
        auth = dict(secret.auth)
        if base := auth.pop("api_base", ""):
            own = next((one for one in OWN_UPSTREAMS if variables.get(one) == base), None)
            entry["base_url"] = f"${{{own}}}" if own else base
        if auth:
            entry["options"] = auth
        found[name] = entry
    return found


def _credentials(
    name: str, secret: SecretState, state: State, known: Configuration | None, variables: Mapping[str, str]
) -> dict[str, Any]:
    """The variables that hold just what the gateway has; where there are none, that the gateway keeps it."""
    provider = known.providers.get(name) if known else None
    guess = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_") + "_API_KEY"
    for needed in (credentials_of(provider) if provider else {}, {"api_key": guess}):
        values = {field: variables.get(variable, "") for field, variable in needed.items()}
        if values and all(values.values()) and fingerprints.of(state.salt, values) == secret.fingerprint:
            return {"secret": needed["api_key"]} if set(needed) == {"api_key"} else {"credentials": needed}
    if fingerprints.of(state.salt, {"api_key": "none"}) == secret.fingerprint:
        return {}
    return {"secret": KEPT}


def _provider(secret: str, state: State) -> str:
    """The name of the provider whose key a secret is: the secret's own, as far as it can be one and is not taken."""
    names: dict[str, str] = {}
    # The stack's own names first: they say what the provider is called.
    for one in sorted(state.secrets, key=lambda name: not name.endswith("-key")):
        wanted = re.sub(r"[^A-Za-z0-9_.-]+", "-", one.removesuffix("-key")).lstrip("_.-") or "provider"
        while wanted in names.values():
            wanted += "-2"
        names[one] = wanted
    return names[secret]


def _models(state: State) -> dict[str, dict[str, Any]]:
    found = {}
    for model in state.models.values():
        if not model.secret:
            continue
        entry: dict[str, Any] = {"provider": _provider(model.secret, state), "model": model.model}
        price = state.prices.get((model.kind, model.model))
        if price is not None:
            amounts = {
                kind: amount for kind in KINDS_OF_TOKENS if (amount := getattr(price, kind)) is not None
            }
            entry["price"] = "free" if amounts == {"input": 0, "output": 0} else amounts
        found[model.name] = entry
    return found


def _endpoints(state: State) -> dict[str, dict[str, Any]]:
    found = {}
    for endpoint in state.endpoints.values():
        entry: dict[str, Any] = {}
        if len(endpoint.primaries) > 1:
            shares = shares_of(dict(endpoint.primaries))
            entry["split"] = {name: max(1, round(share * 100)) for name, share in shares.items()}
        else:
            entry["model"] = endpoint.primaries[0][0]
        if endpoint.fallbacks:
            entry["fallbacks"] = list(endpoint.fallbacks)
            if endpoint.max_attempts:
                entry["max_attempts"] = endpoint.max_attempts
        entry["usage_tracking"] = endpoint.usage_tracking
        found[endpoint.name] = entry
    return found


def _budgets(state: State) -> list[dict[str, Any]]:
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for policy in state.budgets:
        entry = policy.entry
        if entry.scope not in ("global", "endpoint", "user"):
            continue
        # Of several alike the smallest counts: it is the one that acts.
        if entry.key in found and found[entry.key]["amount"] <= entry.amount:
            continue
        unit = entry.unit.lower().removesuffix("s") + ("s" if entry.count > 1 else "")
        found[entry.key] = {
            "scope": entry.scope,
            **({"target": entry.target} if entry.target else {}),
            "amount": entry.amount,
            "window": f"{entry.count} {unit}",
            "action": entry.action,
        }
    return list(found.values())


def _rates(state: State) -> list[dict[str, Any]]:
    return [
        {
            "scope": rate.scope,
            "target": rate.target,
            **({"requests_per_minute": rate.requests_per_minute} if rate.requests_per_minute else {}),
            **({"tokens_per_minute": rate.tokens_per_minute} if rate.tokens_per_minute else {}),
        }
        for rate in state.rates
        if rate.scope != "endpoint" or rate.target in state.endpoints
    ]


def _guardrails(state: State) -> dict[str, dict[str, Any]]:
    return {
        rail.name: {
            "scorer": rail.scorer,
            "stage": rail.stage,
            "action": rail.action,
            "endpoints": list(rail.endpoints),
            **({"instructions": rail.instructions} if rail.instructions else {}),
            **({"model": rail.model} if rail.model else {}),
        }
        for rail in state.guardrails
        if rail.scorer and rail.endpoints
    }


def _users(state: State) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, grants in sorted(state.users.items()):
        if name in STACK_USERS:
            continue
        endpoints = sorted(
            title for kind, title, rank in grants if kind == "gateway_endpoint" and rank == "USE"
        )
        experiments = {title: rank for kind, title, rank in sorted(grants) if kind == "experiment"}
        listed: dict[str, Any] = {"endpoints": endpoints} if endpoints else {}
        if experiments:
            listed["experiments"] = experiments
        found[name] = {"grants": listed}
    return found


def _webhooks(
    state: State, known: Configuration | None, variables: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for hook in state.webhooks.values():
        found[hook.name] = {"url": hook.url}
        if hook.fingerprint:
            declared = known.webhooks.get(hook.name) if known else None
            variable = (declared.secret if declared else None) or KEPT
            value = variables.get(variable, "")
            fits = bool(value) and fingerprints.of(state.salt, value) == hook.fingerprint
            found[hook.name]["secret"] = variable if fits else KEPT
    return found


def _section(name: str, content: Mapping[str, Any] | list[Any]) -> str:
    if isinstance(content, list):
        lines = [f"  - {_flow(item)}" for item in content]
    else:
        lines = [f"  {_flow(key)}: {_flow(item)}" for key, item in content.items()]
    return "\n".join(["", f"{name}:", *lines, ""])


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, int):
        return str(value)
    plain = _PLAIN.fullmatch(value) and value.lower() not in _RESERVED
    # YAML takes JSON's strings as they are.
    return value if plain else json.dumps(value, ensure_ascii=False)


def unexportable(state: State) -> Iterator[str]:
    """What the server has and a file can't say, in words."""
    for policy in state.budgets:
        if policy.entry.scope not in ("global", "endpoint", "user"):
            yield f"a budget of scope {policy.entry.scope}: declare it as global, endpoint or user"
    for rail in state.guardrails:
        if not rail.scorer:
            yield f"guardrail {rail.name}: its scorer is none that a file can name"
    for secret in state.secrets.values():
        if secret.kind not in get_args(Kind):
            yield f"secret {secret.name}: its kind {secret.kind or '(none)'} is none that a file can name; so its models"
    for model in state.models.values():
        if not model.secret:
            yield f"model {model.name}: it has lost its provider; delete it, or give it one in the UI"
