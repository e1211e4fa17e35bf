"""MLflow's answers, read as its server sends them, and the wait for verdicts."""

import base64
import json

import httpx
import pytest

from paddock_cli import evaluation, judging
from paddock_cli.errors import NotFound, ServerFailed, UsageFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.stack import Connection

TRACE = {
    "trace_id": "tr-1",
    "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "1"}},
    "request_preview": "the task",
    "response_preview": "the answer",
    "request_time": "2026-03-01T10:00:00.123Z",
    "execution_duration": "3.021s",
    "state": "OK",
    "trace_metadata": {
        "mlflow.trace.tokenUsage": '{"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}',
        "mlflow.trace.cost": '{"total_cost": 0.25}',
    },
    "tags": {"paddock.run_id": "run-1"},
    "assessments": [],
}


def feedback(name, value="yes", *, error=None, created="2026-03-01T10:00:09Z", valid=True):
    body = {"error": {"error_code": "SCORER_ERROR", "error_message": error}} if error else {"value": value}
    return {
        "assessment_name": name,
        "feedback": body,
        "rationale": f"because {value}",
        "create_time": created,
        "valid": valid,
    }


def judgment(judge, state="done", value="yes", reason="", *, subject="tr-1", level="trace"):
    """A row as the server tells of it."""
    done = state == "done"
    return {
        "id": f"{judge}-{subject}",
        "judge": judge,
        "level": level,
        "subject": subject,
        "trace_id": "tr-1" if level == "session" else subject,
        "state": state,
        "reason": reason,
        "value": value if done else None,
        "rationale": f"because {value}" if done else "",
        "passed": {"yes": True, "no": False}.get(value) if done else None,
        "cost_usd": "0.0002100000" if done else None,
    }


class FakeServer:
    """The routes that the command line calls, on state that a test changes."""

    def __init__(self):
        self.requests = []
        self.assessments = []
        self.states = ["OK"]
        self.asked = []
        self.judgments = []
        self.coming = []
        self.left_out = 0
        self.looks = 0
        self.on_look = lambda number: None

    def __call__(self, request):
        self.requests.append(request)
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        if path == "/api/3.0/mlflow/scorers/list":
            names = ("relevance_to_query", "tool_call_efficiency", "correctness")
            return self.ok(
                {
                    "scorers": [
                        {"scorer_name": n, "scorer_id": f"id-{n}", "serialized_scorer": n} for n in names
                    ]
                }
            )
        if path == "/api/3.0/mlflow/scorers/online-configs":
            ids = request.url.params.get_list("scorer_ids")
            assert len(ids) == 3
            rates = {"id-relevance_to_query": 1.0, "id-tool_call_efficiency": 0.5, "id-correctness": 0.0}
            return self.ok({"configs": [{"scorer_id": i, "sample_rate": rates[i]} for i in ids]})
        if path == "/api/3.0/paddock/judgments" and request.method == "POST":
            self.asked.append(body)
            if "taste" in body["judges"]:
                detail = "expected the judge taste, found only correctness; register it in the UI: Judges"
                return httpx.Response(404, json={"detail": detail})
            return self.ok({"ids": [row["id"] for row in self.judgments], "left_out": self.left_out})
        if path == "/api/3.0/paddock/judgments":
            return self.ok({"judgments": self.judgments, "coming": self.coming})
        if path == "/api/3.0/paddock/judgments/states":
            self.looks += 1
            self.on_look(self.looks)
            return self.ok({"judgments": [row for row in self.judgments if row["id"] in body["ids"]]})
        if path == "/api/3.0/mlflow/traces/tr-1/assessments":
            self.assessments.append(body["assessment"])
            return self.ok({})
        if path == "/api/3.0/mlflow/traces/tr-1":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            if state == "missing":
                return httpx.Response(404, json={"message": "no such trace"})
            return self.ok(
                {"trace": {"trace_info": TRACE | {"state": state, "assessments": self.assessments}}}
            )
        if path == "/api/2.0/mlflow/experiments/get-by-name":
            return self.ok({"experiment": {"experiment_id": "1"}})
        if path == "/api/3.0/mlflow/traces/search":
            return self.ok({"traces": [TRACE | {"assessments": self.assessments}]})
        return httpx.Response(500, json={"message": f"no route {path}"})

    @staticmethod
    def ok(value):
        return httpx.Response(200, json=value)


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def api(server, monkeypatch):
    monkeypatch.setattr(judging, "_POLL_SECONDS", 0)
    return Mlflow(Connection("http://127.0.0.1:1", "admin", "secret"), transport=httpx.MockTransport(server))


