"""`./paddock judges trust`: which verdict is held against which label, and what is made of it."""

import json

import httpx
import pytest

from paddock_cli import assessments, trust
from paddock_cli.errors import NotFound, ServerFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.stack import Connection

FINGERPRINT = "f" * 64


def feedback(trace, value, *, by="gateway:/judge", minute=0, name="safety", **more):
    human = not by.startswith("gateway:")
    one = {
        "assessment_id": more.pop("id", f"a-{trace}-{by}-{minute}"),
        "assessment_name": name,
        "source": {"source_type": "HUMAN" if human else "LLM_JUDGE", "source_id": by},
        "feedback": {"value": value},
        "create_time": f"2026-11-25T20:{minute:02}:00Z",
        "metadata": {} if human else {"paddock.judge.version": "1", "paddock.judge.fingerprint": FINGERPRINT},
        "valid": True,
    }
    one["metadata"] |= more.pop("metadata", {})
    return trace, one | more


def of(*given, name="safety"):
    traces = {}
    for trace, one in given:
        traces.setdefault(trace, []).append(one)
    found = [
        one
        for trace, listed in traces.items()
        for one in assessments.of_trace({"trace_id": f"tr-{trace}", "assessments": listed})
    ]
    return trust.of_judge(name, found)


def test_labels_are_held_against_the_newest_verdict():
    found = of(
        feedback("a", "no", minute=2),
        feedback("a", "yes", minute=1),
        feedback("a", "no", by="ada"),
        feedback("b", "yes"),
        feedback("b", "no", by="ada"),
        feedback("c", "yes"),
    )

    assert found.overall.categories == ("yes", "no")
    assert found.overall.matrix == ((0, 0), (1, 1))
    assert (found.labelled, found.verdicts, found.labellers) == (2, 4, ("ada",))


def test_a_verdict_that_a_person_corrected_is_what_the_judge_said():
    """As MLflow's UI stores a correction."""
    found = of(
        feedback("a", "yes", id="a-1", valid=False),
        feedback("a", "no", by="ada", overrides="a-1", valid=False, id="a-2"),
        feedback("a", "yes", by="bob", overrides="a-2"),
    )

    # Bob took Ada's label away; the judge's verdict stands.
    assert found.overall.matrix == ((1,),)
    assert found.labellers == ("bob",)


def test_a_verdict_that_was_withdrawn_does_not_count():
    found = of(
        feedback("a", "yes", valid=False, minute=5), feedback("a", "no"), feedback("a", "no", by="ada")
    )

    assert found.overall.agreed.passed == 1
    assert found.verdicts == 1


def test_people_are_taken_by_majority_and_a_tie_is_left_out():
    found = of(
        feedback("a", "yes"),
        feedback("a", "no", by="ada"),
        feedback("a", "no", by="bob"),
        feedback("a", "yes", by="eve"),
        feedback("b", "yes"),
        feedback("b", "no", by="ada"),
        feedback("b", "yes", by="bob"),
    )

    assert found.overall.matrix == ((0, 0), (1, 0))
    assert (found.labelled, found.people_differ) == (2, 1)


def test_a_persons_newest_label_counts():
    found = of(
        feedback("a", "yes"),
        feedback("a", "no", by="ada", minute=1),
        feedback("a", "yes", by="ada", minute=2),
    )

    assert found.overall.agreed.rate == 1


@pytest.mark.parametrize(
    ("value", "metadata", "category"),
    [
        ("Yes", {}, "yes"),
        (True, {}, "yes"),
        (False, {}, "no"),
        (3.0, {}, "3"),
        ("good", {}, "good"),
        (0.4, {"paddock.passed": "false"}, "no"),
        ("good", {"paddock.passed": "true"}, "yes"),
        (["b", "a"], {}, '["b", "a"]'),
    ],
)
def test_what_a_value_is_compared_by(value, metadata, category):
    _, one = feedback("a", value, metadata=metadata)

    assert assessments.read(one, "tr-a").category == category


