"""Which judges there are: MLflow's scorers as people registered and started them."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from endpoints_made import make_endpoint
from judging_made import require_endpoint

ENDPOINT = "registry-judge"

Register = Callable[..., None]


@pytest.fixture(scope="module")
def endpoint(server: Any) -> str:
    """The gateway's endpoint that the judges of this module ask."""
    make_endpoint(server, ENDPOINT, "demo", api_base="http://demo-model:8000/v1")
    return ENDPOINT


@pytest.fixture
def judges(server: Any) -> Any:
    from paddock_mlflow.judges.registry import Judges

    return Judges(os.environ["DATABASE_URL"])


@pytest.fixture
def register(server: Any, experiment: str, endpoint: str) -> Register:
    """Register a scorer as the UI does, and start it where a rate is given."""

    def make(scorer: Any, rate: float = 0.0, filter_string: str | None = None) -> None:
        server.store.register_scorer(experiment, scorer.name, json.dumps(scorer.model_dump()))
        if rate:
            server.store.upsert_online_scoring_config(experiment, scorer.name, rate, filter_string)

    return make


def written(server: Any, experiment: str, name: str, **serialized: Any) -> None:
    """Put a definition into MLflow's tables as it is, as another client or an older release could."""
    scorer = {"name": name, "is_session_level_scorer": False, **serialized}
    server.store.register_scorer(experiment, name, json.dumps(scorer))


def test_a_started_scorer_is_a_judge(judges: Any, register: Register, experiment: str) -> None:
    from mlflow.genai.scorers import RelevanceToQuery, UserFrustration

    register(RelevanceToQuery(model=f"gateway:/{ENDPOINT}"), 0.25, "tags.team = 'x'")
    register(UserFrustration(model=f"gateway:/{ENDPOINT}"), 1.0)

    found = {judge.name: judge for judge in judges.active() if judge.experiment_id == experiment}

    assert set(found) == {"relevance_to_query", "user_frustration"}
    relevance = found["relevance_to_query"]
    assert (relevance.level, relevance.version, relevance.endpoint) == ("trace", 1, ENDPOINT)
    assert (relevance.sample_rate, relevance.filter) == (0.25, "tags.team = 'x'")
    assert relevance.source_type == "LLM_JUDGE"
    assert found["user_frustration"].level == "session"
    assert relevance.scorer().scorer_version == 1


def test_a_scorer_that_is_not_started_looks_when_it_is_asked(
    judges: Any, register: Register, experiment: str
) -> None:
    from mlflow.genai.scorers import Correctness, ResponseLength

    register(Correctness(model=f"gateway:/{ENDPOINT}"))
    register(ResponseLength(max_length=5))

    assert not [judge for judge in judges.active() if judge.experiment_id == experiment]
    correctness, length = judges.named(experiment, ["Correctness", "response-length", "correctness"])
    assert correctness.needs_expectations
    assert correctness.expectation_names == ("expected_facts", "expected_response")
    assert (length.endpoint, length.needs_expectations, length.source_type) == (None, False, "CODE")
    assert length.scorer()(outputs="too long").value == "no"


def test_an_unknown_judge_is_named_with_those_that_there_are(
    judges: Any, register: Register, experiment: str
) -> None:
    from mlflow.genai.scorers import ResponseLength

    from paddock_mlflow.judges.errors import UnknownJudge

    register(ResponseLength(max_length=5))

    with pytest.raises(UnknownJudge, match="expected the judge taste, found only response_length"):
        judges.named(experiment, ["taste"])


def test_the_newest_version_is_the_judge_and_its_fingerprint_tells_what_decides(
    judges: Any, register: Register, experiment: str
) -> None:
    from mlflow.genai.judges import make_judge

    def judge(instructions: str, description: str = "") -> Any:
        made = make_judge(
            name="polite",
            instructions=instructions,
            model=f"gateway:/{ENDPOINT}",
            feedback_value_type=bool,
            description=description,
        )
        register(made)
        (found,) = judges.named(experiment, ["polite"])
        return found

    first = judge("Is {{ outputs }} polite?")
    described = judge("Is {{ outputs }} polite?", "For the support team")
    second = judge("Is {{ outputs }} polite, and like {{ expectations }}?")

    assert [one.version for one in (first, described, second)] == [1, 2, 3]
    assert first.fingerprint == described.fingerprint != second.fingerprint
    assert (first.needs_expectations, second.needs_expectations) == (False, True)


