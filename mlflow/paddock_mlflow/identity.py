"""Who a request comes from: for the gateway's middleware, and as MLflow's `authorization_function` for the rest.

MLflow knows user and password only, and answers 401 to `Authorization: Bearer`, which is what every OpenAI-style client
sends (mlflow/mlflow#21221 made /v1/traces ask for it too). Here

- a key stands for a user, what it opens is its own: its endpoints, the list of them, and its experiments' traces;
- user and password work everywhere, in `X-MLflow-Authorization` first on /gateway/, as upstream;
- the internal token that job processes send in place of a password works on /gateway/ alone, as upstream.

`identify` reads headers and needs no database for keys: whether one is valid is decided where the call is admitted.
`authenticate` is asked by MLflow, on the event loop for what FastAPI serves (OTLP, the list of models), and looks a key
up by one indexed query: a revoked key is refused at once.

An unreachable database is 503 with Retry-After. Upstream turns it into 401, upon which span exporters drop their batch.
"""

import base64
import binascii
import hmac
import logging
from collections.abc import Mapping
from contextvars import ContextVar

from flask import Response, make_response, request
from mlflow.environment_variables import _MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN
from mlflow.exceptions import MlflowException
from mlflow.gateway.constants import MLFLOW_GATEWAY_AUTH_HEADER
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.datastructures import Authorization

from paddock_mlflow import keys
from paddock_mlflow.database import engine
from paddock_mlflow.gateway.errors import RUN_KEY_ELSEWHERE
from paddock_mlflow.ledger.types import KeyCredential, UserCredential
from paddock_mlflow.logins import Attempts, TooManyLogins
from paddock_mlflow.proxies import ORIGIN
from paddock_mlflow.settings import load

_logger = logging.getLogger(__name__)

GATEWAY = "/gateway/"
TRACES = "/v1/traces"
MODELS = "/gateway/mlflow/v1/models"

KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
"""Where clients of Anthropic, Azure and Gemini put what those of OpenAI send as `Authorization: Bearer`."""

KEY: ContextVar[keys.Key | None] = ContextVar("paddock_key", default=None)
"""The key that `authenticate` accepted for this request."""

VOUCHED: ContextVar[keys.Key | None] = ContextVar("paddock_vouched", default=None)
"""The key in whose name `paddock_mlflow.collected` passes spans on: valid when they came, whatever it is now."""


_ATTEMPTS = Attempts()


def identify(headers: Mapping[str, str], path: str) -> KeyCredential | UserCredential | None:
    """The caller, by headers whose names are in lower case; None for a stranger and for a wrong password.

    A key is found by its form only: it may be unknown, expired or revoked. A password is checked (cached by MLflow for
    60 s, otherwise a query and a slow hash: blocking).

    Raises:
        OperationalError, DBAPIError, MlflowException: the users' database does not answer.
        TooManyLogins: there were too many wrong passwords.
    """
    on_gateway = path.startswith(GATEWAY)
    header = (on_gateway and headers.get(MLFLOW_GATEWAY_AUTH_HEADER.lower())) or headers.get("authorization")
    scheme, _, credentials = (header or "").partition(" ")
    if scheme.lower() == "basic":
        user = _user_of_password(credentials.strip(), on_gateway)
        return UserCredential(user) if user is not None else None
    if key := key_of(headers, path):
        return KeyCredential(keys.digest(key), ORIGIN.get().opens_run_keys)
    return None


def key_of(headers: Mapping[str, str], path: str) -> str | None:
    """The text of the key among headers whose names are in lower case; None where there is none, and on paths that no key
    opens. Where several headers hold one, the first that looks like ours, since others may be a provider's own."""
    if not (path.startswith(GATEWAY) or path == TRACES):
        return None
    bearer = (MLFLOW_GATEWAY_AUTH_HEADER.lower(), "authorization") if path != TRACES else ("authorization",)
    found = []
    for name in bearer:
        scheme, _, credentials = headers.get(name, "").partition(" ")
        if scheme.lower() == "bearer":
            found.append(credentials.strip())
    found += [headers.get(name, "").strip() for name in KEY_HEADERS]
    found = [key for key in found if key]
    return next((key for key in found if key.startswith(keys.PREFIXES)), found[0] if found else None)


