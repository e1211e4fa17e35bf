"""What an endpoint is made of, in memory: its models with their providers and keys, its guardrails, where it is traced.

MLflow reads all of it for each call, and serves it from a cache of its own that lags behind edits by up to a minute
(MLFLOW_SERVER_SECRETS_CACHE_TTL). Here a snapshot is good for as long as the version of the configuration that it was
made from, which the ledger compares in the transaction that admits a call: edits act at once, on every server.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities.gateway_endpoint import GatewayModelLinkageType
from mlflow.exceptions import MlflowException
from mlflow.gateway.config import EndpointType
from mlflow.gateway.providers import get_provider
from mlflow.gateway.providers.base import BaseProvider
from mlflow.protos.databricks_pb2 import (
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)
from mlflow.server import gateway_api
from mlflow.store.tracking.gateway.config_resolver import get_endpoint_config
from mlflow.store.tracking.gateway.entities import (
    GatewayEndpointConfig,
    GatewayModelConfig,
    RoutingStrategy,
)
from mlflow.utils.validation import GATEWAY_DESTINATION_KEYS

from paddock_mlflow.gateway import upstreams
from paddock_mlflow.gateway.errors import GatewayError, ledger_away
from paddock_mlflow.gateway.hooks import Guards
from paddock_mlflow.ledger.types import Ledger

_logger = logging.getLogger(__name__)

MAX_UNKNOWN = 1024
_SHORTEST_SECRET = 6


@dataclass(frozen=True)
class Model:
    """One model of an endpoint. `provider` is the name that prices are filed under."""

    provider: str
    name: str
    weight: float
    guarded: bool
    """Whether only public addresses may be connected to: somebody wrote the address into a secret."""
    chat: BaseProvider
    embeddings: BaseProvider
    upstream: upstreams.Upstream | None
    """Where it is to be reached without MLflow's provider class; None where only that will do."""
    secrets: frozenset[str]

    def redact(self, text: str) -> str:
        """A text without this model's keys, whatever a provider's error repeats."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


@dataclass(frozen=True)
class Endpoint:
    """The snapshot. `experiment_id` is empty where calls leave no trace."""

    id: str
    name: str
    version: int
    experiment_id: str
    primaries: tuple[Model, ...]
    split: bool
    fallbacks: tuple[Model, ...]
    config: GatewayEndpointConfig = field(repr=False)
    guards: Guards | None = None

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them, whichever will serve."""
        return (*(self.primaries if self.split else self.primaries[:1]), *self.fallbacks)

    def plan(self) -> tuple[Model, ...]:
        """The models to try for one call, in order: a primary by weight, then the fallbacks."""
        first = self.primaries[0]
        if self.split and len(self.primaries) > 1:
            first = random.choices(self.primaries, [max(model.weight, 0) for model in self.primaries])[0]
        return (first, *self.fallbacks)


