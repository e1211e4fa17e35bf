"""What a model call cost, by the prices that the gateway charges it with.

OpenHands calls an endpoint by its name (`coder`), and the response names the provider's model, without the provider
(`demo`). The price look-up needs both, and the endpoint's configuration has the provider. MLflow's own look-up would
read its bundled prices only, never the configured catalogue (mlflow/utils/providers.py, `_lookup_model_info`).
"""

import threading
import time
from dataclasses import dataclass

from mlflow.server.handlers import _get_tracking_store

from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.pricing import Prices
from paddock_mlflow.translate import Price

ENDPOINTS_SECONDS = 10.0
"""How long the endpoints' models are remembered: an edited endpoint prices its calls rightly after this time."""


@dataclass(frozen=True)
class Model:
    """A model as the catalogue names it."""

    provider: str
    name: str


class GatewayCosts:
    """Prices model calls by the endpoint that served them, and others by the model's name alone. Safe in threads."""

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = prices or Prices.of_environment()
        self._lock = threading.Lock()
        self._endpoints: dict[str, list[Model]] = {}
        self._until = 0.0

    def price_of(self, requested: str, responded: str, usage: Usage) -> Price | None:
        """The price of one call, or None where no price is known.

        Args:
            requested: the endpoint, or the model, that the caller named; a provider may stand before it, with a slash.
            responded: the model that the response names.
            usage: its tokens.
        """
        for model in self._candidates(requested, responded):
            cost = self._prices.cost(model.provider, model.name, usage)
            if cost is not None:
                return Price(
                    total=float(cost.total),
                    input=float(cost.input),
                    output=float(cost.output),
                    provider=model.provider or None,
                )
        return None

    def _candidates(self, requested: str, responded: str) -> list[Model]:
        served = self._models_of(requested)
        # A response may name a dated release of the model that the endpoint names, and a fallback may have served it.
        # The endpoint's name counts first: the gateway reserves and charges by it, and it may have a price of its own.
        matching = [m for m in served if responded.startswith(m.name) or m.name.endswith(f"/{responded}")]
        matching.sort(key=lambda model: len(model.name), reverse=True)
        exact = [Model(m.provider, responded) for m in matching if m.name != responded]
        candidates = [*matching, *exact, *(served if len(served) == 1 else [])]
        provider, separator, _ = requested.partition("/")
        if separator:
            candidates.append(Model(provider, responded))
        return [*candidates, Model("", responded)]

    def _models_of(self, endpoint: str) -> list[Model]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._endpoints = _read_endpoints()
                self._until = time.monotonic() + ENDPOINTS_SECONDS
            return self._endpoints.get(endpoint, [])


def _read_endpoints() -> dict[str, list[Model]]:
    return {
        endpoint.name: [
            Model(mapping.model_definition.provider, mapping.model_definition.model_name)
            for mapping in endpoint.model_mappings
            if mapping.model_definition is not None
        ]
        for endpoint in _get_tracking_store().list_gateway_endpoints()
        if endpoint.name
    }
