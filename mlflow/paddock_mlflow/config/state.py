"""What a server has, read over MLflow's REST API and our own beside it. Reading changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from paddock_mlflow.config import fingerprints
from paddock_mlflow.config.desired import BudgetEntry, PriceEntry
from paddock_mlflow.config.model import KINDS_OF_TOKENS

GATEWAY = "/api/3.0/mlflow/gateway"
PADDOCK = "/api/3.0/paddock"
USERS = "/api/2.0/mlflow/users"
PERMISSIONS = "/api/3.0/mlflow/users/permissions"
WEBHOOKS = "/api/2.0/mlflow/webhooks"
EXPERIMENTS = "/api/2.0/mlflow/experiments"
BUDGET_EVENT = {"entity": "BUDGET_POLICY", "action": "EXCEEDED"}


class Api(Protocol):
    """A connection to the server as its administrator."""

    def call(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request; the JSON answer. Raises `errors.Refused` for every status from 400 on, and where none comes."""


@dataclass(frozen=True)
class SecretState:
    id: str
    name: str
    kind: str
    fields: tuple[str, ...]
    auth: Mapping[str, str] = field(hash=False)
    fingerprint: str
    """Empty where the server itself can't read it."""


@dataclass(frozen=True)
class ModelState:
    id: str
    name: str
    secret: str
    kind: str
    model: str


@dataclass(frozen=True)
class EndpointState:
    """Models by their names."""

    id: str
    name: str
    primaries: tuple[tuple[str, float], ...]
    fallbacks: tuple[str, ...]
    max_attempts: int | None
    usage_tracking: bool


@dataclass(frozen=True)
class BudgetState:
    """`entry.target` is the endpoint's name, not its id."""

    id: str
    entry: BudgetEntry


@dataclass(frozen=True)
class RateState:
    id: str
    scope: str
    target: str
    """A name of an endpoint or user; of a key its id."""
    requests_per_minute: int | None
    tokens_per_minute: int | None


@dataclass(frozen=True)
class GuardrailState:
    """`scorer`, `instructions` and `model` are empty where the scorer is none of those that a file can name."""

    id: str
    name: str
    scorer: str
    stage: str
    action: str
    endpoints: tuple[str, ...]
    instructions: str = ""
    model: str = ""


@dataclass(frozen=True)
class KeyState:
    id: str
    name: str
    user: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True)
class WebhookState:
    id: str
    name: str
    url: str
    fingerprint: str
    """Empty where it signs nothing."""


@dataclass
class State:
    """Everything, by name. `salt` is what its fingerprints were made with."""

    salt: str
    default_passphrase: bool
    secrets: dict[str, SecretState] = field(default_factory=dict)
    models: dict[str, ModelState] = field(default_factory=dict)
    endpoints: dict[str, EndpointState] = field(default_factory=dict)
    prices: dict[tuple[str, str], PriceEntry] = field(default_factory=dict)
    budgets: list[BudgetState] = field(default_factory=list)
    rates: list[RateState] = field(default_factory=list)
    guardrails: list[GuardrailState] = field(default_factory=list)
    users: dict[str, frozenset[tuple[str, str, str]]] = field(default_factory=dict)
    """Grants of each user on endpoints and experiments, by name, as in `UserEntry`."""
    keys: list[KeyState] = field(default_factory=list)
    webhooks: dict[str, WebhookState] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    """Id of each experiment by name."""


def read(api: Api, *, people: bool = True, keys: bool = True) -> State:
    """Everything that a file can declare.

    Args:
        people: users with their grants too; a request a user.
        keys: keys too.

    Raises:
        Refused: the server refused a request or did not answer.
    """
    salt = fingerprints.salt()
    hashed = api.call("GET", f"{PADDOCK}/secrets/fingerprints", params={"salt": salt})
    state = State(salt=salt, default_passphrase=bool(hashed["using_default_passphrase"]))
    _secrets(api, state, hashed["secrets"])
    _models(api, state)
    _endpoints(api, state)
    ids = {endpoint.id: endpoint.name for endpoint in state.endpoints.values()}
    state.prices = {
        (row["kind"], row["model"]): PriceEntry(row["kind"], row["model"], *map(_decimal, _money(row)))
        for row in api.call("GET", f"{PADDOCK}/prices")["prices"]
    }
    for policy in _pages(api, "GET", f"{GATEWAY}/budgets/list", "budget_policies"):
        state.budgets.append(_budget(policy, ids))
    for limit in api.call("GET", f"{PADDOCK}/limits")["limits"]:
        target = (
            ids.get(limit["target"], limit["target"]) if limit["scope"] == "endpoint" else limit["target"]
        )
        state.rates.append(
            RateState(
                limit["id"], limit["scope"], target, limit["requests_per_minute"], limit["tokens_per_minute"]
            )
        )
    for rail in api.call("GET", f"{PADDOCK}/guardrails")["guardrails"]:
        state.guardrails.append(GuardrailState(**{**rail, "endpoints": tuple(rail["endpoints"])}))
    _webhooks(api, state, hashed["webhooks"])
    if people:
        _people(api, state, ids)
    if keys:
        for key in api.call("GET", f"{PADDOCK}/keys")["keys"]:
            if not key.get("revoked_at"):
                state.keys.append(
                    KeyState(key["id"], key["name"], key["user"], tuple(sorted(key["endpoints"])))
                )
    return state


