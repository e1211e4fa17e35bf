"""Rate limits of keys, users and endpoints: list, set, remove. The next call, on any server, is held to them."""

import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select

from paddock_mlflow.database import engine, rate_limits
from paddock_mlflow.settings import load

router = APIRouter(prefix="/limits")

PerMinute = Annotated[int, Field(gt=0, le=2_000_000_000)]


class Limit(BaseModel):
    """`target` is a key's id, a user's name or an endpoint's id."""

    model_config = ConfigDict(extra="forbid")

    scope: Literal["key", "user", "endpoint"]
    target: str = Field(min_length=1, max_length=255)
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> "Limit":
        if self.requests_per_minute is None and self.tokens_per_minute is None:
            raise ValueError(
                "expected requests_per_minute or tokens_per_minute, found neither; DELETE takes a limit away"
            )
        return self


@router.get("")
def list_limits() -> dict[str, Any]:
    """Every limit, with its id."""
    with engine(load().tracking_database).connect() as connection:
        rows = connection.execute(
            select(rate_limits).order_by(rate_limits.c.scope, rate_limits.c.target)
        ).mappings()
        return {"limits": [dict(row) for row in rows]}


@router.put("")
def set_limit(limit: Limit) -> dict[str, Any]:
    """Set the limit of a target, whether or not it had one; returns its id."""
    columns = rate_limits.c
    here = (columns.scope == limit.scope, columns.target == limit.target)
    values = {
        "requests_per_minute": limit.requests_per_minute,
        "tokens_per_minute": limit.tokens_per_minute,
    }
    with engine(load().tracking_database).begin() as connection:
        known = connection.execute(select(columns.id).where(*here).with_for_update()).scalar()
        if known is not None:
            connection.execute(rate_limits.update().where(columns.id == known).values(**values))
            return {"id": known}
        identifier = f"rl_{secrets.token_hex(6)}"
        connection.execute(
            rate_limits.insert().values(id=identifier, scope=limit.scope, target=limit.target, **values)
        )
    return {"id": identifier}


@router.delete("/{limit_id}")
def remove_limit(limit_id: str) -> dict[str, Any]:
    """404 where there is no such limit."""
    with engine(load().tracking_database).begin() as connection:
        removed = connection.execute(rate_limits.delete().where(rate_limits.c.id == limit_id)).rowcount
    if not removed:
        raise HTTPException(
            404, f"expected a rate limit {limit_id}, found none; list them: GET /api/3.0/paddock/limits"
        )
    return {}
