"""Write a plan, change by change, in its order.

MLflow's REST API has no transaction over several objects. So everything that can be checked is checked before the first
request that writes; each change is whole in itself; and a change that is refused stops the rest, which the next apply
finds and makes: what was done is seen to agree by then.
"""

from collections.abc import Callable, Iterable
from typing import Any

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
from paddock_mlflow.config.errors import Conflict, Incomplete, Refused
from paddock_mlflow.config.model import KINDS_OF_TOKENS
from paddock_mlflow.config.plan import Change, Plan, plan, shares_of
from paddock_mlflow.config.state import (
    BUDGET_EVENT,
    GATEWAY,
    PADDOCK,
    PERMISSIONS,
    USERS,
    WEBHOOKS,
    Api,
    State,
    read,
)

Told = Callable[[Change], None]

AGENT = "agent"
"""The user of the stack's agents."""
STACK_KEY = "pk_stack"
"""As `paddock_mlflow.keys` names it, which the command line can't import."""


def compare(api: Api, desired: Desired) -> tuple[State, Plan]:
    """What the server has, and what would change.

    Raises:
        Refused: the server refused to be read, or did not answer.
    """
    people = desired.users is not None
    keys = bool(desired.keys) or any(rate.scope == "key" for rate in desired.rates)
    state = read(api, people=people, keys=keys)
    return state, plan(desired, state)


def require_possible(planned: Plan) -> None:
    """Raises:
    Conflict: the plan holds something that no apply can mend.
    """
    if planned.conflicts:
        raise Conflict("\n".join(planned.conflicts))


def apply(
    api: Api, state: State, planned: Plan, *, prune: bool = False, told: Told = lambda change: None
) -> list[Change]:
    """Make the changes of a plan, and its deletions where `prune`; returns them.

    Args:
        api: the connection that the plan was made over.
        state: what the plan was made from.
        planned: the plan.
        prune: delete what the file does not name, too.
        told: called after each change.

    Raises:
        Conflict: nothing was written.
        Incomplete: a change was refused; says what was done, and what not.
    """
    require_possible(planned)
    todo = [*planned.changes, *(planned.unmanaged if prune else ())]
    writer = _Writer(api, state)
    done: list[Change] = []
    for change in todo:
        try:
            writer.write(change)
        except Refused as error:
            left = [one.text() for one in todo[len(done) + 1 :]]
            raise Incomplete([one.text() for one in done], change.text(), left, error) from error
        done.append(change)
        told(change)
    return done


