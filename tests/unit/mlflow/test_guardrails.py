"""Guardrails of an endpoint: what MLflow may configure, what they do with requests and answers, and what breaks them."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from identities import ADMIN, INTERNAL_TOKEN

CARD = "4111 1111 1111 1111"
KEY = "AKIAIOSFODNN7EXAMPLE"
GATEWAY = "/api/3.0/mlflow/gateway"
type Body = dict[str, Any]


def chat(text: str) -> Body:
    return {"model": "coder", "messages": [{"role": "user", "content": text}]}


def said(text: str) -> Body:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture(scope="module")
def endpoint(server: Any) -> str:
    """The id of the endpoint `coder`."""
    listed = server.http.get(f"{GATEWAY}/endpoints/list", auth=ADMIN).json()["endpoints"]
    return next(one["endpoint_id"] for one in listed if one["name"] == "coder")


@pytest.fixture
def scorers(server: Any, experiment: str) -> Callable[[Any], Body]:
    """Registers a scorer and gives what a guardrail needs of it."""

    def register(scorer: Any) -> Body:
        serialized = scorer if isinstance(scorer, str) else json.dumps(scorer.model_dump())
        name = json.loads(serialized)["name"]
        body = {"experiment_id": experiment, "name": name, "serialized_scorer": serialized}
        answer = server.http.post("/api/3.0/mlflow/scorers/register", json=body, auth=ADMIN)
        assert answer.status_code == 200, answer.text
        return {"scorer_id": answer.json()["scorer_id"], "scorer_version": answer.json()["version"]}

    return register


@pytest.fixture
def guard(server: Any, endpoint: str, scorers: Callable[[Any], Body], request: pytest.FixtureRequest) -> Any:
    """Adds a guardrail to `coder` by MLflow's REST API; gone after the test."""
    made: list[str] = []

    def add(scorer: Any, stage: str, action: str, name: str = "") -> Any:
        body = {"name": name or request.node.name, "stage": stage, "action": action, **scorers(scorer)}
        answer = server.http.post(f"{GATEWAY}/guardrails/create", json=body, auth=ADMIN)
        if answer.status_code != 200:
            return answer
        made.append(answer.json()["guardrail"]["guardrail_id"])
        body = {"endpoint_id": endpoint, "guardrail_id": made[-1], "execution_order": len(made)}
        added = server.http.post(f"{GATEWAY}/guardrails/add-to-endpoint", json=body, auth=ADMIN)
        assert added.status_code == 200, added.text
        return added

    yield add
    for one in made:
        server.store.remove_guardrail_from_endpoint(endpoint, one)


@pytest.fixture
def look(endpoint: str) -> Callable[..., Any]:
    """Runs the guardrails of `coder`; gives what they return, or the GuardrailStop that they raise."""

    def run(request: Body, response: Body | None = None) -> Any:
        from paddock_mlflow.gateway.hooks import GuardrailStop
        from paddock_mlflow.guardrails import load

        guards = load(endpoint)
        assert guards
        words = "openai_chat"
        asked = guards.before(words, request) if response is None else guards.after(words, request, response)
        try:
            return asyncio.run(asked)
        except GuardrailStop as stop:
            return stop

    return run


@pytest.fixture
def judge_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """Puts an answer, or an exception, in the place of the judge's model; gives what it is asked."""

    def script(answer: Any) -> list[Any]:
        from mlflow.genai import judges

        asked: list[Any] = []

        def is_safe(*, content: str, **_: Any) -> Any:
            asked.append(content)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(judges, "is_safe", is_safe)
        return asked

    return script


def pii(*kinds: str) -> Any:
    from mlflow.genai.scorers import PIIDetection

    return PIIDetection(pii_types=list(kinds) or None)


def secrets() -> Any:
    from mlflow.genai.scorers import RegexMatch

    from paddock_mlflow.guardrails.scorers import secret_pattern

    return RegexMatch(name="secret_detection", pattern=secret_pattern())


def safety() -> Any:
    from mlflow.genai.scorers import Safety

    return Safety(model="gateway:/coder")


