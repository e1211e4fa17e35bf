"""The shared cases, on the Compose stack."""

from pathlib import Path

from cases import TASK, EndToEnd, Finished, Product, eventually, run_keys
from stack_under_test import StackUnderTest


class TestCompose(EndToEnd):
    """Every shared case, in containers."""

    def test_spans_are_the_runs_by_its_key(self, stack: StackUnderTest, finished: Finished) -> None:
        """And not the stack's, as those of a container without a key are."""
        trace_id = finished.run["trace_id"]
        assert stack.trace(trace_id)["state"] == "OK"
        query = (
            "SELECT run_id FROM paddock_trace_owners o JOIN paddock_keys k ON k.id = o.key_id"
            f" WHERE trace_id = '{trace_id}'"
        )
        asked = stack.execute("postgres", "psql", "-U", "postgres", "-XAt", "mlflow", "-c", query)
        assert asked.stdout.strip() == finished.run["run_id"]


def test_the_demo_ends_judged(product: Product, tmp_path: Path) -> None:
    answer = product.paddock("demo", "--workspace", str(tmp_path), timeout=900)

    assert answer.code == 0, answer.err
    for judge in ("conduct", "correctness", "relevance_to_query", "tool_call_efficiency"):
        assert judge in answer.out
    assert "EMBEDDED" not in answer.err
    assert len((tmp_path / "FACTS.txt").read_text().splitlines()) == 3


def test_the_agent_of_a_run_has_no_key_of_a_provider(product: Product, tmp_path: Path) -> None:
    """A key in the caller's shell goes to the gateway, and never with the agent."""
    answer = product.paddock(
        *[
            "run",
            "Run `env; cat /proc/1/environ`.",
            "--workspace",
            str(tmp_path),
            "--judge-timeout",
            "0",
            "--json",
        ],
        env={"OPENAI_API_KEY": "sk-canary-0123456789"},
    )

    assert answer.code == 0, answer.err
    spans = product.api(
        "GET", f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={answer.document['run']['trace_id']}"
    )
    # Nor of the run itself: that one reached the runner by standard input.
    assert "pdk_" not in str(spans)
    assert "HOME=/home/agent" in str(spans)
    key = next(key for key in run_keys(product) if key["id"] == answer.document["budget"]["key_id"])
    assert key["state"] == "revoked"
    assert "sk-canary" not in str(spans)


def test_a_provider_that_is_down_ends_as_unavailable_with_a_trace(
    product: Product, stack: StackUnderTest, tmp_path: Path
) -> None:
    stack.compose("stop", "demo-model")
    try:
        answer = product.paddock("run", TASK, "--workspace", str(tmp_path), "--judge-timeout", "0", "--json")
    finally:
        stack.compose("start", "demo-model")
        eventually(
            lambda: stack.inspect("demo-model")["State"]["Health"]["Status"] == "healthy", 60, "a demo model"
        )

    assert answer.code == 8, answer.err
    assert answer.document["run"]["outcome"] == "provider_unavailable"
    assert answer.document["trace"]["state"] == "ERROR"
