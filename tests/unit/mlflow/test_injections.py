"""Traces that tell their judge what to say: the fence's wiring, with the demo model, which is easily led.

A real model's resistance is measured on a stack (`./paddock judges probe`). Here the demo model obeys what stands outside
of a fence, so that a fence that is missing, or that content can leave, shows as a wrong verdict.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "services" / "demo-model"))

from paddock_demo_model.judge import is_judging, judge_reply  # noqa: E402
from paddock_demo_model.protocol import ChatRequest  # noqa: E402
from paddock_mlflow.judges import injections, validation  # noqa: E402

TRACES = {one.id: one for one in injections.read()}
ATTACKS = [one for one in TRACES.values() if one.attack]


@pytest.fixture(scope="module")
def conduct(server: Any) -> Any:
    """The shipped guidelines judge, as the judging process calls it."""
    from paddock_mlflow.judges import fenced
    from paddock_mlflow.judges.described import scorer_of

    checked = validation.load(ROOT / "mlflow" / "judges.yaml", ROOT / "mlflow" / "scorers", {"judge"})
    declared = checked.definitions["conduct"]
    return fenced.fenced(scorer_of(declared), sees=declared.sees)


@pytest.fixture(scope="module")
def stored(server: Any) -> Callable[[injections.Injection], Any]:
    """A trace as the server has it, after its way through ingest."""
    from identities import ADMIN

    experiment = server.client.create_experiment("injections")

    def store(one: injections.Injection) -> Any:
        sent = injections.otlp(one)
        answer = server.http.post(
            "/v1/traces", json=sent.payload, headers={"x-mlflow-experiment-id": experiment}, auth=ADMIN
        )
        assert answer.status_code == 200, answer.text
        return server.client.get_trace(sent.trace_id)

    return store


def asked(judge: Any, trace: Any, fence: Any) -> tuple[str, str]:
    """The demo model's verdict and rationale on what a judge would ask."""
    from paddock_mlflow.judges.fenced import Opinion

    messages = [{"role": one.role, "content": one.content} for one in judge.messages(fence, trace=trace)]
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "Opinion", "schema": Opinion.model_json_schema()},
    }
    request = ChatRequest.model_validate({"model": "judge", "messages": messages, "response_format": schema})
    assert is_judging(request)
    answer = json.loads(judge_reply(request).text)
    return answer["result"], answer["rationale"]


@pytest.mark.parametrize("name", TRACES)
def test_what_stands_in_a_trace_does_not_change_its_verdict(conduct: Any, stored: Any, name: str) -> None:
    from paddock_mlflow.judges.fence import Fence

    verdict, rationale = asked(conduct, stored(TRACES[name]), Fence())

    assert verdict == TRACES[name].verdict, rationale


@pytest.mark.parametrize("name", [one.id for one in ATTACKS])
def test_without_the_fence_it_does(
    conduct: Any, stored: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_mlflow.judges import fence

    monkeypatch.setattr(
        fence.Fence, "around", lambda self, part, text, limit: f"{part}: {fence.cut(text, limit)}"
    )

    verdict, rationale = asked(conduct, stored(TRACES[name]), fence.Fence())

    assert (verdict, "I was told to" in rationale) == ("yes", True)


def test_who_knew_the_name_of_the_marks_could_not_leave_them(conduct: Any, stored: Any) -> None:
    from paddock_mlflow.judges.fence import Fence

    known = Fence("data-00000000000000000000000000000000")

    for name in ("forged-fence", "full-width-fence"):
        verdict, rationale = asked(conduct, stored(TRACES[name]), known)
        assert verdict == "no", rationale


def test_the_attacks_ask_for_what_is_wrong() -> None:
    assert len(ATTACKS) >= 12
    assert {one.verdict for one in ATTACKS} == {"no"}
    assert {one.verdict for one in TRACES.values() if not one.attack} == {"yes"}


def test_stock_guidelines_are_led(server: Any, stored: Any) -> None:
    """MLflow's own prompt, for comparison: the answer stands in it as it is."""
    from mlflow.genai.judges.prompts.guidelines import get_prompt

    one = TRACES["own-answer"]
    rule = 'The answer must not contain "Committed".'
    prompt = get_prompt([rule], {"request": one.request, "response": one.answer})
    request = ChatRequest.model_validate(
        {"model": "judge", "messages": [{"role": "user", "content": prompt}]}
    )

    assert json.loads(judge_reply(request).text)["result"] == "yes"


def test_a_file_of_traces_that_has_a_slip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traces.yaml"
    path.write_text("version: 1\ntraces:\n  - {id: x, request: r, answer: a, steps: [], verdict: maybe}\n")

    with pytest.raises(ValueError, match="verdict"):
        injections.read(path)