def authenticate() -> Authorization | Response:
    """The caller's identity, or the answer that refuses it. Reads Flask's current request."""
    from mlflow.server import auth

    KEY.set(None)
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        vouched = VOUCHED.get() if request.path == TRACES else None
        match vouched or identify(headers, request.path):
            case None:
                return auth.make_basic_auth_response()
            case UserCredential(username):
                pass
            case keys.Key(username=username) as key:
                KEY.set(key)
            case KeyCredential() as credential:
                with engine(load().tracking_database).connect() as connection:
                    key = keys.find(connection, credential.sha256)
                refusal = _refusal(key, credential, request.path, headers.get("x-mlflow-experiment-id", ""))
                if refusal is not None:
                    return refusal
                assert key is not None
                username = key.username
                KEY.set(key)
        # MLflow looks the user up again after this function, and takes a database that fails then for a stranger.
        user = auth.store.get_user(username)
        if (key := KEY.get()) is not None and user.is_admin:
            # MLflow asks an administrator for no permission at all.
            return _answer(
                request.path,
                403,
                "PERMISSION_DENIED",
                f"expected a key of a user who is no administrator, found {key.id} of {username}, who became one;"
                " ask for a key of another user",
            )
    except TooManyLogins as error:
        answer = _answer(request.path, 429, "REQUEST_LIMIT_EXCEEDED", str(error))
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    except (OperationalError, DBAPIError, PoolTimeoutError):
        _logger.warning("the database of users and keys does not answer", exc_info=True)
        return _unavailable()
    except MlflowException as error:
        if isinstance(error.__cause__, DBAPIError):
            _logger.warning("the users' database does not answer", exc_info=True)
            return _unavailable()
        raise
    return Authorization("basic", {"username": username, "password": None})


def _refusal(
    key: keys.Key | None, credential: KeyCredential, path: str, experiment_id: str
) -> Response | None:
    """Why a key does not open a path; None where it does."""
    if key is None:
        return _unauthorized(
            path,
            "expected a valid key, found one that is not known; set LLM_API_KEY to the key that `./paddock env` prints,"
            " or to one that `./paddock keys create` made",
        )
    if not _opened_by_keys(path):
        return _answer(
            path,
            403,
            "PERMISSION_DENIED",
            f"expected a path that keys open, found {path}; people use their name and password here",
        )
    if path == TRACES and key.run_id is not None:
        return _answer(
            path,
            403,
            "PERMISSION_DENIED",
            f"expected a run's spans to come by the collector, found them with the run's key {key.id}; set"
            " OTEL_EXPORTER_OTLP_ENDPOINT to the collector's address",
        )
    if key.run_id is not None and not credential.opens_run_keys:
        return _answer(path, 403, "PERMISSION_DENIED", RUN_KEY_ELSEWHERE.format(key_id=key.id))
    match key.state():
        case "revoked":
            return _unauthorized(
                path,
                f"expected a valid key, found one that was revoked: {key.id}; ask an administrator for another one",
            )
        case "expired":
            return _unauthorized(
                path,
                f"expected a valid key, found one that has expired: {key.id};"
                " ask for a new one (`./paddock keys create`)",
            )
    if path == TRACES and experiment_id and experiment_id not in key.experiment_ids:
        return _answer(
            path,
            403,
            "PERMISSION_DENIED",
            f"expected an experiment that the key {key.id} may write to, found {experiment_id!r};"
            " mend x-mlflow-experiment-id, or make a key with `./paddock keys create --experiment NAME`",
        )
    return None


def _opened_by_keys(path: str) -> bool:
    """Whether a key may pass here. Calls of models never come here: the gateway's middleware takes them out before."""
    return path in (MODELS, TRACES)


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
    origin = ORIGIN.get()
    accepted = _ATTEMPTS.check(
        user,
        origin.address,
        lambda: auth._authenticate_cached(user, password) is not None,
        local=origin.local,
    )
    return user if accepted else None


def _unauthorized(path: str, message: str) -> Response:
    answer = _answer(path, 401, "UNAUTHENTICATED", message)
    answer.headers["WWW-Authenticate"] = "Bearer"
    # The SDKs of OpenAI and Anthropic obey it.
    answer.headers["x-should-retry"] = "false"
    return answer


def _unavailable() -> Response:
    answer = _answer(request.path, 503, "TEMPORARILY_UNAVAILABLE", "the database does not answer; try again")
    answer.headers["Retry-After"] = "5"
    return answer


def _answer(path: str, status: int, code: str, message: str) -> Response:
    """In OpenAI's words on the gateway, in MLflow's elsewhere."""
    if path.startswith(GATEWAY):
        kind = {401: "invalid_api_key", 403: "permission_denied"}.get(status, code.lower())
        return make_response(
            {"error": {"message": message, "type": kind, "code": kind, "param": None}}, status
        )
    return make_response({"error_code": code, "message": message}, status)