def _secrets(api: Api, state: State, hashed: Mapping[str, str]) -> None:
    for secret in api.call("GET", f"{GATEWAY}/secrets/list").get("secrets", []):
        name = secret["secret_name"]
        masked = secret.get("masked_values") or {}
        state.secrets[name] = SecretState(
            id=secret["secret_id"],
            name=name,
            kind=secret.get("provider", ""),
            fields=tuple(sorted(masked)),
            auth={key: str(value) for key, value in (secret.get("auth_config") or {}).items()},
            fingerprint=hashed.get(name) or "",
        )


def _models(api: Api, state: State) -> None:
    for model in api.call("GET", f"{GATEWAY}/model-definitions/list").get("model_definitions", []):
        state.models[model["name"]] = ModelState(
            id=model["model_definition_id"],
            name=model["name"],
            secret=model.get("secret_name", ""),
            kind=model["provider"],
            model=model["model_name"],
        )


def _endpoints(api: Api, state: State) -> None:
    names = {model.id: model.name for model in state.models.values()}
    for endpoint in api.call("GET", f"{GATEWAY}/endpoints/list").get("endpoints", []):
        mappings = endpoint.get("model_mappings", [])
        primaries = [one for one in mappings if one.get("linkage_type") != "FALLBACK"]
        fallbacks = sorted(
            (one for one in mappings if one.get("linkage_type") == "FALLBACK"),
            key=lambda one: one.get("fallback_order", 0),
        )
        attempts = (endpoint.get("fallback_config") or {}).get("max_attempts")
        state.endpoints[endpoint["name"]] = EndpointState(
            id=endpoint["endpoint_id"],
            name=endpoint["name"],
            primaries=tuple(
                (names[one["model_definition_id"]], float(one.get("weight", 1.0))) for one in primaries
            ),
            fallbacks=tuple(names[one["model_definition_id"]] for one in fallbacks),
            max_attempts=attempts if fallbacks else None,
            usage_tracking=bool(endpoint.get("usage_tracking")),
        )


def _budget(policy: Mapping[str, Any], endpoints: Mapping[str, str]) -> BudgetState:
    target = policy.get("target_value", "")
    return BudgetState(
        policy["budget_policy_id"],
        BudgetEntry(
            scope=policy["target_scope"].lower(),
            target=endpoints.get(target, target),
            unit=policy["duration"]["unit"],
            count=int(policy["duration"]["value"]),
            action=policy["budget_action"].lower(),
            amount=Decimal(str(policy["budget_amount"])),
        ),
    )


def _webhooks(api: Api, state: State, hashed: Mapping[str, str]) -> None:
    for hook in _pages(api, "GET", WEBHOOKS, "webhooks"):
        # Those of models and prompts are not the gateway's.
        if BUDGET_EVENT in [
            {"entity": event["entity"], "action": event["action"]} for event in hook.get("events", [])
        ]:
            state.webhooks[hook["name"]] = WebhookState(
                hook["webhook_id"], hook["name"], hook["url"], hashed.get(hook["webhook_id"]) or ""
            )


def _people(api: Api, state: State, endpoints: Mapping[str, str]) -> None:
    for experiment in _pages(api, "POST", f"{EXPERIMENTS}/search", "experiments"):
        state.experiments[experiment["name"]] = experiment["experiment_id"]
    titles = {identifier: name for name, identifier in state.experiments.items()}
    for user in api.call("GET", f"{USERS}/list")["users"]:
        grants = set()
        # Roles that a person holds come from elsewhere; a grant is what stands in the user's own role.
        own = f"__user_{user['id']}__"
        listed = api.call("GET", f"{PERMISSIONS}/list", params={"username": user["username"]})
        for row in listed["permissions"]:
            kind, pattern = row["resource_type"], row["resource_pattern"]
            name = {"gateway_endpoint": endpoints, "experiment": titles}.get(kind, {}).get(pattern)
            if row["role_name"] == own and name is not None:
                grants.add((kind, name, row["permission"]))
        state.users[user["username"]] = frozenset(grants)


def _pages(api: Api, method: str, path: str, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"max_results": 100}
    while True:
        answer = api.call(method, path, **({"params": page} if method == "GET" else {"json": page}))
        found += answer.get(key, [])
        if not (token := answer.get("next_page_token")):
            return found
        page = {**page, "page_token": token}


def _money(row: Mapping[str, Any]) -> list[str | None]:
    return [row[kind] for kind in KINDS_OF_TOKENS]


def _decimal(text: str | None) -> Any:
    return None if text is None else Decimal(text)