class Endpoints:
    """The snapshots of one worker.

    Args:
        guards: an endpoint's guardrails, by its id; blocking.
    """

    def __init__(self, ledger: Ledger, guards: Callable[[str], Guards]) -> None:
        self._ledger = ledger
        self._guards = guards
        self._known: dict[str, Endpoint] = {}
        self._unknown: OrderedDict[str, int] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Endpoint | None]] = {}
        self._version: asyncio.Task[int] | None = None

    async def get(self, name: str) -> Endpoint | None:
        """The endpoint of that name, as it was when it was last read; None where there is none, as of now.

        Raises:
            GatewayError: it can't be read, or can't work.
            LedgerUnavailable: the database does not answer.
        """
        endpoint = self._known.get(name)
        if endpoint is not None:
            return endpoint
        if name in self._unknown:
            # One small query for all who ask meanwhile: a new endpoint is found at once, a wrong name costs little.
            if self._unknown[name] == await self._current_version():
                return None
            self._unknown.pop(name, None)
        return await self.reload(name)

    async def reload(self, name: str) -> Endpoint | None:
        """The endpoint as it is now. Calls that ask at the same time share one reading."""
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(name))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        return await asyncio.shield(task)

    async def _current_version(self) -> int:
        if self._version is None or self._version.done():
            self._version = asyncio.create_task(self._ledger.config_version())  # type: ignore[arg-type]
        return await asyncio.shield(self._version)

    async def _load(self, name: str) -> Endpoint | None:
        # Read before the rest: what changes meanwhile is stale at its first admission.
        version = await self._ledger.config_version()
        endpoint = await asyncio.to_thread(self._read, name, version)
        if endpoint is None:
            self._known.pop(name, None)
            self._unknown[name] = version
            if len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
        else:
            self._known[name] = endpoint
        return endpoint

    def _read(self, name: str, version: int) -> Endpoint | None:
        from mlflow.server.handlers import _get_tracking_store

        store = _get_tracking_store()
        # Its entries may be older than the version.
        store.secret_cache.clear()
        try:
            config = get_endpoint_config(endpoint_name=name, store=store)
            return _snapshot(config, version, self._guards(config.endpoint_id))
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return None
            if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
                raise ledger_away() from error
            _logger.warning("the endpoint %s can't work: %s", name, error)
            raise GatewayError(
                error.get_http_status_code(),
                "endpoint_misconfigured",
                f"expected the endpoint {name!r} to be complete, found: {error.message}; mend it in MLflow's UI under"
                " AI Gateway, or in gateway.yaml",
            ) from error


def _snapshot(config: GatewayEndpointConfig, version: int, guards: Guards) -> Endpoint:
    primaries = [model for model in config.models if model.linkage_type == GatewayModelLinkageType.PRIMARY]
    if not primaries:
        raise MlflowException.invalid_parameter_value("it has no primary model with a secret")
    fallbacks: list[GatewayModelConfig] = []
    if config.fallback_config:
        fallbacks = sorted(
            (model for model in config.models if model.linkage_type == GatewayModelLinkageType.FALLBACK),
            key=lambda model: float("inf") if model.fallback_order is None else model.fallback_order,
        )
        fallbacks = fallbacks[: config.fallback_config.max_attempts or len(fallbacks)]
    # As upstream: one address that somebody wrote guards all of the endpoint.
    guarded = any(
        model.auth_config and any(model.auth_config.get(key) for key in GATEWAY_DESTINATION_KEYS)
        for model in config.models
    )
    return Endpoint(
        id=config.endpoint_id,
        name=config.endpoint_name,
        version=version,
        experiment_id=str(config.experiment_id) if config.usage_tracking and config.experiment_id else "",
        primaries=tuple(_model(config.endpoint_name, model, guarded) for model in primaries),
        split=config.routing_strategy == RoutingStrategy.REQUEST_BASED_TRAFFIC_SPLIT,
        fallbacks=tuple(_model(config.endpoint_name, model, guarded) for model in fallbacks),
        config=config,
        guards=guards or None,
    )


def _model(endpoint_name: str, config: GatewayModelConfig, guarded: bool) -> Model:
    provider = str(getattr(config.provider, "value", config.provider))
    made = {}
    for kind in (EndpointType.LLM_V1_CHAT, EndpointType.LLM_V1_EMBEDDINGS):
        # It writes the name of the provider's class over the provider's own.
        config.provider = provider
        built = gateway_api._build_endpoint_config(endpoint_name, config, kind)
        made[kind] = get_provider(config.provider)(built, enable_tracing=False)
    config.provider = provider
    chat = made[EndpointType.LLM_V1_CHAT]
    return Model(
        provider=provider,
        name=config.model_name,
        weight=config.weight,
        guarded=guarded,
        chat=chat,
        embeddings=made[EndpointType.LLM_V1_EMBEDDINGS],
        upstream=upstreams.of_provider(chat, guarded),
        secrets=frozenset(_texts(config.secret_value)),
    )


def _texts(secrets: Mapping[str, Any]) -> list[str]:
    return [value for value in secrets.values() if isinstance(value, str) and len(value) >= _SHORTEST_SECRET]
