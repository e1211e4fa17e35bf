"""What the released MLflow does where the plugin does something else: the gaps of docs/upstream.md, seen failing.

Where one of these fails, upstream has closed a gap: take ours out, or see that both agree.
"""

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest
from judging_made import played_gateway, refused, verdict
from otlp_recordings import recording
from stock import ADMIN, CALL_USD, Stock
from tenacity import Retrying, stop_after_delay, wait_fixed


def test_a_bearer_key_is_a_stranger(stock: Stock) -> None:
    """Which every OpenAI client sends."""
    stock.endpoint("bearer")
    answer = httpx.post(
        f"{stock.url}/gateway/mlflow/v1/chat/completions",
        json={"model": "bearer", "messages": []},
        headers={"Authorization": f"Bearer {ADMIN[1]}"},
    )
    assert answer.status_code == 401
    assert "json" not in answer.headers["content-type"]


def test_wrong_passwords_are_checked_without_end(stock: Stock) -> None:
    url = f"{stock.url}/api/2.0/mlflow/experiments/search"
    answers = {httpx.post(url, json={}, auth=("admin", f"guess-{n}")).status_code for n in range(30)}
    assert answers == {401}


def test_a_page_of_another_site_calls_the_gateway(stock: Stock) -> None:
    """With the password that the browser has, and sends along."""
    stock.endpoint("cross-site")
    body = {"model": "cross-site", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"Origin": "https://evil.test", "Content-Type": "text/plain"}
    url = f"{stock.url}/gateway/mlflow/v1/chat/completions"
    answer = httpx.post(url, content=json.dumps(body), headers=headers, auth=ADMIN)
    assert answer.status_code == 200, answer.text


def test_a_provider_that_is_away_is_a_line_of_text(stock: Stock) -> None:
    stock.endpoint("away", base="http://127.0.0.1:9/v1")
    answer = stock.chat("away")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


def test_an_unknown_endpoint_is_no_error_of_openais(stock: Stock) -> None:
    assert "error" not in stock.chat("no-such-endpoint").json()


def test_calls_at_once_pass_a_budget_together(stock: Stock) -> None:
    """One server, one worker: it looks before the call and counts after it."""
    stock.budget(stock.endpoint("overshot"), 2 * CALL_USD)
    stock.provider.delay = 0.5
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: stock.chat("overshot"), range(8)))
    finally:
        stock.provider.delay = 0
    assert [answer.status_code for answer in answers] == [200] * 8
    refused = stock.chat("overshot")
    assert refused.status_code == 429
    # In nobody's error shape, and without what clients need to stop or to wait.
    assert set(refused.json()) == {"detail"}
    assert not {"retry-after", "x-should-retry"} & {name.lower() for name in refused.headers}


def test_a_model_without_a_price_passes_every_budget(stock: Stock) -> None:
    stock.budget(stock.endpoint("unpriced", model="no-such-model"), 0.01)
    assert [stock.chat("unpriced").status_code for _ in range(3)] == [200] * 3


def test_an_untracked_endpoint_writes_traces(stock: Stock) -> None:
    """With the prompt, into the experiment that everybody has."""
    stock.endpoint("untracked", tracked=False)
    assert stock.chat("untracked", "/gateway/openai/v1/chat/completions").status_code == 200
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    for attempt in Retrying(stop=stop_after_delay(20), wait=wait_fixed(0.3), reraise=True):
        with attempt:
            found = stock.api("/api/3.0/mlflow/traces/search", {"locations": [location], "max_results": 10})
            assert found.get("traces")


def test_every_call_opens_a_connection(stock: Stock) -> None:
    stock.endpoint("connections", tracked=False)
    before = stock.provider.connections
    for _ in range(4):
        assert stock.chat("connections").status_code == 200
    assert stock.provider.connections - before == 4


def test_a_callers_mistake_is_sent_to_every_fallback(stock: Stock) -> None:
    models = [stock.model("first"), stock.model("second")]
    stock.endpoint_of("mistaken", models)
    before = len(stock.provider.requests)
    stock.provider.status = 400
    try:
        assert stock.chat("mistaken").status_code == 400
    finally:
        stock.provider.status = 200
    assert len(stock.provider.requests) - before == 2


def test_the_switch_for_private_providers_opens_every_address(stock: Stock) -> None:
    stock.model("inside", base="http://10.1.2.3:5432")


def test_a_body_has_no_limit(stock: Stock) -> None:
    """33 MiB of nothing are read to their end, and then found to be no spans."""
    answer = httpx.post(
        f"{stock.url}/v1/traces",
        content=bytes(33 << 20),
        auth=ADMIN,
        headers={"content-type": "application/x-protobuf", "x-mlflow-experiment-id": "0"},
        timeout=60,
    )
    assert answer.status_code == 400