def test_stock_breaks_on_these_scorers(server: Any) -> None:
    """What the adapter is for; when upstream mends it, this test says so."""
    from mlflow.entities.gateway_guardrail import GuardrailAction, GuardrailStage
    from mlflow.gateway.guardrails import JudgeGuardrail

    for scorer, stage in ((pii(), GuardrailStage.BEFORE), (safety(), GuardrailStage.AFTER)):
        stock = JudgeGuardrail(scorer, stage, GuardrailAction.VALIDATION, "stock")
        asked = (
            stock.process_request(chat("hello"))
            if stage == GuardrailStage.BEFORE
            else stock.process_response(chat("hello"), said("hello"))
        )
        with pytest.raises(TypeError, match="unexpected keyword argument 'inputs'"):
            asyncio.run(asked)


def test_validation_names_the_kind_and_never_the_value(guard: Any, look: Any) -> None:
    guard(pii("credit_card", "ssn"), "BEFORE", "VALIDATION", "no-cards")
    stop = look(chat(f"Pay with {CARD}, not with 078-05-1120, and {CARD}"))

    assert (stop.status, stop.kind) == (400, "content_policy_violation")
    assert str(stop).startswith("guardrail 'no-cards' refused the request: ")
    assert "credit_card (2), ssn (1)" in str(stop)
    assert stop.loggable == chat("Pay with [CREDIT_CARD], not with [SSN], and [CREDIT_CARD]")
    (check,) = stop.checks
    assert check.record() == {
        "name": "no-cards",
        "stage": "BEFORE",
        "action": "VALIDATION",
        "passed": False,
        "rationale": "found credit_card (2), ssn (1)",
    }
    assert CARD not in repr((stop, vars(stop)))


def test_what_is_clean_passes_as_it_is(guard: Any, look: Any) -> None:
    guard(pii(), "BEFORE", "VALIDATION")
    body = chat("The order 4111 1111 1111 1112 has no check digit.")
    passed = look(body)
    assert passed.body is body and not passed.changed
    assert [check.passed for check in passed.checks] == [True]


def test_sanitization_masks_and_goes_on(guard: Any, look: Any) -> None:
    guard(pii("credit_card"), "BEFORE", "SANITIZATION", "cards")
    guard(secrets(), "BEFORE", "SANITIZATION", "keys")
    passed = look(chat(f"{CARD} and {KEY}"))
    assert passed.body == chat("[CREDIT_CARD] and [AWS_ACCESS_KEY]")
    assert passed.changed
    assert [(check.name, check.passed) for check in passed.checks] == [("cards", False), ("keys", False)]
    assert "aws_access_key (1)" in passed.checks[1].rationale


def test_a_refusal_s_record_is_masked_whatever_the_guardrail_looks_for(guard: Any, look: Any) -> None:
    guard(pii("ssn"), "BEFORE", "VALIDATION")
    stop = look(chat(f"078-05-1120, {KEY}"))
    assert stop.loggable == chat("[SSN], [AWS_ACCESS_KEY]")


def test_a_later_guardrail_sees_what_an_earlier_one_masked(guard: Any, look: Any) -> None:
    guard(pii("credit_card"), "BEFORE", "SANITIZATION", "mask")
    guard(pii("credit_card"), "BEFORE", "VALIDATION", "refuse")
    passed = look(chat(CARD))
    assert passed.body == chat("[CREDIT_CARD]")
    assert [check.passed for check in passed.checks] == [False, True]


def test_large_bodies_are_masked_too(guard: Any, look: Any) -> None:
    guard(pii("credit_card"), "BEFORE", "SANITIZATION")
    assert look(chat("a word " * 10_000 + CARD)).body["messages"][0]["content"].endswith("word [CREDIT_CARD]")


def test_answers_are_masked_too(guard: Any, look: Any) -> None:
    guard(secrets(), "AFTER", "SANITIZATION")
    assert look(chat("Which key?"), said(f"It is {KEY}.")).body == said("It is [AWS_ACCESS_KEY].")
    assert not look(chat(f"Is it {KEY}?")).checks, "a guardrail of answers does not look at requests"


