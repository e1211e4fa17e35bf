"""GET /gateway/mlflow/v1/models with a key lists the key's endpoints, not all that its user may use.

MLflow filters that answer by the user's permissions; its table of filters is by the function that serves the route.
"""

import json
from typing import Any

from paddock_mlflow import identity


def register() -> None:
    """Put the key's filter before MLflow's own."""
    # MLflow reads its environment at import.
    from mlflow.server import auth

    served_by = auth._list_gateway_models_endpoint
    stock = auth.FASTAPI_ENDPOINT_RESPONSE_FILTERS[served_by]

    def of_key(username: str, body: bytes, request: Any) -> bytes:
        key = identity.KEY.get()
        if key is not None:
            listed = json.loads(body)
            listed["data"] = [model for model in listed["data"] if model["id"] in key.endpoints]
            body = json.dumps(listed).encode()
        return stock(username, body, request)

    auth.FASTAPI_ENDPOINT_RESPONSE_FILTERS[served_by] = of_key
