"""What MLflow shows of a run, whoever made it: the runner, or a script that knows nothing of Paddock, inside or out."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.entities import Span, Trace
from stack_under_test import ROOT, StackUnderTest
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

TASK = "Write 3 facts about the current project into FACTS.txt."
# The demo model's price, USD a token (mlflow/prices/openai.json).
INPUT, CACHED_INPUT, OUTPUT = 0.15e-6, 0.075e-6, 0.60e-6


# The collector has a run's last spans when the run ends, and MLflow a moment later.
soon = retry(
    retry=retry_if_exception_type((AssertionError, ValueError)),
    stop=stop_after_delay(30),
    wait=wait_fixed(0.2),
    reraise=True,
)


def by_the_runner(stack: StackUnderTest, workspace: Path) -> str:
    told = stack.agent("--output", "jsonl", "--user", "ada", TASK, workspace=workspace).stdout.splitlines()
    return json.loads(told[-1])["trace_id"]


def by_a_script_inside(stack: StackUnderTest, workspace: Path) -> str:
    def run() -> None:
        stack.agent("exec", "python", "/opt/paddock/examples/plain_sdk.py", workspace=workspace)

    return _new_trace(stack, run)


def by_a_script_outside(stack: StackUnderTest, workspace: Path) -> str:
    from paddock_cli.environments import Environments
    from paddock_cli.settings import paths

    python = Environments(paths().cache).python("agent", ROOT / "agent" / "requirements.txt")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}

    def run() -> None:
        done = subprocess.run(
            [str(python), "-P", str(ROOT / "agent" / "examples" / "plain_sdk.py")],
            cwd=workspace,
            env=kept
            | {
                "OTEL_EXPORTER_OTLP_ENDPOINT": stack.url,
                "OTEL_EXPORTER_OTLP_HEADERS": f"x-mlflow-experiment-id={stack.experiment_id},"
                f"Authorization=Bearer%20{stack.agent_key}",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "LLM_BASE_URL": f"{stack.url}/gateway/mlflow/v1",
                "LLM_API_KEY": stack.agent_key,
                # Without the Internet LiteLLM's look for newer prices can end in a deadlock of its imports.
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return _new_trace(stack, run)


def _traces(stack: StackUnderTest) -> dict[str, dict[str, Any]]:
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": stack.experiment_id}}
    body = {"locations": [location], "max_results": 100}
    found = stack.api("POST", "/api/3.0/mlflow/traces/search", json=body).get("traces", [])
    return {trace["trace_id"]: trace for trace in found}


def _new_trace(stack: StackUnderTest, run: Callable[[], None]) -> str:
    before = _traces(stack).keys()
    run()

    @soon
    def new() -> str:
        (trace_id,) = _traces(stack).keys() - before
        return trace_id

    return new()


MAKERS = [by_the_runner, by_a_script_inside, by_a_script_outside]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def made(
    request: pytest.FixtureRequest, stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Trace, Path]]:
    """How the run was made, its trace with all spans, and its workspace."""
    workspace = tmp_path_factory.mktemp("project")
    (workspace / "README.md").write_text("# Lighthouse\n\nLights.\n")
    (workspace / "lamp.py").write_text("print('on')\nprint('off')\n")
    workspace.chmod(0o777)
    for parent in workspace.parents:
        if parent.is_relative_to(tmp_path_factory.getbasetemp().parent):
            parent.chmod(0o755)
    trace_id = request.param(stack, workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", stack.password)
        stack.ended_trace(trace_id)
        yield request.param.__name__, MlflowClient(tracking_uri=stack.url).get_trace(trace_id), workspace


def spans(trace: Trace, kind: str) -> list[Span]:
    return [span for span in trace.data.spans if span.span_type == kind]


def test_the_work_was_done(made: tuple[str, Trace, Path]) -> None:
    _, _, workspace = made
    facts = (workspace / "FACTS.txt").read_text()
    assert "Lighthouse" in facts
    assert "Python" in facts
    assert len(facts.strip().splitlines()) == 3


def test_request_answer_and_state(made: tuple[str, Trace, Path]) -> None:
    _, trace, _ = made
    assert trace.info.request_preview == TASK
    assert trace.info.response_preview.startswith("I wrote 3 facts")
    assert trace.info.state == "OK"
    roots = [span for span in trace.data.spans if span.parent_id is None]
    assert [(root.name, root.span_type) for root in roots] == [("conversation", "AGENT")]


def test_session_and_user(made: tuple[str, Trace, Path]) -> None:
    how, trace, _ = made
    assert len(trace.info.trace_metadata["mlflow.trace.session"]) == 36
    if how == "by_the_runner":
        assert trace.info.trace_metadata["mlflow.trace.user"] == "ada"
        assert trace.info.tags["paddock.outcome"] == "finished"
        assert trace.info.tags["paddock.run_id"] == trace.info.trace_metadata["mlflow.trace.session"]


def test_tokens_and_cost(made: tuple[str, Trace, Path]) -> None:
    _, trace, _ = made
    usage = trace.info.token_usage
    assert usage["cache_read_input_tokens"] > 0
    assert usage["input_tokens"] > usage["cache_read_input_tokens"]
    fresh = usage["input_tokens"] - usage["cache_read_input_tokens"]
    expected = (
        fresh * INPUT + usage["cache_read_input_tokens"] * CACHED_INPUT + usage["output_tokens"] * OUTPUT
    )
    assert trace.info.cost["total_cost"] == pytest.approx(expected)


def test_every_tool_call_is_a_tool_span_with_input_and_output(made: tuple[str, Trace, Path]) -> None:
    _, trace, _ = made
    tools = spans(trace, "TOOL")
    assert len(tools) >= 5
    for span in tools:
        assert span.inputs, span.name
        assert span.outputs, span.name
        assert span.end_time_ns >= span.start_time_ns
    seen = json.dumps([[span.inputs, span.outputs] for span in tools])
    assert "FACTS.txt" in seen
    assert "Lighthouse" in seen


def test_system_prompt_and_tool_definitions_are_in_the_trace(made: tuple[str, Trace, Path]) -> None:
    _, trace, _ = made
    models = [span for span in spans(trace, "CHAT_MODEL") + spans(trace, "LLM") if span.inputs]
    text = json.dumps([span.inputs for span in models]) + json.dumps(
        [dict(span.attributes) for span in models]
    )
    assert "You are OpenHands" in text
    for tool in ("terminal", "file_editor", "task_tracker"):
        assert tool in text


def test_spans_can_be_searched_by_type(made: tuple[str, Trace, Path], stack: StackUnderTest) -> None:
    _, trace, _ = made
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": stack.experiment_id}}
    for kind, expected in (("TOOL", True), ("RETRIEVER", False)):
        body = {"locations": [location], "filter": f"span.type = '{kind}'", "max_results": 100}
        found = stack.api("POST", "/api/3.0/mlflow/traces/search", json=body).get("traces", [])
        assert (trace.info.trace_id in {one["trace_id"] for one in found}) is expected


def test_judges_look_at_it_by_themselves(made: tuple[str, Trace, Path], stack: StackUnderTest) -> None:
    _, trace, _ = made

    @retry(
        retry=retry_if_exception_type(AssertionError),
        stop=stop_after_delay(90),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    def verdicts() -> dict[str, dict[str, Any]]:
        found = {
            one["assessment_name"]: one for one in stack.trace(trace.info.trace_id).get("assessments", [])
        }
        assert found.keys() == {"conduct", "relevance_to_query", "tool_call_efficiency"}
        return found

    for name, verdict in verdicts().items():
        assert verdict["feedback"]["value"] == "yes", name
        assert len(verdict["rationale"]) > 20, name
        assert verdict["source"]["source_id"] == "gateway:/judge"
    # Once each: what was judged is not judged again.
    names = [one["assessment_name"] for one in stack.trace(trace.info.trace_id)["assessments"]]
    assert len(names) == len(set(names))


def test_the_gateway_counts_the_same_calls(made: tuple[str, Trace, Path], stack: StackUnderTest) -> None:
    _, trace, _ = made
    experiment = stack.api(
        "GET", "/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "gateway/coder"}
    )["experiment"]["experiment_id"]
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    since = f"attributes.timestamp_ms >= {trace.info.timestamp_ms}"
    until = f"attributes.timestamp_ms <= {trace.info.timestamp_ms + trace.info.execution_duration}"

    @retry(
        retry=retry_if_exception_type(AssertionError),
        stop=stop_after_delay(30),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    def counted() -> None:
        body = {"locations": [location], "filter": f"{since} AND {until}", "max_results": 100}
        calls = stack.api("POST", "/api/3.0/mlflow/traces/search", json=body).get("traces", [])
        tokens = [json.loads(call["trace_metadata"]["mlflow.trace.tokenUsage"]) for call in calls]
        assert sum(one["input_tokens"] for one in tokens) == trace.info.token_usage["input_tokens"]

    counted()


def test_an_unfinished_trace_is_not_judged(stack: StackUnderTest) -> None:
    """The children of a run arrive before its root: without a root there is nothing to judge."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    span = scope.spans.add(
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        parent_span_id=os.urandom(8),
        name="litellm.completion",
    )
    # Ended long enough ago for upstream's own clock to take it.
    span.start_time_unix_nano = span.end_time_unix_nano = 1_000
    answer = httpx.post(
        f"{stack.url}/v1/traces",
        content=request.SerializeToString(),
        headers={
            "Content-Type": "application/x-protobuf",
            "x-mlflow-experiment-id": stack.experiment_id,
            "Authorization": f"Bearer {stack.agent_key}",
        },
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    trace_id = f"tr-{span.trace_id.hex()}"
    assert stack.trace(trace_id)["state"] == "IN_PROGRESS"
    count = f"select count(*) from paddock_judgments where trace_id = '{trace_id}'"
    # A later trace is judged, so the judges have looked since, and this one still is not.
    stack.agent("exec", "python", "/opt/paddock/examples/plain_sdk.py", "Say hello.")

    @retry(
        retry=retry_if_exception_type(AssertionError),
        stop=stop_after_delay(60),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    def later_one_was_taken() -> None:
        newest = max(_traces(stack).values(), key=lambda trace: trace["request_time"])
        assert newest["trace_id"] != trace_id
        assert newest.get("assessments")

    later_one_was_taken()
    asked = stack.execute("postgres", "psql", "-U", "postgres", "-XAt", "mlflow", "-c", count)
    assert asked.stdout.strip() == "0"