def test_a_judge_that_names_no_model_asks_the_stacks_own(judges: Any, server: Any, experiment: str) -> None:
    written(
        server,
        experiment,
        "safety",
        builtin_scorer_class="Safety",
        builtin_scorer_pydantic_data={"model": None},
    )

    require_endpoint(server.store.engine)

    (judge,) = judges.named(experiment, ["safety"])

    assert judge.endpoint == "judge"


@pytest.mark.parametrize(
    ("serialized", "found"),
    [
        pytest.param(
            {"builtin_scorer_class": "Safety", "builtin_scorer_pydantic_data": {"model": "openai:/gpt-4o"}},
            "the model openai:/gpt-4o, which has no budget",
            id="another-model",
        ),
        pytest.param(
            {"call_source": "import os", "call_signature": "()", "original_func_name": "x"},
            "Python code in MLflow's registry",
            id="code",
        ),
        pytest.param(
            {
                "ensemble_scorer_data": {
                    "ensemble_fn": "majority_vote",
                    "scorers": [
                        {
                            "name": "inner",
                            "builtin_scorer_class": "Safety",
                            "builtin_scorer_pydantic_data": {"model": "openai:/gpt-4o"},
                        }
                    ],
                }
            },
            "the model openai:/gpt-4o",
            id="another-model-inside",
        ),
        pytest.param(
            {"builtin_scorer_class": "Clairvoyance", "builtin_scorer_pydantic_data": {}},
            "Clairvoyance",
            id="no-such-scorer",
        ),
        pytest.param({}, "SerializedScorer must have", id="nothing"),
    ],
)
def test_a_judge_that_can_not_be_called_says_why(
    judges: Any, server: Any, experiment: str, serialized: dict[str, Any], found: str
) -> None:
    from paddock_mlflow.judges.errors import UnusableJudge

    written(server, experiment, "odd", **serialized)
    (judge,) = judges.named(experiment, ["odd"])

    with pytest.raises(UnusableJudge) as refusal:
        judge.scorer()

    assert found in refusal.value.found
    assert "odd" in refusal.value.expected


def test_an_endpoint_that_was_deleted_does_not_make_another_one_the_judge(
    judges: Any, server: Any, register: Register, experiment: str
) -> None:
    from mlflow.genai.scorers import Safety
    from mlflow.store.tracking.dbmodels.models import SqlGatewayEndpointBinding
    from sqlalchemy import delete

    from paddock_mlflow.judges.errors import UnusableJudge

    make_endpoint(server, "registry-gone", "demo", api_base="http://demo-model:8000/v1")
    register(Safety(model="gateway:/registry-gone"))
    endpoint_id = server.store.get_gateway_endpoint(name="registry-gone").endpoint_id
    with server.store.engine.begin() as connection:
        connection.execute(
            delete(SqlGatewayEndpointBinding).where(SqlGatewayEndpointBinding.endpoint_id == endpoint_id)
        )
    server.store.delete_gateway_endpoint(endpoint_id)

    (judge,) = judges.named(experiment, ["safety"])

    assert judge.endpoint is None
    with pytest.raises(UnusableJudge, match="one that does not exist"):
        judge.scorer()


@pytest.mark.parametrize(
    ("value", "passed"),
    [(True, True), (False, False), ("yes", True), ("No", False), (0.9, None), ("good", None), (None, None)],
)
def test_what_a_verdict_says_of_a_pass(server: Any, value: object, passed: bool | None) -> None:
    from paddock_mlflow.judges.registry import yes_is_a_pass

    assert yes_is_a_pass(value) is passed
