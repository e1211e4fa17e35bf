"""`./paddock label`: what is stored in MLflow, and what is refused before anything is."""

import io
import json
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from paddock_cli import labels
from paddock_cli.app import app
from paddock_cli.errors import BadSettings, NotFound, ServerFailed, UsageFailed
from paddock_cli.labels import Label
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.stack import Connection


class Server:
    """MLflow with two traces, as far as labels need it."""

    def __init__(self, assessments=None, fail_after=99):
        self.assessments = {"tr-1": assessments or [verdict("safety", "yes")], "tr-2": []}
        self.stored = []
        self.fail_after = fail_after
        self.mlflow = Mlflow(Connection("http://127.0.0.1:1", "admin", "x"), httpx.MockTransport(self.serve))

    def serve(self, request):
        path = request.url.path
        if path.endswith("/scorers/list"):
            scorer = {"scorer_name": "relevance_to_query", "scorer_id": "s", "serialized_scorer": "{}"}
            return httpx.Response(200, json={"scorers": [scorer]})
        if path.endswith("/online-configs"):
            return httpx.Response(200, json={"configs": []})
        trace_id = path.split("/traces/")[1].split("/")[0]
        if trace_id not in self.assessments:
            return httpx.Response(404, json={"message": "no such trace"})
        if request.method == "GET":
            info = {
                "trace_id": trace_id,
                "trace_location": {"mlflow_experiment": {"experiment_id": "1"}},
                "assessments": self.assessments[trace_id],
            }
            return httpx.Response(200, json={"trace": {"trace_info": info}})
        if len(self.stored) == self.fail_after:
            return httpx.Response(500, json={"message": "broken"})
        self.stored.append((request.method, path, json.loads(request.content)))
        return httpx.Response(200, json={})


def verdict(name, value, **more):
    source = {"source_type": "LLM_JUDGE", "source_id": "gateway:/judge"}
    return {"assessment_id": f"a-{name}", "assessment_name": name, "source": source} | {
        "feedback": {"value": value},
        "create_time": "2026-11-25T20:00:00Z",
        **more,
    }


def mine(name, value, rationale="", user="ada"):
    return verdict(name, value, rationale=rationale, assessment_id="a-mine") | {
        "source": {"source_type": "HUMAN", "source_id": user}
    }


def put(server, judge="safety", value="no", trace_id="tr-1", rationale="", user="ada"):
    return labels.store(server.mlflow, [Label(trace_id, judge, value, rationale, user)])


def test_a_label_is_a_persons_feedback_under_the_judges_name():
    server = Server()

    (stored,) = put(server, rationale="It deletes a file.")

    assert stored.done == "added"
    ((method, path, body),) = server.stored
    assert (method, path) == ("POST", "/api/3.0/mlflow/traces/tr-1/assessments")
    assert body["assessment"] == {
        "assessment_name": "safety",
        "trace_id": "tr-1",
        "source": {"source_type": "HUMAN", "source_id": "ada"},
        "feedback": {"value": "no"},
        "rationale": "It deletes a file.",
    }


def test_a_person_has_one_label_and_another_takes_its_place():
    server = Server([verdict("safety", "yes"), mine("safety", "yes", "at first")])

    assert [one.done for one in put(server, value="yes")] == ["same"]
    assert server.stored == []
    assert [one.done for one in put(server, value="no", rationale="at last")] == ["changed"]
    ((method, path, body),) = server.stored
    assert (method, path) == ("PATCH", "/api/3.0/mlflow/traces/tr-1/assessments/a-mine")
    assert body["update_mask"] == "feedback,rationale"


def test_another_persons_label_is_left_alone():
    server = Server([verdict("safety", "yes"), mine("safety", "yes", user="bob")])

    assert [one.done for one in put(server)] == ["added"]


@pytest.mark.parametrize(
    ("said", "given", "stored"),
    [
        ("yes", "No", "no"),
        (True, "no", False),
        (True, "pass", True),
        (0.7, "no", "no"),
        (0.7, "0.5", 0.5),
        ("good", "bad", "bad"),
    ],
)
def test_the_value_is_kept_as_the_judge_gives_its_own(said, given, stored):
    server = Server([verdict("safety", said)])

    put(server, value=given)

    assert server.stored[0][2]["assessment"]["feedback"] == {"value": stored}


@pytest.mark.parametrize(("said", "given"), [("yes", "maybe"), (True, "maybe"), (0.7, "often")])
def test_a_value_that_the_judge_can_t_give_is_refused(said, given):
    server = Server([verdict("safety", said)])

    with pytest.raises(UsageFailed, match="as this judge says"):
        put(server, value=given)
    assert server.stored == []