def quiet(_detail):
    pass


def test_a_trace_is_read(api, server):
    server.assessments = [
        feedback("relevance_to_query"),
        feedback("broken", error="no model"),
        feedback("old", valid=False),
    ]

    trace = api.trace("tr-1")

    assert (trace.state, trace.seconds, trace.cost, trace.run_id) == ("OK", 3.021, 0.25, "run-1")
    assert trace.tokens["total_tokens"] == 12
    verdicts = trace.latest()
    assert verdicts["relevance_to_query"].value == "yes"
    assert verdicts["broken"].error == "SCORER_ERROR: no model"
    assert "old" not in verdicts


def test_the_newest_verdict_of_a_judge_counts(api, server):
    server.assessments = [
        feedback("relevance_to_query", "no", created="2026-03-01T10:00:10Z"),
        feedback("relevance_to_query", "yes", created="2026-03-01T10:00:09Z"),
    ]

    assert api.trace("tr-1").latest()["relevance_to_query"].value == "no"


def test_requests_carry_the_password_and_pass_by_no_proxy(api, server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    api.trace("tr-1")

    assert (
        server.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"admin:secret").decode()
    )


def test_a_refusal_carries_the_servers_words(api):
    with pytest.raises(ServerFailed, match="500: no route /nowhere"):
        api.call("GET", "/nowhere")


def test_a_silent_server_is_named():
    with pytest.raises(ServerFailed, match=r"http://127\.0\.0\.1:1"):
        Mlflow(Connection("http://127.0.0.1:1", "admin", "x")).trace("tr-1")


def test_the_wait_for_a_trace_ends_when_it_is_finished(api, server):
    server.states = ["missing", "IN_PROGRESS", "OK"]

    assert judging.wait_for_trace(api, "tr-1").state == "OK"


def test_a_trace_that_never_ends_is_returned_as_it_is(api, server):
    server.states = ["IN_PROGRESS"]

    assert judging.wait_for_trace(api, "tr-1", seconds=0).state == "IN_PROGRESS"


def test_a_trace_that_never_comes_is_none(api, server):
    server.states = ["missing"]

    assert judging.wait_for_trace(api, "tr-1", seconds=0) is None


def test_judges_that_look_by_themselves_are_waited_for(api, server):
    server.assessments = [feedback("relevance_to_query")]
    server.judgments = [judgment("relevance_to_query")]

    judged = judging.judge_run(api, api.trace("tr-1"), [], "ann", quiet)

    assert set(judged.latest()) == {"relevance_to_query"}
    assert server.asked == []


def test_an_expectation_is_logged_and_correctness_asked(api, server):
    server.judgments = [judgment("correctness", value="no")]
    server.assessments = [feedback("correctness", "no")]

    judged = judging.judge_run(api, api.trace("tr-1"), ["it says so"], "ann", quiet)

    assert judged.latest()["correctness"].value == "no"
    assert judged.expectations == {"expected_facts": ["it says so"]}
    logged = next(one for one in server.assessments if "expectation" in one)
    assert logged["source"] == {"source_type": "HUMAN", "source_id": "ann"}
    (asked,) = server.asked
    assert (asked["traces"], asked["judges"], asked["again"]) == (["tr-1"], ["correctness"], False)


def test_verdicts_that_do_not_come_are_told_as_late(api, server):
    server.judgments = [judgment("relevance_to_query", "running")]
    server.coming = ["tool_call_efficiency"]

    verdicts = judging.judge_run(api, api.trace("tr-1"), [], "ann", quiet, seconds=0).latest()

    assert set(verdicts) == {"relevance_to_query", "tool_call_efficiency"}
    for verdict in verdicts.values():
        assert verdict.value == ""
        assert "no verdict in 0 s" in verdict.error


