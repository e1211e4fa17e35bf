"""Fingerprints of the gateway's secrets, so that a plan can tell that one changed and nobody has to read it."""

import json
import os
from typing import Annotated, Any

from fastapi import APIRouter, Query

from paddock_mlflow.config import fingerprints

router = APIRouter(prefix="/secrets")


@router.get("/fingerprints")
def list_fingerprints(salt: Annotated[str, Query(pattern="^[0-9a-f]{32,128}$")]) -> dict[str, Any]:
    """Fingerprints of provider keys by secret name, and of what webhooks sign with by webhook id; null where this server
    can't decrypt one. Also whether MLflow's well-known passphrase is in use."""
    # MLflow reads its environment at import.
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import _get_model_registry_store, _get_tracking_store
    from mlflow.store.tracking.dbmodels.models import SqlGatewaySecret
    from mlflow.utils.crypto import CRYPTO_KEK_PASSPHRASE_ENV_VAR, KEKManager, _decrypt_secret

    found: dict[str, str | None] = {}
    with _get_tracking_store().ManagedSessionMaker() as session:
        rows = [
            (row.secret_id, row.secret_name, row.encrypted_value, row.wrapped_dek)
            for row in session.query(SqlGatewaySecret).all()
        ]
    if rows:
        # Derived once: it takes a third of a second.
        manager = KEKManager()
        for identifier, name, encrypted, wrapped in rows:
            try:
                value = _decrypt_secret(encrypted, wrapped, manager, identifier, name)
            except MlflowException:
                found[name] = None
                continue
            found[name] = fingerprints.of(salt, value if isinstance(value, dict) else _fields(value))
    hooks = {
        hook.webhook_id: fingerprints.of(salt, hook.secret) if hook.secret else None
        for hook in _get_model_registry_store().list_webhooks(max_results=1000)
    }
    return {
        "secrets": found,
        "webhooks": hooks,
        "using_default_passphrase": not os.environ.get(CRYPTO_KEK_PASSPHRASE_ENV_VAR),
    }


def _fields(text: str) -> dict[str, str] | str:
    """MLflow encrypts the JSON of a secret's fields."""
    value = json.loads(text) if text.startswith("{") else text
    return value if isinstance(value, dict) else text