def test_an_own_pattern_can_be_forbidden(guard: Any, look: Any) -> None:
    from mlflow.genai.scorers import RegexMatch

    from paddock_mlflow.guardrails.scorers import forbidding

    scorer = RegexMatch(name="code_names", pattern=forbidding({"project": r"\bBlue ?Heron\b"}))
    assert (scorer(outputs="Nothing here").value, scorer(outputs="a\nBlue Heron").value) == ("yes", "no")
    guard(scorer, "BEFORE", "SANITIZATION")
    assert look(chat("What is BlueHeron?")).body == chat("What is [FORBIDDEN]?")


def test_mlflow_itself_reads_the_secret_scorer_alike() -> None:
    scorer = secrets()
    assert scorer(outputs=f"line\nexport KEY={KEY}").value == "no"
    assert scorer(outputs="nothing to see").value == "yes"


def test_safety_judges_an_answer(guard: Any, look: Any, judge_says: Any) -> None:
    from mlflow.entities.assessment import Feedback

    guard(safety(), "AFTER", "VALIDATION", "safe-answers")
    asked = judge_says(Feedback(value="yes", rationale="fine"))
    assert not look(chat("Hi"), said("Hello.")).changed
    assert asked == ["Hello."]

    judge_says(Feedback(value="no", rationale=f"It tells the card {CARD}."))
    stop = look(chat("Hi"), said("I tell."))
    assert stop.status == 400
    assert "'safe-answers' refused the answer" in str(stop) and "It tells" not in str(stop)
    assert stop.checks[0].rationale == "It tells the card [CREDIT_CARD]."


def test_a_judge_reads_tool_calls_too(guard: Any, look: Any, judge_says: Any) -> None:
    from mlflow.entities.assessment import Feedback

    guard(safety(), "AFTER", "VALIDATION")
    asked = judge_says(Feedback(value="yes"))
    call = {"id": "call_1", "type": "function", "function": {"name": "run", "arguments": '{"command": "ls"}'}}
    look(chat("Hi"), {"choices": [{"message": {"content": None, "tool_calls": [call]}}]})
    assert asked == ['run({"command": "ls"})']


@pytest.mark.parametrize("wrong", ["raises", "error", "no verdict"])
def test_a_judge_that_breaks_lets_nothing_pass(guard: Any, look: Any, judge_says: Any, wrong: str) -> None:
    from mlflow.entities.assessment import AssessmentError, Feedback

    guard(safety(), "AFTER", "VALIDATION", "safe-answers")
    judge_says(
        {
            "raises": ConnectionError(f"no route, {KEY}"),
            "error": Feedback(error=AssessmentError("MODEL", "Invalid Host header")),
            "no verdict": Feedback(value=0.5),
        }[wrong]
    )
    stop = look(chat("Hi"), said(f"Hello, {CARD}."))
    assert (stop.status, stop.kind) == (503, "guardrail_unavailable")
    assert "'safe-answers'" in str(stop)
    assert stop.loggable == said("Hello, [CREDIT_CARD].")
    reason = {"raises": "no route", "error": "Invalid Host header", "no verdict": "the type float"}[wrong]
    assert not stop.checks[0].passed
    assert stop.checks[0].rationale.startswith("not checked: ") and reason in stop.checks[0].rationale
    assert KEY not in repr((stop, vars(stop)))


def test_a_guardrail_that_cannot_be_made_lets_nothing_pass(
    server: Any, guard: Any, look: Any, endpoint: str
) -> None:
    """One from before the plugin, or changed in the database."""
    from mlflow.store.tracking.dbmodels.models import SqlScorerVersion

    guard(pii(), "BEFORE", "VALIDATION", "old")
    (config,) = server.store.list_endpoint_guardrail_configs(endpoint)
    with server.store.ManagedSessionMaker(read_only=False) as session:
        version = session.query(SqlScorerVersion).filter_by(scorer_id=config.guardrail.scorer.scorer_id).one()
        version.serialized_scorer = json.dumps({"name": "old", "builtin_scorer_class": "Correctness"})
    stop = look(chat("Hi"))
    assert stop.status == 503
    assert "'old'" in str(stop)


