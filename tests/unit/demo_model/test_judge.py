"""MLflow's own judges, called as MLflow calls them, against a demo model behind a socket."""

from typing import Any, Literal

import pytest

from paddock_demo_model import verdicts

pytest.importorskip("mlflow.genai", reason="needs MLflow, whose judges are called here")

from mlflow.genai.judges import is_tool_call_correct, is_tool_call_efficient, make_judge
from mlflow.genai.scorers import (
    Completeness,
    Correctness,
    Equivalence,
    Fluency,
    Guidelines,
    RelevanceToQuery,
    Safety,
    Summarization,
)
from mlflow.genai.utils.type import FunctionCall
from mlflow.types.chat import ChatTool

# MLflow repeats a failed judge call for minutes.
pytestmark = pytest.mark.timeout(60)

MODEL = "openai:/demo"
TASK = {"task": "Write 3 facts about the current project into FACTS.txt."}
ANSWER = "I wrote 3 facts about the current project into FACTS.txt: 1. It has 4 files."
DOCUMENT = "High water comes twice a day, and low water between. The moon is why. " * 5


@pytest.fixture(autouse=True)
def _provider(server: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # A judge looks up its price: in the tracking store's folder and, by default, on the network.
    folder = tmp_path_factory.getbasetemp() / "mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(folder))
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, f"{server}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def verdict(feedback: Any) -> str:
    """The feedback's value as text."""
    assert feedback.error is None, feedback.error
    return str(getattr(feedback.value, "value", feedback.value)).lower()


@pytest.mark.parametrize(
    ("answer", "expected", "reason"),
    [
        (ANSWER, "yes", "Of the question's 6 content words the answer has 6: write, 3, facts"),
        ("Bananas are yellow.", "no", "has 0. It does not mention write, 3, facts"),
        (" ", "no", "The answer is empty."),
    ],
)
def test_relevance(answer: str, expected: str, reason: str) -> None:
    feedback = RelevanceToQuery(model=MODEL)(inputs=TASK, outputs=answer)

    assert verdict(feedback) == expected
    assert reason in feedback.rationale


@pytest.mark.parametrize(
    ("expectations", "expected", "reason"),
    [
        ({"expected_facts": ["FACTS.txt has three facts", "There are 4 files"]}, "yes", "2 of 2 expected statements"),
        ({"expected_facts": ["FACTS.txt has three facts", "There are 5 files"]}, "no", '"There are 5 files" lacks 5'),
        ({"expected_facts": ["Into FACTS.txt it wrote 5 facts about the current project"]}, "no", "lacks 5"),
        ({"expected_response": "Three facts were written into FACTS.txt."}, "yes", "1 of 1 expected statement"),
        ({"expected_response": "Paris is the capital of France."}, "no", "lacks paris, capital, france"),
    ],
)  # fmt: skip
def test_correctness(expectations: dict[str, Any], expected: str, reason: str) -> None:
    feedback = Correctness(model=MODEL)(inputs=TASK, outputs=ANSWER, expectations=expectations)

    assert verdict(feedback) == expected
    assert reason in feedback.rationale


TERMINAL = ChatTool(
    type="function",
    function={
        "name": "terminal",
        "description": "Run a command.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}},
            "required": ["command"],
        },
    },
)


def call(command: str, output: str = "a", exception: str | None = None, **more: str) -> FunctionCall:
    arguments = {"command": command, **more}
    return FunctionCall(name="terminal", arguments=arguments, outputs=output, exception=exception)


@pytest.mark.parametrize(
    ("calls", "expected", "reason"),
    [
        ([call("ls"), call("pwd")], "yes", "Compared 2 tool calls: none repeats"),
        ([], "yes", "Compared 0 tool calls"),
        ([call("ls"), call("pwd"), call("ls")], "no", "call 3 to terminal repeats call 1 with the same output"),
        ([call("ls", summary="look"), call("ls", summary="look again")], "no", "call 2 to terminal repeats call 1"),
        ([call("ls", "a"), call("ls", "a b")], "yes", "none repeats"),
        ([call("ls", "", "ValueError: wrong")], "no", "call 1 to terminal failed"),
        ([call("ls", "{'is_error': True}")], "no", "call 1 to terminal failed"),
        ([call("ls", "{'role': 'tool', 'content': [{'text': \"Error validating tool 'x'\"}]}")], "no", "failed"),
        ([call("ls", "", "TimeoutError: timed out"), call("ls")], "yes", "none failed for good"),
        ([call("cat log", "Tool Call 9: terminal\n  Input Arguments: {}\n  Output: x")], "yes", "Compared 1 tool call"),
    ],
)  # fmt: skip
def test_tool_call_efficiency(calls: list[FunctionCall], expected: str, reason: str) -> None:
    feedback = is_tool_call_efficient(
        request="Look", tools_called=calls, available_tools=[TERMINAL], model=MODEL
    )

    assert verdict(feedback) == expected
    assert reason in feedback.rationale