class _Writer:
    """One request a change, or two. Knows the ids of what was there and of what it made."""

    def __init__(self, api: Api, state: State) -> None:
        self._api = api
        self._state = state
        self._ids: dict[tuple[str, str], str] = {
            **{("secret", one.name): one.id for one in state.secrets.values()},
            **{("model", one.name): one.id for one in state.models.values()},
            **{("endpoint", one.name): one.id for one in state.endpoints.values()},
            **{("experiment", name): identifier for name, identifier in state.experiments.items()},
        }

    def write(self, change: Change) -> None:
        step: Callable[[Change], None] = getattr(
            self, f"_{change.verb}_{change.kind.replace(' ', '_')}", None
        ) or getattr(self, f"_write_{change.kind.replace(' ', '_')}")
        step(change)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._api.call("POST", path, json=body)

    # Prices

    def _write_price(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, PriceEntry)
        amounts = {
            kind: None if (amount := getattr(entry, kind)) is None else str(amount)
            for kind in KINDS_OF_TOKENS
        }
        self._api.call("PUT", f"{PADDOCK}/prices", json={"kind": entry.kind, "model": entry.model, **amounts})

    def _delete_price(self, change: Change) -> None:
        assert isinstance(change.entry, PriceEntry)
        query = {"kind": change.entry.kind, "model": change.entry.model}
        self._api.call("DELETE", f"{PADDOCK}/prices", params=query)

    # Providers: MLflow's secrets

    def _create_provider(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, SecretEntry)
        body = {
            "secret_name": entry.name,
            "secret_value": dict(entry.credentials or {}),
            "provider": entry.kind,
            "auth_config": dict(entry.auth),
        }
        made = self._post(f"{GATEWAY}/secrets/create", body)
        self._ids["secret", entry.name] = made["secret"]["secret_id"]

    def _update_provider(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, SecretEntry)
        # A map without entries means "as it was" to MLflow; one with a blank address clears it.
        body: dict[str, Any] = {"secret_id": change.id, "auth_config": dict(entry.auth) or {"api_base": ""}}
        if any(one.field.startswith("secret ") for one in change.differences):
            body["secret_value"] = dict(entry.credentials or {})
        self._post(f"{GATEWAY}/secrets/update", body)

    def _delete_provider(self, change: Change) -> None:
        self._api.call("DELETE", f"{GATEWAY}/secrets/delete", json={"secret_id": change.id})

    # Models

    def _write_model(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, ModelEntry)
        body = {
            "name": entry.name,
            "secret_id": self._ids["secret", entry.secret],
            "provider": entry.kind,
            "model_name": entry.model,
        }
        if change.id:
            self._post(f"{GATEWAY}/model-definitions/update", {"model_definition_id": change.id, **body})
            return
        made = self._post(f"{GATEWAY}/model-definitions/create", body)
        self._ids["model", entry.name] = made["model_definition"]["model_definition_id"]

    def _delete_model(self, change: Change) -> None:
        body = {"model_definition_id": change.id}
        self._api.call("DELETE", f"{GATEWAY}/model-definitions/delete", json=body)

    # Endpoints

    def _write_endpoint(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, EndpointEntry)
        body = {"name": entry.name, **self._routing(entry)}
        if change.id:
            self._post(f"{GATEWAY}/endpoints/update", {"endpoint_id": change.id, **body})
            return
        made = self._post(f"{GATEWAY}/endpoints/create", body)
        self._ids["endpoint", entry.name] = made["endpoint"]["endpoint_id"]

    _delete_fallbacks = _write_endpoint

    def _routing(self, entry: EndpointEntry) -> dict[str, Any]:
        shares = shares_of(dict(entry.primaries))
        links: list[dict[str, Any]] = [
            {
                "model_definition_id": self._ids["model", name],
                "linkage_type": "PRIMARY",
                "weight": share if len(shares) > 1 else 1.0,
            }
            for name, share in shares.items()
        ]
        links += [
            {
                "model_definition_id": self._ids["model", name],
                "linkage_type": "FALLBACK",
                "weight": 1.0,
                "fallback_order": order,
            }
            for order, name in enumerate(entry.fallbacks or ())
        ]
        routing: dict[str, Any] = {"model_configs": links, "usage_tracking": entry.usage_tracking}
        if len(shares) > 1:
            routing["routing_strategy"] = "REQUEST_BASED_TRAFFIC_SPLIT"
        if entry.fallbacks:
            attempts = {"max_attempts": entry.max_attempts} if entry.max_attempts else {}
            routing["fallback_config"] = {"strategy": "SEQUENTIAL", **attempts}
        return routing

    def _delete_endpoint(self, change: Change) -> None:
        self._api.call("DELETE", f"{GATEWAY}/endpoints/delete", json={"endpoint_id": change.id})

    # Guardrails

    def _write_guardrail(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, GuardrailEntry)
        body = {
            "name": entry.name,
            "scorer": entry.scorer,
            "stage": entry.stage,
            "action": entry.action,
            "endpoints": list(entry.endpoints),
            "instructions": entry.instructions,
            "model": entry.model,
            "order": entry.order,
        }
        self._api.call("PUT", f"{PADDOCK}/guardrails", json=body)

    def _delete_guardrail(self, change: Change) -> None:
        self._api.call("DELETE", f"{PADDOCK}/guardrails/{change.id}")

    # Users

    def _create_user(self, change: Change) -> None:
        import secrets

        # Nobody knows it: a person gets one of an administrator, a program has a key.
        self._post(f"{USERS}/create", {"username": change.name, "password": secrets.token_urlsafe(32)})

    def _delete_user(self, change: Change) -> None:
        self._api.call("DELETE", f"{USERS}/delete", json={"username": change.name})

    def _write_grant(self, change: Change) -> None:
        for user, kind, resource, permission in self._grants(change):
            body = {
                "username": user,
                "resource_type": kind,
                "resource_id": resource,
                "permission": permission,
            }
            self._post(f"{PERMISSIONS}/grant", body)
            if user == AGENT and kind == "gateway_endpoint":
                self._open_to_agents(change)

    def _open_to_agents(self, change: Change) -> None:
        """The stack's own key, with which agents come, opens what their user is granted."""
        assert isinstance(change.entry, UserEntry)
        try:
            opens = self._api.call("GET", f"{PADDOCK}/keys/{STACK_KEY}")["endpoints"]
        except Refused as error:
            # The set-up of a new stack makes it after this.
            if error.status == 404:
                return
            raise
        titles = {title for _, title, _ in change.entry.grants}
        if not titles <= set(opens):
            body = {"endpoints": [*opens, *sorted(titles - set(opens))]}
            self._api.call("PATCH", f"{PADDOCK}/keys/{STACK_KEY}", json=body)

    def _delete_grant(self, change: Change) -> None:
        for user, kind, resource, _ in self._grants(change):
            self._post(
                f"{PERMISSIONS}/revoke", {"username": user, "resource_type": kind, "resource_id": resource}
            )

    def _grants(self, change: Change) -> Iterable[tuple[str, str, str, str]]:
        entry = change.entry
        assert isinstance(entry, UserEntry)
        for kind, title, permission in entry.grants:
            thing = "endpoint" if kind == "gateway_endpoint" else kind
            yield entry.name, kind, self._ids[thing, title], permission

    # Keys and limits

    def _update_key(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, KeyEntry)
        self._api.call(
            "PATCH", f"{PADDOCK}/keys/{change.id}", json={"endpoints": list(entry.endpoints or ())}
        )

    def _write_rate_limit(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, RateEntry)
        target = self._ids["endpoint", entry.target] if entry.scope == "endpoint" else entry.target
        body = {
            "scope": entry.scope,
            "target": target,
            "requests_per_minute": entry.requests_per_minute,
            "tokens_per_minute": entry.tokens_per_minute,
        }
        self._api.call("PUT", f"{PADDOCK}/limits", json=body)

    def _delete_rate_limit(self, change: Change) -> None:
        self._api.call("DELETE", f"{PADDOCK}/limits/{change.id}")

    # Budgets

    def _create_budget(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, BudgetEntry)
        body = {
            "budget_unit": "USD",
            "budget_amount": float(entry.amount),
            "duration": {"unit": entry.unit, "value": entry.count},
            "target_scope": entry.scope.upper(),
            "budget_action": entry.action.upper(),
        }
        if entry.scope != "global":
            body["target_value"] = (
                self._ids["endpoint", entry.target] if entry.scope == "endpoint" else entry.target
            )
        self._post(f"{GATEWAY}/budgets/create", body)

    def _update_budget(self, change: Change) -> None:
        assert isinstance(change.entry, BudgetEntry)
        body = {"budget_policy_id": change.id, "budget_amount": float(change.entry.amount)}
        self._post(f"{GATEWAY}/budgets/update", body)

    def _delete_budget(self, change: Change) -> None:
        self._api.call("DELETE", f"{GATEWAY}/budgets/delete", json={"budget_policy_id": change.id})

    # Webhooks

    def _write_webhook(self, change: Change) -> None:
        entry = change.entry
        assert isinstance(entry, WebhookEntry)
        body: dict[str, Any] = {"name": entry.name, "url": entry.url, "events": [BUDGET_EVENT]}
        if entry.secret:
            body["secret"] = entry.secret
        if change.id:
            self._api.call("PATCH", f"{WEBHOOKS}/{change.id}", json=body)
        else:
            self._post(WEBHOOKS, body)

    def _delete_webhook(self, change: Change) -> None:
        self._api.call("DELETE", f"{WEBHOOKS}/{change.id}")
