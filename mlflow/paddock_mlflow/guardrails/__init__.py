"""MLflow's guardrails, made to work: what may not go out is found before a call, what may not come in after it.

They are MLflow's own: scorers registered with it, declared by its REST API, shown in its UI. Stock MLflow calls a scorer
with arguments that it may not take, skips guardrails that it can't load, and skips them all for whoever sends
`X-MLflow-Guardrail-Bypass: 1`. Here each scorer gets what it takes, what can't be checked does not pass, and that header
means nothing.
"""

import json
import logging

from paddock_mlflow.gateway.hooks import Guards

_logger = logging.getLogger(__name__)


def load(endpoint_id: str) -> Guards:
    """The guardrails of an endpoint, in their order. Asks the database.

    One that can't work stays in its place and lets nothing pass.
    """
    from mlflow.genai.scorers import Scorer
    from mlflow.server.handlers import _get_tracking_store

    from paddock_mlflow.guardrails.guards import BrokenGuard, EndpointGuards, Guard, JudgeGuard, PatternGuard
    from paddock_mlflow.guardrails.scorers import Pattern, understand

    store = _get_tracking_store()
    guards: list[Guard] = []
    for config in store.list_endpoint_guardrail_configs(endpoint_id):
        rail = config.guardrail
        if rail is None:
            continue
        own = (rail.name, rail.stage.value, rail.action.value)
        try:
            serialized = json.loads(store.resolve_endpoint_in_scorer(rail.scorer)._serialized_scorer)
            known = understand(serialized, rail.stage.value, rail.action.value)
            if isinstance(known, Pattern):
                guards.append(PatternGuard(*own, known.detector))
            else:
                guards.append(JudgeGuard(*own, Scorer.model_validate(known.serialized), known.takes))
        except Exception as error:  # noqa: BLE001
            # A guardrail left out would be an open door, so whatever is wrong with it closes the endpoint.
            _logger.error("guardrail %s can't work, so its endpoint lets nothing pass: %s", rail.name, error)
            guards.append(BrokenGuard(*own, str(error)))
    return EndpointGuards(guards)