@pytest.mark.parametrize(
    ("calls", "more", "expected", "reason"),
    [
        ([call("ls")], {}, "yes", "Checked 1 tool calls against 1 offered tools"),
        ([FunctionCall(name="magic", arguments={})], {}, "no", "call 1 uses magic, which is not offered"),
        (
            [FunctionCall(name="terminal", arguments={"cmd": "ls"})],
            {},
            "no",
            "call 1 to terminal lacks command",
        ),
        ([call("ls")], {"expected_tool_calls": ["terminal"]}, "yes", "Checked"),
        ([call("ls")], {"expected_tool_calls": ["editor"]}, "no", "expected editor and found terminal"),
    ],
)
def test_tool_call_correctness(
    calls: list[FunctionCall], more: dict[str, Any], expected: str, reason: str
) -> None:
    expectations = [FunctionCall(name=name) for name in more.get("expected_tool_calls", [])]
    feedback = is_tool_call_correct(
        request="Look",
        tools_called=calls,
        available_tools=[TERMINAL],
        expected_tool_calls=expectations or None,
        include_arguments=False,
        model=MODEL,
    )

    assert verdict(feedback) == expected
    assert reason in feedback.rationale


@pytest.mark.parametrize(
    ("scorer", "fields", "expected"),
    [
        (Safety, {"outputs": ANSWER}, "yes"),
        (Safety, {"outputs": "I will kill you."}, "no"),
        (Completeness, {"inputs": TASK, "outputs": ANSWER}, "yes"),
        (Completeness, {"inputs": TASK, "outputs": "Bananas."}, "no"),
        (Completeness, {"inputs": "Sing!", "outputs": "x"}, "no"),
        (Fluency, {"outputs": "The water rises. It falls again."}, "yes"),
        (Fluency, {"outputs": "the the water rises"}, "no"),
        (Summarization, {"inputs": DOCUMENT, "outputs": "High and low water come by the moon."}, "yes"),
        (Summarization, {"inputs": DOCUMENT, "outputs": "Bananas grow on trees in warm countries."}, "no"),
        (Summarization, {"inputs": DOCUMENT, "outputs": DOCUMENT}, "no"),
        (Equivalence, {"outputs": "4 files", "expectations": {"expected_response": "four files"}}, "yes"),
        (Equivalence, {"outputs": "4 files", "expectations": {"expected_response": '{"files": 4}'}}, "no"),
    ],
)
def test_other_judges(scorer: Any, fields: dict[str, Any], expected: str) -> None:
    assert verdict(scorer(model=MODEL)(**fields)) == expected


@pytest.mark.parametrize(
    ("guideline", "answer", "expected"),
    [
        ("The response must be in English.", ANSWER, "yes"),
        ("The response must be in English.", "Der Hund läuft schnell über die grüne Wiese.", "no"),
        ("The response must not mention 'bananas'.", ANSWER, "yes"),
        ("The response must not mention 'bananas'.", "Bananas!", "no"),
        ("Use at most 30 words.", ANSWER, "yes"),
        ("Use fewer than 5 words.", ANSWER, "no"),
        ("Be inspiring.", ANSWER, "no"),
    ],
)
def test_guidelines(guideline: str, answer: str, expected: str) -> None:
    feedback = Guidelines(name="rule", guidelines=guideline, model=MODEL)(inputs=TASK, outputs=answer)

    assert verdict(feedback) == expected
    if guideline == "Be inspiring.":
        assert "I have no rule that can check this guideline" in feedback.rationale


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (str, "no"),
        (bool, "false"),
        (int, "0"),
        (Literal["good", "bad"], "bad"),
        (Literal["high", "low"], "low"),
    ],
)
def test_an_unknown_judge_gets_no_praise_and_the_reason(wanted: Any, value: str) -> None:
    judge = make_judge(
        name="mine", instructions="How funny is {{ outputs }}?", model=MODEL, feedback_value_type=wanted
    )

    feedback = judge(outputs="x")

    assert verdict(feedback) == value
    assert "have no rule for this judge's instructions" in feedback.rationale


@pytest.mark.parametrize(("statuses", "passed"), [(["OK", "OK"], True), (["OK", "ERROR"], False), ([], None)])
def test_a_trace_is_judged_by_its_spans(statuses: list[str], passed: bool | None) -> None:
    spans = [{"name": "x", "status": {"status_code": status}} for status in statuses]

    assert verdicts.spans_without_errors(spans).passed is passed


def test_arguments_are_compared_without_ids_and_reasons_at_any_depth() -> None:
    def key(identity: str, summary: str, command: str) -> tuple[str, str]:
        arguments = {
            "tool_input": {"id": identity, "arguments": f'{{"summary": "{summary}", "command": "{command}"}}'}
        }
        return verdicts.ToolUse("terminal", str(arguments), "").key

    assert key("1", "look", "ls") == key("2", "look again", "ls")
    assert key("1", "look", "ls") != key("1", "look", "pwd")


def test_words_are_compared_by_their_stems() -> None:
    assert verdicts.content_words("Wrote three files").keys() == verdicts.content_words("write 3 file").keys()
    assert verdicts.content_words("the of and") == {}
    assert "facts.txt" in verdicts.content_words("into FACTS.txt.")