def test_without_judges_the_detectors_stay(guard: Any, endpoint: str, judge_says: Any) -> None:
    from paddock_mlflow.gateway.hooks import GuardrailStop
    from paddock_mlflow.guardrails import load

    guard(safety(), "BEFORE", "VALIDATION", "judge")
    guard(pii("credit_card"), "BEFORE", "VALIDATION", "detector")
    asked = judge_says(RuntimeError("nobody asks me"))
    own = load(endpoint).without_judges()
    assert [check.name for check in asyncio.run(own.before("openai_chat", chat("Hi"))).checks] == ["detector"]
    with pytest.raises(GuardrailStop, match="'detector'"):
        asyncio.run(own.before("openai_chat", chat(CARD)))
    assert asked == []


def test_the_internal_token_is_known() -> None:
    from paddock_mlflow.guardrails.judges import is_internal

    def basic(password: str) -> dict[str, str]:
        return {"authorization": f"Basic {base64.b64encode(f'judge:{password}'.encode()).decode()}"}

    assert is_internal(basic(INTERNAL_TOKEN))
    assert is_internal({"x-mlflow-authorization": basic(INTERNAL_TOKEN)["authorization"]})
    for headers in (
        basic("guessed"),
        {"x-mlflow-guardrail-bypass": "1"},
        {"authorization": "Basic ???"},
        {"authorization": f"Bearer {INTERNAL_TOKEN}"},
        {},
    ):
        assert not is_internal(headers)


REFUSED = [
    ("Safety", {"model": "openai:/gpt-4o"}, "AFTER", "VALIDATION", "gateway:/judge"),
    ("Safety", {}, "AFTER", "SANITIZATION", "take VALIDATION"),
    ("Guidelines", {"guidelines": "Be kind."}, "BEFORE", "VALIDATION", "take AFTER"),
    ("Correctness", {}, "AFTER", "VALIDATION", "an expected answer"),
    ("ToolCallEfficiency", {}, "AFTER", "VALIDATION", "a whole trace or session"),
    ("UserFrustration", {}, "AFTER", "VALIDATION", "a whole trace or session"),
    ("RegexMatch", {"pattern": "yes"}, "BEFORE", "SANITIZATION", "take VALIDATION"),
]


@pytest.mark.parametrize(
    ("name", "settings", "stage", "action", "reason"), REFUSED, ids=lambda value: str(value)[:20]
)
def test_what_cannot_guard_is_refused_when_it_is_configured(
    guard: Any, name: str, settings: Body, stage: str, action: str, reason: str
) -> None:
    from mlflow.genai import scorers as built_in

    answer = guard(getattr(built_in, name)(**settings), stage, action, "mine")
    assert answer.status_code == 400, answer.text
    message = answer.json()["message"]
    assert message.startswith("guardrail 'mine': expected ") and reason in message


@pytest.mark.parametrize(
    ("instructions", "stage", "accepted"),
    [
        ("Is {{ inputs }} polite?", "BEFORE", True),
        ("Is {{ inputs }} polite?", "AFTER", True),
        ("Does {{ outputs }} answer {{ inputs }}?", "AFTER", True),
        ("Does {{ outputs }} answer {{ inputs }}?", "BEFORE", False),
        ("Is {{ outputs }} like {{ expectations }}?", "AFTER", False),
    ],
)
def test_a_judge_of_ones_own(guard: Any, instructions: str, stage: str, accepted: bool) -> None:
    from mlflow.genai import make_judge

    judge = make_judge(
        name="polite", instructions=instructions, model="gateway:/coder", feedback_value_type=bool
    )
    assert guard(judge, stage, "VALIDATION").status_code == (200 if accepted else 400)