def test_verdicts_are_told_apart_by_what_decided_them():
    old = {"paddock.judge.fingerprint": "0" * 64, "paddock.judge.version": "1"}
    found = of(
        feedback("a", "no", metadata=old, minute=1),
        feedback("a", "yes", metadata={"paddock.judge.version": "2"}, minute=2),
        feedback("a", "yes", by="ada"),
    )

    assert [(one.version, one.fingerprint[0], one.agreement.agreed.rate) for one in found.versions] == [
        ("2", "f", 1),
        ("1", "0", 0),
    ]
    # Two versions that differ are no judge that flips.
    assert found.stored.rate is None


def test_mlflows_own_record_of_the_version_is_taken_where_ours_is_not_there():
    _, one = feedback("a", "yes")
    one["metadata"] = {"mlflow.assessment.scorerVersion": "4", "mlflow.assessment.scorerDigest": "sha256:ab"}

    read = assessments.read(one, "tr-a")

    assert (read.version, read.fingerprint) == ("4", "sha256:ab")


def test_failures_and_labels_without_a_verdict_are_counted_and_not_compared():
    failed = feedback("a", None)
    failed[1]["feedback"] = {"error": {"error_code": "X", "error_message": "no answer"}}
    found = of(failed, feedback("a", "no", by="ada"), feedback("b", "yes", by="ada"))

    assert (found.failed, found.without_verdict, found.overall.agreed.decided) == (1, 2, 0)


def test_cost_a_verdict_is_of_those_whose_cost_is_known():
    cost = {"paddock.judge.cost_usd": "0.004"}
    found = of(
        feedback("a", "yes", metadata=cost),
        feedback("b", "yes", metadata={"paddock.judge.cost_usd": "0.002"}),
        feedback("c", "yes"),
    )

    assert found.cost_usd == pytest.approx(0.003)
    assert (found.priced, found.verdicts) == (2, 3)


class TestFlips:
    def test_stored_verdicts_of_one_version_on_one_trace(self):
        found = of(
            feedback("a", "yes", minute=1),
            feedback("a", "no", minute=2),
            feedback("a", "yes", minute=3),
            feedback("b", "no", minute=1),
            feedback("b", "no", minute=2),
            feedback("c", "no"),
        )

        # Of a's three pairs of answers two differ, of b's one none; c was asked once.
        assert found.stored.rate == pytest.approx((2 / 3 + 0) / 2)
        assert (found.stored.flipped.passed, found.stored.flipped.decided, found.stored.answers) == (1, 2, 5)

    def test_a_verdict_that_the_judge_overrode_when_asked_again_is_an_answer_too(self):
        found = of(
            feedback("a", "no", id="a-1", valid=False, minute=1),
            feedback("a", "yes", id="a-2", overrides="a-1", minute=2),
            feedback("a", "yes", by="ada"),
        )

        assert (found.stored.rate, found.stored.answers) == (1, 2)
        assert found.overall.agreed.rate == 1

    def test_it_does_not_grow_with_the_number_of_answers(self):
        assert trust.flips([["yes", "no"]]).rate == 1
        assert trust.flips([["yes"] * 50 + ["no"] * 50]).rate == pytest.approx(50 / 99)

    def test_one_answer_says_nothing(self):
        assert trust.flips([["yes"], []]).rate is None


