"""A user who is deleted takes the keys along: the gateway asks keys, not users, what a call may do."""

import logging
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from paddock_mlflow import keys
from paddock_mlflow.database import engine

_logger = logging.getLogger(__name__)


def register(database_url: str) -> None:
    """Watch MLflow's own routes that delete a user."""
    # MLflow reads its environment at import.
    from flask import Response, request
    from mlflow.server import app
    from mlflow.server.auth.routes import AJAX_DELETE_USER, DELETE_USER

    @app.after_request
    def revoke_keys(answer: Response) -> Response:
        if request.method != "DELETE" or request.path not in (DELETE_USER, AJAX_DELETE_USER):
            return answer
        if answer.status_code == 200:
            given: Any = request.get_json(silent=True) or request.args
            try:
                with engine(database_url).begin() as connection:
                    keys.revoke_of_user(connection, str(given["username"]))
            except SQLAlchemyError:
                _logger.exception(
                    "the keys of a deleted user are not revoked; do it by ./paddock keys revoke"
                )
                answer.status_code = 500
                answer.set_data(
                    "the user is deleted, but the keys are not revoked: ./paddock keys list, ./paddock keys revoke ID"
                )
        return answer