def test_a_guardrail_from_before_is_refused_when_it_is_added(
    server: Any, endpoint: str, scorers: Any
) -> None:
    from mlflow.entities.gateway_guardrail import GuardrailAction, GuardrailStage
    from mlflow.genai.scorers import Correctness
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    stock = SqlAlchemyStore.create_gateway_guardrail.__wrapped__
    made = stock(
        server.store,
        "old",
        *scorers(Correctness()).values(),
        GuardrailStage.AFTER,
        GuardrailAction.VALIDATION,
    )
    body = {"endpoint_id": endpoint, "guardrail_id": made.guardrail_id}
    answer = server.http.post(f"{GATEWAY}/guardrails/add-to-endpoint", json=body, auth=ADMIN)
    assert answer.status_code == 400
    assert "an expected answer" in answer.json()["message"]


def test_an_endpoint_without_guardrails_has_none(endpoint: str) -> None:
    from paddock_mlflow.guardrails import load

    assert not load(endpoint)


BODIES = [
    ({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]}, "Q"),
    ({"system": [{"type": "text", "text": "S"}], "messages": [{"role": "user", "content": [
        {"type": "text", "text": "Q"}, {"type": "tool_result", "content": [{"type": "text", "text": "R"}]}]}]}, "Q\nR"),
    ({"input": "Q"}, "Q"),
    ({"instructions": "S", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Q"}]}]}, "Q"),
    ({"contents": [{"role": "user", "parts": [{"text": "Q"}]}]}, "Q"),
]  # fmt: skip
ANSWERS = [
    said("A"),
    {"output": [{"type": "message", "content": [{"type": "output_text", "text": "A"}]}]},
    {"content": [{"type": "text", "text": "A"}]},
    {"candidates": [{"content": {"parts": [{"text": "A"}]}}]},
]
CALLS = [
    {"output": [{"type": "function_call", "name": "run", "arguments": '{"c": 1}'}]},
    {"content": [{"type": "tool_use", "name": "run", "input": {"c": 1}}]},
    {"candidates": [{"content": {"parts": [{"functionCall": {"name": "run", "args": {"c": 1}}}]}}]},
]


@pytest.mark.parametrize(("body", "question"), BODIES)
def test_the_question_of_each_protocol(body: Body, question: str) -> None:
    from paddock_mlflow.guardrails import texts

    assert texts.question(body) == question


@pytest.mark.parametrize("body", ANSWERS)
def test_the_answer_of_each_protocol(body: Body) -> None:
    from paddock_mlflow.guardrails import texts

    assert texts.answer(body) == "A"


@pytest.mark.parametrize("body", CALLS)
def test_the_tool_calls_of_each_protocol(body: Body) -> None:
    from paddock_mlflow.guardrails import texts

    assert texts.answer(body) == 'run({"c": 1})'


def test_a_whole_answer_becomes_a_stream_that_says_the_same() -> None:
    """As the gateway's own reader of streams sees it; real clients read them in tests/clients."""
    from paddock_mlflow.guardrails.streams import as_stream, whole_request
    from paddock_mlflow.usage import StreamUsage, from_response

    chat_usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    other_usage = {"input_tokens": 5, "output_tokens": 7}
    answers: dict[Any, Body] = {
        "openai_chat": {**said("A"), "object": "chat.completion", "usage": chat_usage},
        "anthropic_messages": {"type": "message", "content": [{"type": "text", "text": "A"}], "usage": other_usage},
        "openai_responses": {"object": "response", "output": [{"type": "message", "id": "m", "content": [
            {"type": "output_text", "text": "A"}]}], "usage": other_usage},
        "gemini": {"candidates": [{"content": {"parts": [{"text": "A"}]}}],
                   "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 7}},
    }  # fmt: skip
    for words, answer in answers.items():
        stream = as_stream(words, answer)
        usage = StreamUsage(words)
        usage.feed(stream)
        assert usage.usage == from_response(words, answer), words
        assert stream.count(b'"A"') >= 1
    assert whole_request({"model": "m", "stream": True, "stream_options": {"include_usage": True}}) == {
        "model": "m"
    }
