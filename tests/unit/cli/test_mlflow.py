"""MLflow's answers, read as its server sends them, and the wait for verdicts."""

import base64
import json

import httpx
import pytest

from paddock_cli import evaluation, judging
from paddock_cli.errors import NotFound, ServerFailed
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


class FakeServer:
    """The routes that the command line calls, on state that a test changes."""

    def __init__(self):
        self.requests = []
        self.assessments = []
        self.states = ["OK"]
        self.jobs = {}
        self.on_invoke = lambda body: None

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
        if path == "/ajax-api/3.0/mlflow/scorer/invoke":
            self.on_invoke(body)
            return self.ok({"jobs": [{"job_id": f"job-{body['serialized_scorer']}"}]})
        if path.startswith("/ajax-api/3.0/jobs/"):
            return self.ok(self.jobs.get(path.rpartition("/")[2], {"status": "RUNNING"}))
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


def test_automatic_judges_are_waited_for_and_correctness_is_not_asked_without_an_expectation(api, server):
    server.assessments = [feedback("relevance_to_query"), feedback("tool_call_efficiency")]

    judged = judging.judge_run(api, api.trace("tr-1"), [], "ann", quiet)

    assert set(judged.latest()) == {"relevance_to_query", "tool_call_efficiency"}
    assert not any("invoke" in request.url.path for request in server.requests)


def test_an_expectation_is_logged_and_correctness_asked(api, server):
    server.assessments = [feedback("relevance_to_query"), feedback("tool_call_efficiency")]
    server.on_invoke = lambda body: server.assessments.append(feedback("correctness", "no"))

    judged = judging.judge_run(api, api.trace("tr-1"), ["it says so"], "ann", quiet)

    assert judged.latest()["correctness"].value == "no"
    assert judged.expectations == {"expected_facts": ["it says so"]}
    logged = next(one for one in server.assessments if "expectation" in one)
    assert logged["source"] == {"source_type": "HUMAN", "source_id": "ann"}


def test_verdicts_that_do_not_come_are_told_as_late(api, server):
    server.assessments = [feedback("relevance_to_query")]

    verdict = judging.judge_run(api, api.trace("tr-1"), [], "ann", quiet, seconds=0).latest()[
        "tool_call_efficiency"
    ]

    assert verdict.value == ""
    assert "no verdict in 0 s" in verdict.error


def test_a_job_that_fails_ends_the_wait_with_its_reason(api, server):
    server.assessments = [feedback("relevance_to_query"), feedback("tool_call_efficiency")]
    server.jobs["job-correctness"] = {"status": "FAILED", "result": "the judge's process died"}

    verdict = judging.judge_run(api, api.trace("tr-1"), ["x"], "ann", quiet).latest()["correctness"]

    assert "the judge's process died" in verdict.error


def test_a_job_that_succeeds_without_a_verdict_ends_the_wait_with_its_failures(api, server):
    server.assessments = [feedback("relevance_to_query"), feedback("tool_call_efficiency")]
    failures = [{"error_code": "SCORER_ERROR", "error_message": "401"}]
    server.jobs["job-correctness"] = {"status": "SUCCEEDED", "result": {"tr-1": {"failures": failures}}}

    verdict = judging.judge_run(api, api.trace("tr-1"), ["x"], "ann", quiet).latest()["correctness"]

    assert verdict.error == "SCORER_ERROR: 401"


def test_evaluate_returns_only_new_verdicts(api, server):
    server.assessments = [feedback("relevance_to_query", "no")]
    server.on_invoke = lambda body: server.assessments.append(
        feedback(body["serialized_scorer"], "yes", created="2026-03-01T11:00:00Z")
    )
    server.jobs["job-relevance_to_query"] = {"status": "SUCCEEDED", "result": {}}

    (trace,) = evaluation.evaluate(api, ["tr-1"], ["RelevanceToQuery"], 5, [], 5)

    assert [verdict.value for verdict in trace.verdicts] == ["yes"]


def test_evaluate_leaves_correctness_out_where_nothing_was_expected(api, server):
    asked = []
    server.on_invoke = lambda body: asked.append(body["serialized_scorer"])
    server.jobs = {
        f"job-{name}": {"status": "SUCCEEDED"} for name in ("relevance_to_query", "tool_call_efficiency")
    }

    evaluation.evaluate(api, [], [], 5, [], 5)

    assert asked == ["relevance_to_query", "tool_call_efficiency"]


def test_evaluate_finds_a_trace_by_its_run(api, server):
    server.jobs["job-relevance_to_query"] = {"status": "SUCCEEDED"}

    evaluation.evaluate(api, ["run-1"], ["relevance_to_query"], 5, [], 5)

    search = next(request for request in server.requests if request.url.path.endswith("/search"))
    assert json.loads(search.content)["filter"] == "tags.`paddock.run_id` = 'run-1'"


def test_an_unknown_judge_is_named_with_those_that_there_are(api):
    with pytest.raises(NotFound, match="correctness, relevance_to_query"):
        evaluation.evaluate(api, ["tr-1"], ["taste"], 5, [], 5)
