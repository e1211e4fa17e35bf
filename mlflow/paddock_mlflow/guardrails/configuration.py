"""What MLflow's REST API and UI may configure: guardrails that work, and no others.

MLflow 3.17 accepts any scorer, and the endpoint's calls then fail with 500 (no upstream issue known). Here creating such
a guardrail, or adding one from before to an endpoint, is refused with 400 and the reason.
"""

import functools
import logging
from typing import Any

from mlflow.entities.gateway_guardrail import GatewayGuardrail, GuardrailAction, GuardrailStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from paddock_mlflow.guardrails.errors import UnusableGuardrail
from paddock_mlflow.guardrails.scorers import understand

_logger = logging.getLogger(__name__)


def register() -> None:
    """Check guardrails where MLflow's store writes them."""
    create = SqlAlchemyStore.create_gateway_guardrail
    add = SqlAlchemyStore.add_guardrail_to_endpoint
    if hasattr(create, "paddock"):
        return

    @functools.wraps(create)
    def create_checked(
        self: SqlAlchemyStore,
        name: str,
        scorer_id: str,
        scorer_version: int,
        stage: GuardrailStage,
        action: GuardrailAction,
        *arguments: Any,
        **named: Any,
    ) -> GatewayGuardrail:
        with self.ManagedSessionMaker() as session:
            version = self._get_scorer_version(session, scorer_id, scorer_version)
            _check(name, version.serialized_scorer, stage, action)
        return create(self, name, scorer_id, scorer_version, stage, action, *arguments, **named)

    @functools.wraps(add)
    def add_checked(
        self: SqlAlchemyStore, endpoint_id: str, guardrail_id: str, *arguments: Any, **named: Any
    ) -> Any:
        rail = self.get_gateway_guardrail(guardrail_id)
        _check(rail.name, rail.scorer._serialized_scorer, rail.stage, rail.action)
        if rail.stage == GuardrailStage.AFTER:
            _logger.warning(
                "guardrail %s checks answers: endpoint %s holds streams back until they are complete",
                rail.name,
                endpoint_id,
            )
        return add(self, endpoint_id, guardrail_id, *arguments, **named)

    create_checked.paddock = True  # type: ignore[attr-defined]
    SqlAlchemyStore.create_gateway_guardrail = create_checked
    SqlAlchemyStore.add_guardrail_to_endpoint = add_checked


def _check(name: str, serialized: str, stage: GuardrailStage, action: GuardrailAction) -> None:
    try:
        understand(serialized, stage.value, action.value)
    except UnusableGuardrail as error:
        raise MlflowException(f"guardrail {name!r}: {error}", INVALID_PARAMETER_VALUE) from None
