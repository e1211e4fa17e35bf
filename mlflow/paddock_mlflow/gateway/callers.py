"""Who calls, and whether MLflow lets that person use an endpoint."""

import asyncio
import time
from collections.abc import Mapping

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.server.security_utils import get_allowed_origins_from_env, should_block_cors_request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from paddock_mlflow import identity, keys
from paddock_mlflow.database import engine
from paddock_mlflow.gateway.errors import foreign_page, ledger_away, refusal, too_many_logins, unknown_caller
from paddock_mlflow.ledger.types import (
    Admission,
    Credential,
    KeyCredential,
    Reason,
    Refused,
    UserCredential,
)
from paddock_mlflow.logins import TooManyLogins

REMEMBERED_SECONDS = 3.0
"""How long a permission may still be used after it was taken away. Keys are looked at anew with each call."""

_MAX_REMEMBERED = 10_000


class Callers:
    """The callers of one worker.

    Args:
        database_url: SQLAlchemy's URL of the tracking database, where keys are.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._origins = get_allowed_origins_from_env()
        self._allowed: dict[tuple[str, str], float] = {}

    async def identify(self, headers: Mapping[str, str], path: str) -> Credential:
        """
        Raises:
            GatewayError: there is no credential, or a wrong password (401), or were too many of these (429); the
                database is away (503); a page of another site calls with a person's password (403), which browsers
                send along by themselves: MLflow checks that on its API, and not here.
        """
        try:
            if identity.key_of(headers, path) is not None and not _has_password(headers):
                found = identity.identify(headers, path)
            else:
                # Passwords are hashed slowly, and asked from the database.
                found = await asyncio.to_thread(identity.identify, headers, path)
        except TooManyLogins as error:
            raise too_many_logins(error) from None
        except (DBAPIError, PoolTimeoutError, MlflowException) as error:
            raise ledger_away() from error
        if found is None:
            raise unknown_caller()
        origin = headers.get("origin", "")
        if isinstance(found, UserCredential) and should_block_cors_request(origin, "POST", self._origins):
            raise foreign_page(origin)
        return found

    async def require_use(self, credential: Credential, endpoint: str) -> None:
        """Hold people to MLflow's permissions. What a key may use, the ledger decides.

        Raises:
            GatewayError: the endpoint is closed to that person (404, as if it were not there).
        """
        if isinstance(credential, KeyCredential):
            return
        asked = (credential.username, endpoint)
        if self._allowed.get(asked, 0.0) > time.monotonic():
            return
        try:
            allowed = await asyncio.to_thread(_may_use, *asked)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
                raise ledger_away() from error
            raise unknown_caller() from error
        except (DBAPIError, PoolTimeoutError) as error:
            raise ledger_away() from error
        if not allowed:
            raise refusal(Refused(Reason.FORBIDDEN_ENDPOINT, asked[0]), _NOTHING)
        if len(self._allowed) > _MAX_REMEMBERED:
            self._allowed.clear()
        self._allowed[asked] = time.monotonic() + REMEMBERED_SECONDS

    async def require_known(self, credential: Credential) -> None:
        """For calls that end before they come to the ledger: a stranger learns no more than that.

        Raises:
            GatewayError: the key is unknown, expired or revoked (401), or that of a run in the wrong place (403).
        """
        if isinstance(credential, KeyCredential):
            try:
                reason = await asyncio.to_thread(self._state, credential)
            except (DBAPIError, PoolTimeoutError) as error:
                raise ledger_away() from error
            if reason is not None:
                raise refusal(reason, _NOTHING)

    def _state(self, credential: KeyCredential) -> Refused | None:
        with engine(self._database_url).connect() as connection:
            key = keys.find(connection, credential.sha256)
        if key is None:
            return Refused(Reason.UNKNOWN_KEY)
        if key.run_id is not None and not credential.opens_run_keys:
            return Refused(Reason.RUN_KEY_ELSEWHERE, key_id=key.id)
        match key.state():
            case "revoked":
                return Refused(Reason.REVOKED_KEY, key_id=key.id)
            case "expired":
                return Refused(Reason.EXPIRED_KEY, key_id=key.id)
        return None


def _has_password(headers: Mapping[str, str]) -> bool:
    return any(
        headers.get(name, "")[:6].lower() == "basic " for name in ("x-mlflow-authorization", "authorization")
    )


def _may_use(username: str, endpoint: str) -> bool:
    from mlflow.server import auth

    if auth.store.get_user(username).is_admin:
        return True
    return bool(auth._validate_gateway_use_permission(endpoint, username))


_NOTHING = Admission("", UserCredential(""), "", "", 0, None, 0, 0)
