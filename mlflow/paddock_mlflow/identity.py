"""Who a request comes from: MLflow's `authorization_function`, for its Flask and its FastAPI routes alike.

MLflow knows user and password only, and answers 401 to `Authorization: Bearer`, which is what every OpenAI-style client
sends (mlflow/mlflow#21221 made /v1/traces ask for it too). Here

- a Bearer key stands for an MLflow user, on the routes that agents need and on no other;
- user and password work everywhere, in `X-MLflow-Authorization` first on /gateway/, as upstream;
- the internal token that job processes send in place of a password works on /gateway/ alone, as upstream.

An unreachable database is 503 with Retry-After. Upstream turns it into 401, upon which span exporters drop their batch.
"""

import base64
import binascii
import hmac
import logging
from functools import cache

from flask import Response, make_response, request
from mlflow.environment_variables import _MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN
from mlflow.exceptions import MlflowException
from mlflow.gateway.constants import MLFLOW_GATEWAY_AUTH_HEADER
from sqlalchemy.exc import DBAPIError, OperationalError
from werkzeug.datastructures import Authorization

from paddock_mlflow import settings as settings_module

_logger = logging.getLogger(__name__)

KEY_PATHS = ("/gateway/", "/v1/traces")


@cache
def _keys() -> dict[str, str]:
    """Key → user name."""
    settings = settings_module.load()
    key = settings.optional_secret("agent_key")
    return {key: settings.agent_user} if key else {}


def authenticate() -> Authorization | Response:
    """The caller's identity, or the answer that refuses it. Reads Flask's current request."""
    from mlflow.server import auth

    try:
        user = _user_of_request()
        if user is not None:
            # MLflow looks the user up again after this function, and takes a database that fails then for a stranger.
            auth.store.get_user(user)
    except (OperationalError, DBAPIError):
        _logger.warning("the users' database does not answer", exc_info=True)
        return _unavailable()
    except MlflowException as error:
        if isinstance(error.__cause__, DBAPIError):
            _logger.warning("the users' database does not answer", exc_info=True)
            return _unavailable()
        raise
    if user is None:
        return auth.make_basic_auth_response()
    return Authorization("basic", {"username": user, "password": None})


def _user_of_request() -> str | None:
    on_gateway = request.path.startswith("/gateway/")
    header = (on_gateway and request.headers.get(MLFLOW_GATEWAY_AUTH_HEADER)) or request.headers.get(
        "Authorization"
    )
    scheme, _, credentials = (header or "").partition(" ")
    match scheme.lower():
        case "bearer" if request.path.startswith(KEY_PATHS):
            return _user_of_key(credentials.strip())
        case "basic":
            return _user_of_password(credentials.strip(), on_gateway)
    return None


def _user_of_key(key: str) -> str | None:
    # Compared in constant time against each: a look-up would tell by its time how much of a guess is right.
    found = None
    for known, user in _keys().items():
        if hmac.compare_digest(known.encode(), key.encode()):
            found = user
    return found


def _user_of_password(credentials: str, on_gateway: bool) -> str | None:
    from mlflow.server import auth

    try:
        user, separator, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    if not separator:
        return None
    token = _MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN.get()
    if on_gateway and token and hmac.compare_digest(password.encode(), token.encode()):
        return user
    return user if auth._authenticate_cached(user, password) else None


def _unavailable() -> Response:
    answer = make_response(
        {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "the database does not answer"}, 503
    )
    answer.headers["Retry-After"] = "5"
    return answer
