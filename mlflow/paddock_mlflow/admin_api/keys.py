"""Keys: make, list, show, revoke. The text of a key is in the answer to its making, and nowhere else."""

import secrets
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import Connection, case, func, select

from paddock_mlflow import keys
from paddock_mlflow.admin_api import administrator
from paddock_mlflow.database import budget_windows, calls, engine, now
from paddock_mlflow.settings import load

router = APIRouter(prefix="/keys")

PerMinute = Annotated[int, Field(gt=0, le=2_000_000_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$")]
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
HostEntry = Annotated[
    str,
    StringConstraints(
        pattern=rf"^(?:\*\.)?(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?$", max_length=253
    ),
]
"""A host's name, or `*.` and a name: as the egress proxy has it (services/egress/paddock_egress/config/hosts.py)."""
LONGEST_SECONDS = 10 * 366 * 86400


class Budget(BaseModel):
    """USD for a window of `count` units; without a unit, for the key's whole life."""

    model_config = ConfigDict(extra="forbid")

    usd: Annotated[Decimal, Field(gt=0, le=1_000_000, max_digits=16, decimal_places=10)]
    unit: Literal["MINUTES", "HOURS", "DAYS", "WEEKS", "MONTHS"] | None = None
    count: Annotated[int, Field(gt=0, le=10_000)] = 1


class NewKey(BaseModel):
    """What a key is for. `expires_in` is in seconds; no `experiments` means that of the stack, an empty list none."""

    model_config = ConfigDict(extra="forbid")

    user: Name
    endpoints: Annotated[list[str], Field(min_length=1, max_length=100)]
    experiments: Annotated[list[str], Field(max_length=100)] | None = None
    name: Annotated[str, Field(max_length=255)] = ""
    run_id: Annotated[str, Field(max_length=64)] | None = None
    budget: Budget | None = None
    expires_in: Annotated[float, Field(gt=0, le=LONGEST_SECONDS)] | None = None
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    egress_allow: Annotated[list[HostEntry], Field(max_length=100)] = []

    @model_validator(mode="after")
    def _only_runs_go_out(self) -> "NewKey":
        if self.egress_allow and self.run_id is None:
            raise ValueError("egress_allow is for the key of a run: name its run_id")
        return self


class Opens(BaseModel):
    """What a key may call from now on."""

    model_config = ConfigDict(extra="forbid")

    endpoints: Annotated[list[str], Field(min_length=1, max_length=100)]


class StackKey(BaseModel):
    """What the stack's own key opens."""

    model_config = ConfigDict(extra="forbid")

    endpoints: Annotated[list[str], Field(min_length=1)]
    experiments: list[str]


@router.post("")
def create_key(wanted: NewKey, creator: Annotated[str, Depends(administrator)]) -> dict[str, Any]:
    """Make a key, and its user where there is none; grants what is missing, so that MLflow's own rules agree with it.

    400 where an endpoint or experiment does not exist, or the user is an administrator.
    """
    settings = load()
    endpoints = {name: _endpoint_id(name) for name in dict.fromkeys(wanted.endpoints)}
    experiments = [settings.experiment] if wanted.experiments is None else wanted.experiments
    experiment_ids = [_experiment_id(name) for name in dict.fromkeys(experiments)]
    new_user = _ensure_user(wanted.user)
    _grant(wanted.user, endpoints.values(), experiment_ids)
    text, created = keys.generate(), now()
    key = keys.Key(
        id=keys.new_id(),
        username=wanted.user,
        name=wanted.name,
        endpoints=tuple(endpoints),
        experiment_ids=tuple(experiment_ids),
        run_id=wanted.run_id,
        budget_usd=wanted.budget.usd if wanted.budget else None,
        budget_unit=wanted.budget.unit if wanted.budget else None,
        budget_count=wanted.budget.count if wanted.budget and wanted.budget.unit else None,
        requests_per_minute=wanted.requests_per_minute,
        tokens_per_minute=wanted.tokens_per_minute,
        egress_allow=tuple(dict.fromkeys(wanted.egress_allow)),
        created_at=created,
        created_by=creator,
        expires_at=created + timedelta(seconds=wanted.expires_in) if wanted.expires_in else None,
        revoked_at=None,
        last_used_at=None,
    )
    with engine(settings.tracking_database).begin() as connection:
        keys.add(connection, keys.digest(text), key)
        answer = _shown(connection, [key])[0]
    return answer | {"key": text, "new_user": new_user}


@router.get("")
def list_keys(runs: bool = False) -> dict[str, Any]:
    """All keys, the oldest first; those that were made for one run only where asked for."""
    with engine(load().tracking_database).connect() as connection:
        found = [key for key in keys.every(connection) if runs or key.run_id is None]
        return {"keys": _shown(connection, found)}


@router.put("/stack")
def put_stack_key(wanted: StackKey, creator: Annotated[str, Depends(administrator)]) -> dict[str, Any]:
    """Say what the stack's own key opens. The key itself is the server's secret `agent_key`, and does not travel."""
    settings = load()
    text = settings.secret("agent_key")
    endpoints = {name: _endpoint_id(name) for name in dict.fromkeys(wanted.endpoints)}
    experiment_ids = [_experiment_id(name) for name in dict.fromkeys(wanted.experiments)]
    _ensure_user(settings.agent_user)
    _grant(settings.agent_user, endpoints.values(), experiment_ids)
    key = keys.Key(
        id=keys.STACK_KEY_ID,
        username=settings.agent_user,
        name="the stack's own: the gate, ./paddock env",
        endpoints=tuple(endpoints),
        experiment_ids=tuple(experiment_ids),
        run_id=None,
        budget_usd=None,
        budget_unit=None,
        budget_count=None,
        requests_per_minute=None,
        tokens_per_minute=None,
        egress_allow=(),
        created_at=now(),
        created_by=creator,
        expires_at=None,
        revoked_at=None,
        last_used_at=None,
    )
    with engine(settings.tracking_database).begin() as connection:
        keys.put_stack_key(connection, keys.digest(text), key)
        return _shown(connection, [_known(connection, key.id)])[0]


@router.get("/{key_id}")
def get_key(key_id: str) -> dict[str, Any]:
    """One key, with what it spent. 404 where there is none."""
    with engine(load().tracking_database).connect() as connection:
        return _shown(connection, [_known(connection, key_id)])[0]


@router.patch("/{key_id}")
def change_key(key_id: str, wanted: Opens) -> dict[str, Any]:
    """Let a key call other endpoints, from its next call on. 404 where there is no such key, 400 for no such endpoint."""
    endpoints = {name: _endpoint_id(name) for name in dict.fromkeys(wanted.endpoints)}
    with engine(load().tracking_database).begin() as connection:
        known = _known(connection, key_id)
        _grant(known.username, endpoints.values(), ())
        keys.open_endpoints(connection, key_id, list(endpoints))
        return _shown(connection, [_known(connection, key_id)])[0]


@router.post("/{key_id}/revoke")
def revoke_key(key_id: str) -> dict[str, Any]:
    """From now on, on every server, the key opens nothing. Twice is as good as once."""
    if key_id == keys.STACK_KEY_ID:
        raise HTTPException(
            409,
            f"expected a key that somebody made, found {key_id}, without which no agent of this stack reaches a model;"
            " give its user a budget instead (./paddock config), or stop the gate",
        )
    with engine(load().tracking_database).begin() as connection:
        _known(connection, key_id)
        keys.revoke(connection, key_id)
        return _shown(connection, [_known(connection, key_id)])[0]


def _known(connection: Connection, key_id: str) -> keys.Key:
    key = keys.by_id(connection, key_id)
    if key is None:
        raise HTTPException(
            404, f"expected the id of a key, found {key_id!r}; list them: ./paddock keys list"
        )
    return key


def _shown(connection: Connection, found: list[keys.Key]) -> list[dict[str, Any]]:
    """Keys for people and programs: amounts are texts, since JSON's numbers are not exact; moments are ISO 8601, UTC.

    `spent_usd` is that of the budget's present window, and of the whole life without a budget or a window; calls in
    flight hold `reserved_usd` besides.
    """
    at = now()
    shown = []
    for key in found:
        spent, reserved, resets_at = _spent(connection, key, at)
        fields = {
            name: value
            for name, value in asdict(key).items()
            if name not in ("username", "budget_usd", "budget_unit", "budget_count")
        }
        budget = None
        if key.budget_usd is not None:
            budget = {
                "usd": _usd(key.budget_usd),
                "unit": key.budget_unit,
                "count": key.budget_count,
                "resets_at": _moment(resets_at),
            }
        moments = {name: _moment(fields[name]) for name in fields if name.endswith("_at")}
        shown.append(
            {
                "id": key.id,
                "user": key.username,
                **fields,
                **moments,
                "endpoints": list(key.endpoints),
                "experiment_ids": list(key.experiment_ids),
                "egress_allow": list(key.egress_allow),
                "budget": budget,
                "spent_usd": _usd(spent),
                "reserved_usd": _usd(reserved),
                "state": key.state(at),
            }
        )
    return shown


def _spent(connection: Connection, key: keys.Key, at: datetime) -> tuple[Decimal, Decimal, datetime | None]:
    """What was spent and is reserved, and when the window ends."""
    if key.budget_usd is not None and key.budget_unit is not None:
        window = budget_windows.c
        row = connection.execute(
            select(window.spent, window.reserved, window.window_end).where(
                window.policy_id == f"key:{key.id}", window.window_start <= at, window.window_end > at
            )
        ).first()
        # The row is made by the first call of its window.
        return (row.spent, row.reserved, row.window_end) if row else (Decimal(0), Decimal(0), None)
    in_flight = case((calls.c.ended_at.is_(None), calls.c.reserved_usd))
    row = connection.execute(
        select(func.sum(calls.c.cost_usd), func.sum(in_flight)).where(calls.c.key_id == key.id)
    ).one()
    return row[0] or Decimal(0), row[1] or Decimal(0), None


def _usd(amount: Decimal) -> str:
    return f"{amount.normalize():f}" if amount else "0"


def _moment(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else None


def _ensure_user(name: str) -> bool:
    """Make the user where there is none, whose random password is kept nowhere; returns whether it was made."""
    # MLflow reads its environment at import.
    from mlflow.exceptions import MlflowException
    from mlflow.server import auth

    if not auth.store.has_user(name):
        try:
            auth.store.create_user(name, secrets.token_urlsafe(32))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Made by another request just now.
        else:
            return True
    if auth.store.get_user(name).is_admin:
        raise HTTPException(
            400,
            f"expected a user who is no administrator, found {name}; a key is for a user with no more rights than it:"
            " choose another name, which is made as a user",
        )
    return False


def _grant(user: str, endpoint_ids: Iterable[str], experiment_ids: Iterable[str]) -> None:
    """Give the user what MLflow's own rules ask for, where it is missing."""
    from mlflow.server import auth

    for identifier in endpoint_ids:
        if not auth._resolve_user_permission_for_resource(user, "gateway_endpoint", identifier).can_use:
            auth.store.grant_user_resource_permission(user, "gateway_endpoint", identifier, "USE")
    for identifier in experiment_ids:
        if not auth._resolve_user_permission_for_resource(user, "experiment", identifier).can_update:
            auth.store.grant_user_resource_permission(user, "experiment", identifier, "EDIT")


def _endpoint_id(name: str) -> str:
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import _get_tracking_store

    try:
        return str(_get_tracking_store().get_gateway_endpoint(name=name).endpoint_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    known = ", ".join(sorted(endpoint.name for endpoint in _get_tracking_store().list_gateway_endpoints()))
    raise HTTPException(
        400, f"expected an endpoint of the gateway ({known or 'there is none yet'}), found {name!r}"
    )


def _experiment_id(name: str) -> str:
    from mlflow.server.handlers import _get_tracking_store

    experiment = _get_tracking_store().get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise HTTPException(
            400,
            f"expected the name of an experiment, found {name!r}; make it in MLflow's UI, or mend the name",
        )
    return str(experiment.experiment_id)