def test_who_does_not_look_says_why(api, server):
    server.judgments = [judgment("safety", "budget", reason="judge budget spent: 5 USD")]

    verdict = judging.judge_run(api, api.trace("tr-1"), [], "ann", quiet).latest()["safety"]

    assert (verdict.value, verdict.error) == ("", "judge budget spent: 5 USD")


def evaluate(api, *ids, **order):
    return evaluation.evaluate(api, evaluation.Order(ids=ids, seconds=5, **order))


def test_evaluate_waits_for_what_was_asked(api, server):
    server.judgments = [judgment("relevance_to_query", "queued"), judgment("safety", "running")]

    def go_on(number):
        server.judgments[number - 1] |= judgment(("relevance_to_query", "safety")[number - 1])

    server.on_look = go_on
    evaluated = evaluate(api, "tr-1")

    assert server.looks == 2
    document = evaluation.as_json(evaluated)
    (trace,) = document["evaluated"]
    assert trace["trace_id"] == "tr-1"
    assert {name: one["value"] for name, one in trace["judges"].items()} == {
        "relevance_to_query": "yes",
        "safety": "yes",
    }
    assert trace["judges"]["safety"]["passed"] is True
    assert trace["judges"]["safety"]["cost_usd"] == "0.0002100000"


def test_evaluate_gives_up_where_no_verdict_comes(api, server):
    server.judgments = [judgment("safety", "queued"), judgment("relevance_to_query")]

    evaluated = evaluation.evaluate(api, evaluation.Order(ids=["tr-1"], seconds=0))

    late, done = evaluated.judgments
    assert late.coming
    assert "it may still come" in late.verdict().error
    assert done.verdict().error == ""


def test_evaluate_finds_a_trace_by_its_run(api, server):
    evaluate(api, "run-1", judges=["relevance_to_query"])

    search = next(request for request in server.requests if request.url.path.endswith("/search"))
    assert json.loads(search.content)["filter"] == "tags.`paddock.run_id` = 'run-1'"
    assert server.asked[0]["traces"] == ["tr-1"]


def test_evaluate_logs_what_is_expected_before_it_asks(api, server):
    evaluate(api, "tr-1", expectations=["it says so"])

    paths = [request.url.path for request in server.requests if request.method == "POST"]
    assert paths.index("/api/3.0/mlflow/traces/tr-1/assessments") < paths.index("/api/3.0/paddock/judgments")


def test_evaluate_asks_about_sessions_and_all_since(api, server):
    server.judgments = [judgment("user_frustration", subject="s-1", level="session")]

    evaluated = evaluate(api, sessions=["s-1"], since="2h", again=True)

    (asked,) = server.asked
    assert (asked["traces"], asked["sessions"], asked["again"]) == ([], ["s-1"], True)
    assert asked["since"].endswith("+00:00")
    (group,) = evaluation.as_json(evaluated)["evaluated"]
    assert (group["session"], group["trace_id"]) == ("s-1", "tr-1")


@pytest.mark.parametrize("order", [{"since": "2h"}, {"sessions": ["s-1"]}])
def test_expectations_belong_to_traces_that_are_named(api, order):
    with pytest.raises(UsageFailed, match="--expect"):
        evaluate(api, expectations=["x"], **order)


def test_many_traces_are_told_in_one_table(api, server, capsys):
    server.judgments = [
        judgment("safety", value="no" if n % 3 else "yes", subject=f"tr-{n}") for n in range(24)
    ]
    server.judgments.append(judgment("safety", "too_large", subject="tr-large"))
    server.left_out = 7

    evaluation.show(api, evaluate(api, since="2h"))

    told = capsys.readouterr()
    (line,) = [line for line in told.out.splitlines() if "safety" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "safety",
        "24",
        "8",
        "16",
        "1",
        "too large 1",
    ]
    assert "7 older traces are left out" in told.err


def test_an_unknown_judge_is_named_with_those_that_there_are(api):
    with pytest.raises(NotFound, match="expected the judge taste, found only correctness"):
        evaluate(api, "tr-1", judges=["taste"])
