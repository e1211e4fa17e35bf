"""What Paddock's command line asks of the server beyond MLflow's own REST API, under /api/3.0/paddock/.

For administrators alone: everybody else gets 401 or 403. Each module beside this one has a `router`; a module that is
added is served.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

PREFIX = "/api/3.0/paddock"


def administrator(request: Request) -> str:
    """The name of the administrator who asks. Raises HTTPException for everybody else."""
    # MLflow reads its environment at import.
    from mlflow.server import auth

    user = auth._authenticate_custom_for_fastapi(request)
    if user is None or isinstance(user, Response):
        status = 401 if user is None else user.status_code
        if status == 503:
            raise HTTPException(503, "the users' database does not answer; try again", {"Retry-After": "5"})
        raise HTTPException(
            401,
            "expected the administrator's user and password (HTTP Basic), found none that fit; ./paddock password",
            {"WWW-Authenticate": 'Basic realm="mlflow"'},
        )
    if not user.is_admin:
        raise HTTPException(
            403, f"expected an administrator, found the user {user.username}; ask one of them to do it"
        )
    return str(user.username)


def register(app: FastAPI) -> None:
    """Serve every module's routes."""
    router = APIRouter(prefix=PREFIX, dependencies=[Depends(administrator)])
    for module in iter_modules(__path__):
        router.include_router(import_module(f"{__name__}.{module.name}").router)
    before = len(app.router.routes)
    app.include_router(router)
    # MLflow's Flask application is mounted over everything, and would answer first.
    added: list[Any] = app.router.routes[before:]
    del app.router.routes[before:]
    app.router.routes[:0] = added
    _refuse_in_words(app)


def _refuse_in_words(app: FastAPI) -> None:
    """Say what is wrong with a request. MLflow's own handler can't: it fails on the Decimal of a limit on money."""
    stock: Any = app.exception_handlers[RequestValidationError]

    async def refuse(request: Request, error: Exception) -> Response:
        if not request.url.path.startswith(f"{PREFIX}/"):
            answer: Response = await stock(request, error)
            return answer
        assert isinstance(error, RequestValidationError)
        found = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'][1:]) or 'all of it'}: {one['msg']}"
            for one in error.errors()
        )
        return JSONResponse({"detail": f"expected a request that makes sense, found {found}; mend it"}, 422)

    app.add_exception_handler(RequestValidationError, refuse)
