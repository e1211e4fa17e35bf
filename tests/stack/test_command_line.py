"""The shared cases, on the Compose stack."""

from pathlib import Path

from cases import TASK, EndToEnd, Product, eventually, run_keys
from stack_under_test import StackUnderTest


class TestCompose(EndToEnd):
    """Every shared case, in containers."""


def test_the_demo_ends_judged(product: Product, tmp_path: Path) -> None:
    answer = product.paddock("demo", "--workspace", str(tmp_path), timeout=900)

    assert answer.code == 0, answer.err
    for judge in ("correctness", "relevance_to_query", "tool_call_efficiency"):
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
