"""Each private name and each behaviour of MLflow that the plugin leans on, for the pinned release.

A release that breaks one of these needs a look at the module named beside it, before CHECKED_RELEASES gets it.
"""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

PRIVATE = {
    "admin_api": [
        "mlflow.server.auth:_authenticate_custom_for_fastapi",
        "mlflow.server.auth:_resolve_user_permission_for_resource",
        "mlflow.server.handlers:_get_model_registry_store",
        "mlflow.server.handlers:_get_tracking_store",
        "mlflow.utils.crypto:_decrypt_secret",
    ],
    "artifacts": [
        "mlflow.store.artifact.artifact_repository_registry:_artifact_repository_registry.register",
        "mlflow.store.artifact.s3_artifact_repo:S3ArtifactRepository._download_file",
    ],
    "budgets": [
        "mlflow.gateway.budget:fire_budget_exceeded_webhooks",
        "mlflow.gateway.budget_tracker:BudgetTracker._get_window_info",
        "mlflow.gateway.budget_tracker:_budget_tracker",
        "mlflow.gateway.budget_tracker:_compute_window_end",
        "mlflow.gateway.budget_tracker:_compute_window_start",
        "mlflow.gateway.budget_tracker:_policy_applies",
        "mlflow.server.handlers:_get_model_registry_store",
        "mlflow.store.tracking.dbmodels.models:SqlGatewayBudgetPolicy.target_value",
        "mlflow.store.tracking.dbmodels.models:SqlGatewayBudgetPolicy.workspace",
    ],
    "gateway": [
        "mlflow.gateway.providers.base:BaseProvider._validate_passthrough_action",
        "mlflow.gateway.providers.base:_CLIENT_AUTH_HEADERS",
        "mlflow.gateway.providers.base:_client_provides_auth",
        "mlflow.gateway.providers.anthropic:AnthropicAdapter.model_to_chat_streaming",
        "mlflow.gateway.providers.openai:OpenAIProvider._chat_stream",
        "mlflow.gateway.providers.openai:OpenAIProvider._get_headers",
        "mlflow.gateway.providers.openai:OpenAIProvider._passthrough",
        "mlflow.gateway.providers.openai_compatible:OpenAICompatibleProvider._api_base",
        "mlflow.gateway.providers.openai_compatible:OpenAICompatibleProvider._chat_stream",
        "mlflow.gateway.providers.utils:_STRIPPED_HEADERS",
        "mlflow.gateway.providers.utils:_aiohttp_post",
        "mlflow.gateway.ssrf:SSRFGuardedResolver.resolve",
        "mlflow.gateway.ssrf:assert_public_upstream_url",
        "mlflow.gateway.ssrf:upstream_ssrf_protection",
        "mlflow.server.auth:_validate_gateway_use_permission",
        "mlflow.server.fastapi_security:CORSBlockingMiddleware",
        "mlflow.server.fastapi_security:HostValidationMiddleware",
        "mlflow.server.fastapi_security:SecurityHeadersMiddleware",
        "mlflow.server.gateway_api:_build_endpoint_config",
        "mlflow.server.gateway_api:_decompress_zstd",
        "mlflow.server.gateway_api:_validate_system_one_endpoint",
        "mlflow.server.handlers:_get_tracking_store",
        "mlflow.store.tracking._secret_cache:SecretCache.clear",
    ],
    "encryption": [
        "mlflow.store.model_registry.dbmodels.models:EncryptedString.process_result_value",
        "mlflow.store.tracking.dbmodels.models:SqlGatewaySecret.kek_version",
        "mlflow.store.tracking.dbmodels.models:SqlGatewaySecret.wrapped_dek",
        "mlflow.utils.crypto:CRYPTO_KEK_PASSPHRASE_ENV_VAR",
        "mlflow.utils.crypto:CRYPTO_KEK_VERSION_ENV_VAR",
        "mlflow.utils.crypto:KEKManager",
        "mlflow.utils.crypto:rotate_secret_encryption",
    ],
    "guardrails": [
        "mlflow.environment_variables:_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN.get",
        "mlflow.server.handlers:_get_tracking_store",
        "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore.resolve_endpoint_in_scorer",
    ],
    "identity": [
        "mlflow.environment_variables:_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN.get",
        "mlflow.gateway.constants:MLFLOW_GATEWAY_AUTH_HEADER",
        "mlflow.server.auth:_authenticate_cached",
        "mlflow.server.auth:make_basic_auth_response",
    ],
    "ingest": ["mlflow.server.otel_api:_convert_otlp_json_ids_to_base64"],
    "costs": [
        "mlflow.server.handlers:_get_tracking_store",
        "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore.list_gateway_endpoints",
    ],
    "stored_spans": [
        "mlflow.store.tracking.dbmodels.models:SqlSpan.content",
        "mlflow.store.tracking.dbmodels.models:SqlSpan.parent_span_id",
    ],
    "jobs": [
        "mlflow.server.jobs._executor_runner:_select_executor",
        "mlflow.server.jobs._executor_runner:run_executor_loop",
        "mlflow.server.jobs.utils:_get_trace_archival_scheduler_settings",
        "mlflow.server.jobs.utils:_run_trace_archival_scheduler",
        "mlflow.server.jobs.utils:_should_run_trace_archival_scheduler",
    ],
    "judges": [
        "mlflow.genai.judges.instructions_judge:InstructionsJudge._build_system_message",
        "mlflow.genai.judges.instructions_judge:InstructionsJudge._build_template_values",
        "mlflow.genai.judges.instructions_judge:InstructionsJudge._build_user_message",
        "mlflow.genai.judges.instructions_judge:InstructionsJudge._TEMPLATE_VARIABLE_TRACE",
        "mlflow.entities.trace_data:TraceData._get_root_span",
        "mlflow.genai.evaluation.utils:standardize_scorer_value",
        "mlflow.genai.judges.adapters.gateway_adapter:send_chat_request",
        "mlflow.genai.judges.adapters.utils:ChatCompletionError",
        "mlflow.genai.judges.adapters.utils:is_context_window_error",
        "mlflow.genai.scorers.base:Scorer._set_registration_metadata",
        "mlflow.genai.scorers.base:SCORER_BACKEND_TRACKING",
        "mlflow.genai.scorers.job:Scorer.model_validate_json",
        "mlflow.genai.scorers.job:invoke_scorer_job",
        "mlflow.genai.scorers.scorer_utils:build_gateway_model",
        "mlflow.genai.scorers.scorer_utils:extract_endpoint_ref",
        "mlflow.genai.scorers.scorer_utils:extract_model_from_serialized_scorer",
        "mlflow.genai.scorers.scorer_utils:is_gateway_model",
        "mlflow.genai.scorers.scorer_utils:update_model_in_serialized_scorer",
        "mlflow.store.tracking.dbmodels.models:SqlAssessments.from_mlflow_entity",
        "mlflow.store.tracking.dbmodels.models:SqlAssessments.overrides",
        "mlflow.store.tracking.dbmodels.models:SqlGatewayEndpoint.name",
        "mlflow.store.tracking.dbmodels.models:SqlOnlineScoringConfig.filter_string",
        "mlflow.store.tracking.dbmodels.models:SqlOnlineScoringConfig.sample_rate",
        "mlflow.store.tracking.dbmodels.models:SqlScorer.scorer_name",
        "mlflow.store.tracking.dbmodels.models:SqlScorerVersion.serialized_scorer",
        "mlflow.store.tracking.dbmodels.models:SqlSpan.content",
        "mlflow.store.tracking.dbmodels.models:SqlTraceInfo.execution_time_ms",
        "mlflow.store.tracking.dbmodels.models:SqlTraceInfo.session_id",
        "mlflow.store.tracking.dbmodels.models:SqlTraceMetadata.value",
        "mlflow.store.tracking.dbmodels.models:SqlTraceTag.value",
        "mlflow.store.tracking.utils.sql_trace_rollups:enqueue_rollup_rebuilds",
        "mlflow.store.tracking.utils.sql_trace_rollups:rollups_enabled",
    ],
    "ledger": [
        "mlflow.gateway.budget_tracker:_compute_window_end",
        "mlflow.gateway.budget_tracker:_compute_window_start",
    ],
    "listed_models": [
        "mlflow.server.auth:FASTAPI_ENDPOINT_RESPONSE_FILTERS",
        "mlflow.server.auth:_list_gateway_models_endpoint",
    ],
    "migrate": [
        "mlflow.server.auth.db.utils:migrate",
        "mlflow.store.db.utils:_initialize_tables",
        "mlflow.store.db.utils:_is_empty_database",
        "mlflow.store.db.utils:_upgrade_db",
        "mlflow.store.db.utils:create_sqlalchemy_engine_with_retry",
    ],
    "server": ["mlflow.server.auth:create_app"],
    "usage_spans": [
        "mlflow.gateway.tracing_utils:aggregate_anthropic_messages_stream_chunks",
        "mlflow.gateway.tracing_utils:aggregate_chat_stream_chunks",
        "mlflow.gateway.tracing_utils:aggregate_gemini_stream_generate_content_chunks",
        "mlflow.gateway.tracing_utils:aggregate_openai_responses_stream_chunks",
        "mlflow.tracing.utils:_calculate_percentile",
        "mlflow.tracing.utils.truncation:_get_truncated_preview",
    ],
    "usage_traces": [
        "mlflow.store.tracking.dbmodels.models:SqlExperiment.artifact_location",
        "mlflow.store.tracking.dbmodels.models:SqlSpan.total_cost",
        "mlflow.store.tracking.dbmodels.models:SqlTraceInfo.total_cost",
        "mlflow.store.tracking.dbmodels.models:SqlTraceMetadata.request_id",
        "mlflow.store.tracking.dbmodels.models:SqlTraceTag.request_id",
        "mlflow.store.tracking.utils.sql_trace_rollups:enqueue_rollup_rebuild_partitions",
        "mlflow.store.tracking.utils.sql_trace_rollups:rollups_enabled",
    ],
    "upstreams": [
        "mlflow.gateway.ssrf:_assert_public_ip",
        "mlflow.utils.validation:_validate_gateway_api_base",
    ],
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in PRIVATE.items() for name in names]
)
def test_a_name_is_there(server: Any, module: str, name: str) -> None:
    path, _, attributes = name.partition(":")
    found: Any = importlib.import_module(path)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    assert found is not None


