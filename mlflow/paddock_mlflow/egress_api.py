"""What the egress proxy asks: which run a key belongs to, and what that run may reach.

The proxy has an identity of its own, the secret `egress_token`, which opens this one route. It sends the SHA-256 of a
key, never the key, and learns nothing that the holder of the key does not know.
"""

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from paddock_mlflow import keys
from paddock_mlflow.database import engine
from paddock_mlflow.settings import load

PATH = "/api/3.0/paddock-egress/run"


class Asked(BaseModel):
    """The key, by its hash in hexadecimal."""

    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def the_proxy(request: Request) -> None:
    """Raises HTTPException for everybody but the egress proxy."""
    token = load().optional_secret("egress_token")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if not (token and scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())):
        raise HTTPException(
            401,
            "expected the egress proxy's own token, found none that fits; nobody else asks here",
            {"WWW-Authenticate": "Bearer"},
        )


router = APIRouter(dependencies=[Depends(the_proxy)])


@router.post(PATH)
def run_of_key(asked: Asked) -> dict[str, Any]:
    """The run of a key: `run_id`, `key_id`, `state` (active, expired, revoked) and `allow`, its list of hosts.

    404 for a key that is not known, and for one that belongs to no run: people's keys open models alone. 503 where the
    database does not answer.
    """
    try:
        with engine(load().tracking_database).connect() as connection:
            key = keys.find(connection, bytes.fromhex(asked.sha256))
    except (DBAPIError, PoolTimeoutError):
        raise HTTPException(503, "the database does not answer; try again", {"Retry-After": "1"}) from None
    if key is None or key.run_id is None:
        raise HTTPException(404, "expected the key of a run, found none; ./paddock run makes one")
    return {
        "run_id": key.run_id,
        "key_id": key.id,
        "state": key.state(),
        "allow": list(key.egress_allow),
    }


def register(app: FastAPI) -> None:
    """Serve the route."""
    before = len(app.router.routes)
    app.include_router(router)
    # MLflow's Flask application is mounted over everything, and would answer first.
    added: list[Any] = app.router.routes[before:]
    del app.router.routes[before:]
    app.router.routes[:0] = added