class Judging:
    """MLflow with one judge that answers from a list, a job after another."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.mlflow = Mlflow(Connection("http://127.0.0.1:1", "admin", "x"), httpx.MockTransport(self.serve))

    def serve(self, request):
        path = request.url.path
        if path.endswith("/scorers/list"):
            scorer = {"scorer_name": "safety", "scorer_id": "s", "serialized_scorer": "{}"}
            return httpx.Response(200, json={"scorers": [scorer]})
        if path.endswith("/online-configs"):
            return httpx.Response(200, json={"configs": []})
        if path.endswith("/scorer/invoke"):
            self.asked.append(json.loads(request.content))
            return httpx.Response(200, json={"jobs": [{"job_id": str(len(self.asked) - 1)}]})
        return httpx.Response(200, json=self.answers[int(path.rsplit("/", 1)[1])])


def job(**said):
    result = {}
    for trace, value in said.items():
        _, one = feedback(trace, value)
        failed = value is None
        result[f"tr-{trace}"] = {
            "assessments": [] if failed else [one],
            "failures": [{"error_code": "X", "error_message": "no answer"}] if failed else [],
        }
    return {"status": "SUCCEEDED", "result": result}


def known(*traces):
    return [
        one
        for trace, value, by in traces
        for one in assessments.of_trace(
            {"trace_id": f"tr-{trace}", "assessments": [feedback(trace, value, by=by)[1]]}
        )
    ]


FOUND = known(("a", "yes", "gateway:/judge"), ("b", "yes", "gateway:/judge"), ("b", "no", "ada"))


class TestAskedAgain:
    def test_nothing_is_stored_and_labelled_traces_come_first(self):
        server = Judging(job(b="yes"), job(b="no"))

        asked = trust.asked(server.mlflow, "1", "safety", FOUND, 2, 1, 30)

        assert [(one["trace_ids"], one["log_assessments"]) for one in server.asked] == [(["tr-b"], False)] * 2
        assert (asked.flips.rate, asked.flips.flipped.passed, asked.failed) == (1, 1, 0)

    def test_failures_are_counted_and_are_no_answers(self):
        server = Judging(
            job(a="yes", b="yes"), job(a="yes", b=None), {"status": "FAILED", "result": "out of memory"}
        )

        asked = trust.asked(server.mlflow, "1", "safety", FOUND, 3, 9, 30)

        assert (asked.flips.rate, asked.flips.answers) == (0, 2)
        assert asked.failed == 2
        assert asked.first_failure == "no answer"

    def test_no_answer_at_all_is_a_failure(self):
        server = Judging(*[{"status": "FAILED", "result": "the budget is spent"}] * 2)

        with pytest.raises(ServerFailed, match="the budget is spent"):
            trust.asked(server.mlflow, "1", "safety", FOUND, 2, 9, 30)

    def test_a_job_that_does_not_end_is_waited_for_no_longer_than_asked(self):
        server = Judging({"status": "RUNNING"}, job(a="yes", b="yes"))

        asked = trust.asked(server.mlflow, "1", "safety", FOUND, 2, 9, 0)

        assert asked.failed == 1
        assert "had not ended" in asked.first_failure

    def test_a_judge_that_is_not_registered_can_t_be_asked(self):
        with pytest.raises(NotFound, match="only safety"):
            trust.asked(Judging().mlflow, "1", "other", FOUND, 2, 9, 30)


def test_a_name_is_found_in_any_spelling():
    assert trust.spelled(FOUND, "Safety") == "safety"
    with pytest.raises(NotFound, match="only of safety"):
        trust.spelled(FOUND, "fluency")


def test_only_judges_with_labels_are_shown_by_themselves():
    assert trust.judge_names(FOUND) == ["safety"]
    assert trust.judge_names(known(("a", "yes", "gateway:/judge"))) == []


def test_all_pages_of_traces_are_read_up_to_a_limit(monkeypatch):
    def serve(request):
        body = json.loads(request.content)
        page = int(body.get("page_token", "0"))
        trace = {"trace_id": f"tr-{page}", "assessments": [feedback(str(page), "yes")[1]]}
        return httpx.Response(
            200, json={"traces": [trace], "next_page_token": str(page + 1) if page < 9 else ""}
        )

    server = Mlflow(Connection("http://127.0.0.1:1", "admin", "x"), httpx.MockTransport(serve))

    assert [len(trust.collect(server, "1", None)[0]), trust.collect(server, "1", None)[1]] == [10, False]
    monkeypatch.setattr(trust, "MOST_TRACES", 3)
    found, cut = trust.collect(server, "1", None)
    assert (len(found), cut) == (3, True)


def test_what_is_shown(capsys):
    hostile = feedback("b", "\x1b[31mbad", by="eve\x1b]0;title\x07")
    found = of(feedback("a", "yes"), feedback("a", "yes", by="ada"), feedback("b", "no"), hostile)

    trust.show(found)
    shown = capsys.readouterr().out

    assert "kappa" in shown
    assert "a first impression" in shown
    assert "\x1b" not in shown
    assert json.dumps(found.as_json())


def test_an_undefined_kappa_is_said(capsys):
    trust.show(of(feedback("a", "yes"), feedback("a", "yes", by="ada")))

    assert "not defined: people and judge say nothing but 'yes'" in " ".join(capsys.readouterr().out.split())