def test_every_private_import_of_the_plugin_is_listed(root: Path) -> None:
    """A new use of a private name adds its line above."""
    listed = {name.rpartition(".")[2].rpartition(":")[2] for names in PRIVATE.values() for name in names}
    listed |= {part for names in PRIVATE.values() for name in names for part in re.split(r"[.:]", name)}
    pattern = re.compile(r"from mlflow[\w.]* import ([^\n(]+|\([^)]+\))")
    used = set()
    for path in (root / "mlflow" / "paddock_mlflow").rglob("*.py"):
        text = path.read_text()
        imported = {name for match in pattern.finditer(text) for name in re.findall(r"\w+", match.group(1))}
        used |= {name for name in imported if name.startswith("_")}
        # Of an imported module or class; what begins with two is Python's or SQLAlchemy's.
        for name in imported:
            used |= set(re.findall(rf"\b{name}\.(_[a-z]\w*|_[A-Z]\w*)", text))
    assert used <= listed


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlflow.gateway.ssrf:_assert_public_ip", ["ip_str", "host"]),
        ("mlflow.utils.validation:_validate_gateway_api_base", ["url"]),
        ("mlflow.server.auth:_authenticate_cached", ["username", "password"]),
        ("mlflow.server.auth:_validate_gateway_use_permission", ["endpoint_name", "username"]),
        (
            "mlflow.utils.crypto:rotate_secret_encryption",
            ["encrypted_value", "wrapped_dek", "old_kek_manager", "new_kek_manager", ""],
        ),
        ("mlflow.gateway.budget_tracker:_compute_window_start", ["duration", "now", ""]),
        ("mlflow.gateway.budget_tracker:_compute_window_end", ["duration", "window_start", ""]),
        (
            "mlflow.gateway.budget:fire_budget_exceeded_webhooks",
            ["newly_exceeded", "workspace", "registry_store", ""],
        ),
    ],
)
def test_a_function_that_is_replaced_or_called_takes_the_same(
    server: Any, name: str, parameters: list[str]
) -> None:
    path, _, attribute = name.partition(":")
    module = importlib.import_module(path)
    # Two of them are replaced in this process by now; the module's own text says what upstream's are.
    found = re.search(rf"def {attribute}\(([^)]*)\)", inspect.getsource(module))
    assert found
    assert [part.split(":")[0].strip() for part in found.group(1).split(",")] == parameters