def test_a_trace_takes_spans_from_whoever_knows_its_id(stock: Stock) -> None:
    """With a permission on some other experiment, and over spans that are there."""
    victim = stock.api("/api/2.0/mlflow/experiments/create", {"name": "of somebody else"})["experiment_id"]
    stranger = ("stranger", "a-password-of-the-tests")
    stock.api("/api/2.0/mlflow/users/create", {"username": stranger[0], "password": stranger[1]})
    made = httpx.post(
        f"{stock.url}/api/2.0/mlflow/experiments/create", json={"name": "of the stranger"}, auth=stranger
    )
    own = made.json()["experiment_id"]

    request = recording("message").requests[0]
    span = request.resource_spans[0].scope_spans[0].spans[0]
    for auth, experiment, name in ((ADMIN, victim, "true"), (stranger, own, "forged")):
        span.name = name
        answer = httpx.post(
            f"{stock.url}/v1/traces",
            content=request.SerializeToString(),
            auth=auth,
            headers={"content-type": "application/x-protobuf", "x-mlflow-experiment-id": experiment},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
    with closing(sqlite3.connect(stock.database)) as database:
        query = "select name, experiment_id from spans where span_id = ?"
        assert database.execute(query, [span.span_id.hex()]).fetchall() == [("forged", int(victim))]


def test_a_kill_loses_the_spend_of_answered_calls(stock: Stock) -> None:
    """The last that is asked of this server: traces, and with them the budgets' memory, wait in its own."""
    endpoint = stock.endpoint("killed")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: stock.chat("killed"), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    stock.kill()
    with closing(sqlite3.connect(stock.database)) as database:
        query = (
            "select count(distinct request_id) from trace_request_metadata"
            " join spans on spans.trace_id = request_id where value = ?"
        )
        (kept,) = database.execute(query, [endpoint]).fetchone()
    assert kept < 8


def test_a_trace_that_has_not_ended_is_taken_for_judging(server: Any, experiment: str) -> None:
    """Upstream asks when a trace began."""
    from mlflow.entities.span import Span
    from mlflow.genai.scorers.online.trace_loader import OnlineTraceLoader

    sent = recording("limit")
    children = [Span.from_otel_proto(span) for span in sent.spans if span.parent_span_id]
    server.store.log_spans(experiment, children)
    assert server.client.get_trace(sent.trace_id).info.state == "IN_PROGRESS"
    found = OnlineTraceLoader(server.store).fetch_trace_infos_in_range(experiment, 0, int(time.time() * 1000))
    assert [info.trace_id for info in found] == [sent.trace_id]


def test_a_judge_tries_a_failing_model_for_minutes(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spent budget too, and whatever Retry-After says."""
    from mlflow.genai.judges.adapters import utils

    slept: list[float] = []
    monkeypatch.setattr(utils.time, "sleep", slept.append)
    with played_gateway() as gateway:
        gateway.answer = lambda _: refused(429, "insufficient_quota", retry_after="1")
        with pytest.raises(utils.ChatCompletionError):
            utils.send_chat_request(gateway.url, {}, {}, num_retries=10)
    assert len(gateway.requests) == gateway.connections == 11
    assert sum(slept) > 150


def test_a_verdict_that_is_not_in_the_scale_counts(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from typing import Literal

    from mlflow.genai.judges import make_judge

    with played_gateway() as gateway:
        monkeypatch.setenv("MLFLOW_GATEWAY_URI", gateway.url)
        gateway.answer = lambda _: verdict("lukewarm")
        judge = make_judge(
            name="tone",
            instructions="{{ outputs }}?",
            model="gateway:/judge",
            feedback_value_type=Literal["warm", "cold"],
        )
        feedback = judge(outputs="x")
    assert (feedback.value, feedback.error) == ("lukewarm", None)


def test_a_price_of_our_own_is_found_with_its_provider_alone(server: Any) -> None:
    from mlflow.tracing.utils import calculate_cost_by_model_and_token_usage

    usage = {"input_tokens": 1_000_000, "output_tokens": 0}
    assert calculate_cost_by_model_and_token_usage("demo", usage, "openai")
    assert calculate_cost_by_model_and_token_usage("demo", usage) is None


def test_an_s3_store_hands_out_addresses_of_its_own() -> None:
    from mlflow.store.artifact.artifact_repo import MultipartDownloadMixin, MultipartUploadMixin
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    assert issubclass(S3ArtifactRepository, MultipartDownloadMixin)
    assert issubclass(S3ArtifactRepository, MultipartUploadMixin)