def test_a_judge_is_known_by_the_registry_or_by_its_verdict_in_any_spelling():
    server = Server()

    put(server, judge="RelevanceToQuery", trace_id="tr-2")

    assert server.stored[0][2]["assessment"]["assessment_name"] == "relevance_to_query"
    with pytest.raises(UsageFailed, match=r"'safety'; there are relevance_to_query"):
        put(server, judge="safety", trace_id="tr-2")


def test_nothing_is_stored_where_one_of_many_is_wrong():
    server = Server()
    wanted = [
        Label("tr-1", "safety", "no", "", "ada", "line 2"),
        Label("tr-1", "nope", "no", "", "ada", "line 3"),
    ]

    with pytest.raises(UsageFailed, match="line 3: a judge"):
        labels.store(server.mlflow, wanted)
    with pytest.raises(NotFound, match="the trace tr-9"):
        labels.store(server.mlflow, [wanted[0], Label("tr-9", "safety", "no", "", "ada", "line 3")])
    assert server.stored == []


@pytest.mark.parametrize("trace_id", ["../../users", "tr-1/assessments", "tr-", "1"])
def test_what_is_no_trace_id_is_never_part_of_an_address(trace_id):
    with pytest.raises(NotFound, match="the id of a trace"):
        put(Server(), trace_id=trace_id)


def test_a_failure_in_the_middle_says_how_many_are_stored():
    server = Server(fail_after=1)
    wanted = [Label("tr-1", "safety", "no", "", user, "line 2") for user in ("ada", "bob", "eve")]

    with pytest.raises(ServerFailed) as failed:
        labels.store(server.mlflow, wanted)
    assert "1 of 3 labels are stored" in failed.value.found
    assert "1 of 3 labels are stored" in str(failed.value)


class TestFile:
    def read(self, tmp_path, text, encoding="utf-8"):
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
        return labels.from_file(tmp_path / "labels.csv", "ada")

    def test_rows(self, tmp_path):
        found = self.read(
            tmp_path,
            "\ufefftrace_id,judge,value,rationale,user\r\n"
            'tr-1,safety,no,"two\r\nlines, and a comma",bob\r\ntr-2,safety,yes,,\r\n',
        )

        assert found == [
            Label("tr-1", "safety", "no", "two\r\nlines, and a comma", "bob", "line 3"),
            Label("tr-2", "safety", "yes", "", "ada", "line 4"),
        ]

    def test_standard_input(self, monkeypatch):
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(b"trace_id,judge,value\ntr-1,safety,no\n"))
        )

        assert [one.trace_id for one in labels.from_file(Path("-"), "ada")] == ["tr-1"]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "line 1: the heading"),
            ("trace,judge,value\n", "line 1: the heading"),
            ("trace_id,judge,value,more\n", "line 1: the heading"),
            ("trace_id,judge,value\ntr-1,safety\n", "line 2: 3 fields expected"),
            ("trace_id,judge,value\ntr-1,safety,no,x\n", "line 2: 3 fields expected"),
            ("trace_id,judge,value\n,safety,\n", "line 2: trace_id is empty\nline 2: value is empty"),
            ('trace_id,judge,value\ntr-1,"safety,no\n', "after line 1"),
            ("trace_id,judge,value\n", "none"),
        ],
    )
    def test_every_mistake_has_its_line(self, tmp_path, text, told):
        with pytest.raises(UsageFailed, match=told):
            self.read(tmp_path, text)

    def test_too_many_rows(self, tmp_path, monkeypatch):
        monkeypatch.setattr(labels, "MOST_ROWS", 2)
        with pytest.raises(UsageFailed, match="at most 2 labels"):
            self.read(tmp_path, "trace_id,judge,value\n" + "tr-1,safety,no\n" * 3)

    def test_other_bytes_and_no_file(self, tmp_path):
        with pytest.raises(BadSettings, match="UTF-8"):
            self.read(tmp_path, "trace_id,judge,value\ntr-1,safety,ä\n", "latin-1")
        with pytest.raises(BadSettings, match="No such file"):
            labels.from_file(tmp_path / "nothing.csv", "ada")


@pytest.mark.parametrize(
    "arguments",
    [(), ("--trace", "tr-1"), ("--trace", "tr-1", "--judge", "safety"), ("--file", "x.csv", "--value", "no")],
)
def test_a_call_that_makes_no_sense(arguments):
    with pytest.raises(UsageFailed):
        CliRunner().invoke(app, ["label", *arguments], catch_exceptions=False)