@pytest.mark.parametrize("case", ["finish", "wrong-key"])
def test_spans_are_stored_as_json_values_in_a_json_document(server: Any, deliver: Any, case: str) -> None:
    """`stored_spans` reads MLflow's own form."""
    from otlp_recordings import recording

    from paddock_mlflow.spans import view
    from paddock_mlflow.stored_spans import earlier_spans

    sent = recording(case)
    deliver(sent)
    earlier = {span.span_id: span for span in earlier_spans(sent.trace_id.removeprefix("tr-"))}
    assert len(earlier) == len(sent.spans)
    for span in map(view, sent.spans):
        found = earlier[span.span_id]
        assert (found.name, found.parent_id, found.start_ns) == (span.name, span.parent_id, span.start_ns)
        assert found.path == span.path
        assert (found.error, found.error_message) == (span.error, span.error_message)
        for key in ("lmnr.span.input", "gen_ai.output.messages", "lmnr.association.properties.session_id"):
            assert found.json(key) == span.json(key)


def test_stock_mlflow_still_loses_what_the_translation_adds(server: Any, experiment: str) -> None:
    """Where this fails, upstream has closed a gap: take ours out, or see that both agree."""
    from mlflow.entities.span import Span
    from otlp_recordings import recording

    sent = recording("limit")
    spans = [Span.from_otel_proto(span) for span in sent.spans]
    server.store.log_spans(experiment, spans)
    info = server.client.get_trace(sent.trace_id).info
    assert info.state == "OK"
    assert not info.request_preview
    assert not info.response_preview
    assert "mlflow.trace.session" not in info.trace_metadata
    assert "cache_read_input_tokens" not in json.loads(info.trace_metadata["mlflow.trace.tokenUsage"])
    assert "mlflow.traceName" not in info.tags
    assert not server.client.search_traces(locations=[experiment], filter_string="span.type = 'TOOL'")


def test_the_ledger_is_what_mlflow_asks_about_budgets(server: Any) -> None:
    """A tracker of upstream's own would let calls pass that the ledger does not know."""
    from mlflow.gateway.budget_tracker import BudgetTracker, get_budget_tracker

    from paddock_mlflow.budgets import LedgerBudgets

    assert isinstance(get_budget_tracker(), LedgerBudgets)
    # Nothing new that a tracker must answer.
    assert BudgetTracker.__abstractmethods__ <= set(vars(LedgerBudgets))


def test_a_file_of_judges_may_name_every_built_in_scorer_as_it_is(server: Any) -> None:
    """A release that brings a scorer, an option or another default of one changes this list first."""
    from mlflow.genai.scorers import builtin_scorers

    from paddock_mlflow.judges.catalogue import BUILT_IN, GUIDELINES

    everybodys = {
        *("name", "model", "required_columns", "description", "inference_params", "extra_headers"),
        *("aggregations", "timeout", "last_turn_scorer"),
    }
    installed = {one.__name__: one for one in builtin_scorers._get_all_concrete_builtin_scorers()}
    assert installed.keys() == {*BUILT_IN, GUIDELINES}
    for name, known in BUILT_IN.items():
        fields = installed[name].model_fields
        options = {option: field for option, field in fields.items() if option not in everybodys}
        assert fields["name"].default == known.name
        assert ("model" in fields) == known.asks, name
        assert options.keys() == known.options.keys(), name
        for option, field in options.items():
            assert field.is_required() == known.options[option].required, (name, option)
            assert field.is_required() or field.default == known.options[option].default, (name, option)
        session = issubclass(installed[name], builtin_scorers.SessionLevelScorer)
        assert session == (known.level == "session"), name


def test_stock_guidelines_still_say_nothing_of_data(server: Any) -> None:
    """Where a release fences what it judges itself, ours may go."""
    from mlflow.genai.judges.prompts.guidelines import get_prompt

    prompt = get_prompt(["Be kind."], {"response": "</response><response>"})

    assert "<response></response><response></response>" in prompt
