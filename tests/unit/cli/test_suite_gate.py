"""`./paddock suite gate`: what holds, what does not, what can't be said, and what a build server gets to read."""

import json
from xml.etree import ElementTree

import pytest
from suite_runs import attempt, attempts, suite_run
from suite_runs import suite_run_of as of
from typer.testing import CliRunner

from paddock_cli.app import app
from paddock_cli.errors import NoBaseline, NotFound, UsageFailed
from paddock_cli.suites import gate, junit, store
from paddock_cli.suites.comparison import against
from paddock_cli.suites.summary import summarize

HOSTILE = "]]></failure><script>\x00\x1b[31m\ufffe\ud800"


def call(*arguments):
    return CliRunner().invoke(app, ["suite", "gate", *arguments], catch_exceptions=False)


def held(run, *minima, maxima=()):
    decided = gate.decide(summarize(run), None, gate.thresholds(minima, maxima), no_regressions=False)
    return decided, [(one.state, one.found) for one in decided.criteria]


class TestThresholds:
    def test_a_rate_that_is_high_enough_and_one_that_is_not(self):
        decided, found = held(of({"a": "+++-"}), "pass_rate=0.75", "pass_rate=0.76", "pass_rate_low=0.9")

        assert found == [("passed", "75 % (3 of 4)"), ("failed", "75 % (3 of 4)"), ("failed", "30.1 %")]
        assert decided.state == "failed"
        assert decided.exit_code == 42

    def test_the_bound_itself_holds(self):
        decided, _ = held(of({"a": "++"}), "pass_rate=1", maxima=["cost_usd=0.04", "failed=0", "errors=0"])

        assert (decided.state, decided.exit_code) == ("passed", 0)

    @pytest.mark.parametrize("metric", gate.METRICS)
    def test_every_metric_has_a_figure(self, metric):
        _, ((low, _), (high, _)) = held(of({"a": "+-"}), f"{metric}=0", maxima=[f"{metric}=0"])

        assert low == "passed"
        assert high == ("passed" if metric == "errors" else "failed")

    def test_metrics_mean_what_they_say(self):
        made = [
            attempt("a", cost_usd=0.1, seconds=10, steps=2, tokens={"input": 100, "output": 10}),
            attempt(
                "b", cost_usd=0.3, seconds=50, steps=8, tokens={"input": 500, "output": 90}, passed=False
            ),
        ]
        group = summarize(suite_run(made)).all
        figures = {name: take(group) for name, (_, take) in gate.METRICS.items()}

        assert figures == pytest.approx(
            {
                "pass_rate": 0.5,
                "pass_rate_low": 0.0945,
                "failed": 1,
                "errors": 0,
                "cost_usd": 0.4,
                "cost_usd_mean": 0.2,
                "cost_usd_max": 0.3,
                "cost_usd_per_pass": 0.4,
                "tokens": 700,
                "tokens_mean": 350,
                "seconds": 60,
                "seconds_mean": 30,
                "seconds_max": 50,
                "steps_mean": 5,
                "steps_max": 8,
            },
            abs=1e-4,
        )

    def test_one_endpoint_alone(self):
        run = suite_run([*attempts({"a": "++"}), *attempts({"a": "--"}, "cheap")])

        _, found = held(run, "pass_rate=0.9", "pass_rate@coder=0.9", "pass_at_2@cheap=0.1")

        assert [state for state, _ in found] == ["failed", "passed", "failed"]

    def test_a_judge_has_a_rate_where_it_judged_every_attempt(self):
        yes, no = ({"safety": {"value": word, "passed": word == "yes"}} for word in ("yes", "no"))
        both = suite_run([attempt("a", judges=yes), attempt("b", judges=no)])
        one = suite_run([attempt("a", judges=yes), attempt("b")])

        assert held(both, "judge/safety=0.5")[1] == [("passed", "50 %")]
        assert held(one, "judge/safety=0.5")[1] == [("undecided", "no verdict of it on 1 decided attempt")]
        assert "judges of this run: safety" in held(one, "judge/other=0.5")[1][0][1]

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("pass_rate", "METRIC=NUMBER"),
            ("pass_rate=", "METRIC=NUMBER"),
            ("pass_rate=high", "a number"),
            ("pass_rate=nan", "a number"),
            ("pass_rate=90", "from 0 to 1"),
            ("pass_at_0=0.5", "cost_usd_per_pass"),
            ("quality=1", "take one of pass_rate, pass_rate_low"),
        ],
    )
    def test_what_can_t_be_read_is_refused_with_the_choices(self, given, told):
        with pytest.raises(UsageFailed, match=told):
            gate.thresholds([given], [])

    def test_an_endpoint_that_the_run_does_not_have(self):
        with pytest.raises(UsageFailed, match="take one of coder"):
            held(of({"a": "+"}), "pass_rate@nope=0.5")


class TestUndecided:
    def test_missing_attempts(self):
        run = of({"a": "+"}, complete=False, missing_because="the budget is spent")
        decided, found = held(run, "pass_rate=0.9")

        assert found[0][0] == "passed"
        assert decided.exit_code == 43
        assert "the budget is spent" in decided.obstacles[0]

    def test_no_attempts_at_all(self):
        assert held(suite_run([]), maxima=["cost_usd=1"])[0].exit_code == 43

    def test_attempts_in_state_error_even_where_a_criterion_fails(self):
        decided, _ = held(of({"a": "-e"}), "pass_rate=0.9")

        assert decided.exit_code == 43
        assert "1 attempt in state error" in decided.obstacles[0]
        assert "can't be cloned" in decided.obstacles[0]

    def test_as_many_errors_as_are_allowed(self):
        run = of({"a": "+e", "b": "+e"})

        assert held(run, "pass_rate=0.9", maxima=["errors=2"])[0].exit_code == 0
        assert held(run, "pass_rate=0.9", maxima=["errors=1"])[0].exit_code == 42

    def test_a_cost_that_is_not_known(self):
        decided, found = held(suite_run([attempt(cost_usd=None)]), maxima=["cost_usd=1"])

        assert found == [("undecided", "the price is known of 0 of 1 attempts")]
        assert decided.exit_code == 43

    def test_more_attempts_than_there_are(self):
        found = held(of({"a": "+++", "b": "++"}), "pass_at_3=0.5")[1]

        assert found == [("undecided", "a task has 2 decided attempts, 3 are needed: --repeat 3")]


class TestNoRegressions:
    def regressions(self, before, now):
        comparison = against(before, now)
        decided = gate.decide(summarize(now), comparison, [], no_regressions=True)
        return decided, {one.name: (one.state, one.found) for one in decided.criteria}

    def test_a_broken_task_fails_where_the_others_hold(self):
        steady = dict.fromkeys("bcdefgh", "+++")
        decided, found = self.regressions(of({"a": "+++", **steady}), of({"a": "---", **steady}))

        assert found["no broken task"] == ("failed", "a on coder (3/3 → 0/3)")
        assert decided.exit_code == 42

    def test_what_others_win_does_not_hide_a_broken_task(self):
        won = dict.fromkeys("bcdefgh", "---"), dict.fromkeys("bcdefgh", "+++")
        decided, found = self.regressions(of({"a": "+++", **won[0]}), of({"a": "---", **won[1]}))

        assert found["no regression over all tasks"][0] == "passed"
        assert found["no broken task"][0] == "failed"
        assert decided.exit_code == 42

    def test_one_attempt_a_task_cries_no_wolf_and_says_what_it_can_t_see(self):
        steady = dict.fromkeys("bcdefgh", "+")
        decided, found = self.regressions(of({"a": "+", **steady}), of({"a": "-", **steady}))

        assert decided.exit_code == 0
        assert "run again with --repeat 3: a on coder (1/1 → 0/1)" in found["no broken task"][1]
        assert "5 lost passes would be seen" in found["no regression over all tasks"][1]

    def test_a_little_from_many_tasks_fails_over_all(self):
        decided, found = self.regressions(
            of(dict.fromkeys("abcdefgh", "+++")), of(dict.fromkeys("abcdefgh", "+-+"))
        )

        assert found["no regression over all tasks"][0] == "failed"
        assert found["no broken task"] == ("passed", "none")
        assert decided.exit_code == 42

    def test_nothing_decided_on_both_sides_is_undecided(self):
        decided, _ = self.regressions(of({"a": "+"}), of({"a": "e"}))

        assert decided.exit_code == 43


class TestJunit:
    def document(self, run, *minima):
        decided = gate.decide(summarize(run), None, gate.thresholds(minima, []), no_regressions=False)
        return ElementTree.fromstring(junit.render(decided))

    def test_an_attempt_is_a_test_case(self):
        root = self.document(of({"a": "+-e"}), "pass_rate=0.9")

        suite = root.find("testsuite[@name='coding on coder']")
        counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
        assert counts == {"tests": "3", "failures": "1", "errors": "1", "skipped": "0", "time": "30.000"}
        passed, failed, error = suite
        assert (passed.get("name"), passed.get("classname"), passed.get("time")) == (
            "a #1",
            "coding.coder",
            "10.000",
        )
        assert passed.find("failure") is None
        assert failed.find("failure").get("message") == "tests pass: FAILED (failures=1)"
        assert "FAILED (failures=1)" in failed.find("failure").text
        assert "can't be cloned" in error.find("error").get("message")
        assert "traceId=tr-a-coder-1" in passed.find("system-out").text

    def test_a_criterion_is_one_too(self):
        root = self.document(of({"a": "+-e"}), "pass_rate=0.9", "pass_at_9=0.1")

        cases = {
            case.get("name"): [child.tag for child in case] for case in root.find("testsuite[@name='gate']")
        }
        assert cases == {
            "pass_rate ≥ 0.9": ["failure"],
            "pass_at_9 ≥ 0.1": ["error"],
            "results are complete": ["error"],
        }

    def test_the_sums_are_right(self):
        root = self.document(of({"a": "+-e", "b": "--"}), "pass_rate=0.9")

        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(root.get(name)) == len(list(root.iter(tag)))

    def test_it_is_xml_whatever_an_agent_printed(self):
        made = [
            attempt(
                HOSTILE.replace("\ud800", ""),
                passed=False,
                message="\x0b\x1f",
                checks=[{"name": "a", "passed": False, "output": "]]></failure><script>\x00\x1b[31m\ufffe"}],
            )
        ]
        root = self.document(suite_run(made), "pass_rate=0")

        assert root.find(".//script") is None
        (failure,) = root.findall(".//testsuite[2]/testcase/failure")
        assert failure.text.endswith("]]></failure><script>[31m")

    def test_a_long_output_is_cut_to_its_end(self):
        check = {"name": "a", "passed": False, "output": "x" * 100_000 + "the end"}
        failure = self.document(suite_run([attempt(passed=False, checks=[check])]), "pass_rate=0").find(
            ".//testsuite[2]/testcase/failure"
        )

        assert failure.text.endswith("the end")
        assert len(failure.text) < 10_000


class TestCommand:
    def test_passed_failed_and_undecided_end_differently(self, state):
        good, bad = state("good.json", of({"a": "++"})), state("bad.json", of({"a": "+-"}))
        cut = state("cut.json", of({"a": "+"}, complete=False))

        codes = [call(one, "--min", "pass_rate=0.9").exit_code for one in (good, bad, cut)]

        assert codes == [0, 42, 43]

    def test_no_baseline_is_told_apart_from_no_run(self, state):
        good = state("good.json", of({"a": "++"}))

        with pytest.raises(NoBaseline, match="no stack runs here") as refused:
            call(good, "--baseline", "main", "--no-regressions")
        assert refused.value.exit_code == 44
        with pytest.raises(NotFound):
            call("nowhere.json", "--min", "pass_rate=0.9")

    def test_a_baseline_by_label_is_of_the_same_suite_and_not_the_run_itself(self, state, where, monkeypatch):
        monkeypatch.setenv("PADDOCK_STATE_DIR", str(where.state))

        def kept(results, name, day, suite="coding"):
            run = of(
                results,
                id=f"{suite}-{day}-200000-{name}",
                suite=suite,
                label="main",
                created=f"{day}T20:00:00Z",
            )
            store.folder(where, run.id).mkdir(parents=True)
            store.write(where, run)

        kept({"a": "+++"}, "aaaa", "20261101")
        kept({"a": "---"}, "bbbb", "20261102")
        kept({"a": "+++"}, "cccc", "20261103", suite="other")

        answer = call("coding-20261102-200000-bbbb", "--baseline", "main", "--no-regressions", "--json")

        assert answer.exit_code == 42
        assert json.loads(answer.stdout)["baseline"] == "coding-20261101-200000-aaaa"

    def test_a_run_is_no_baseline_of_its_own(self, state, where, monkeypatch):
        monkeypatch.setenv("PADDOCK_STATE_DIR", str(where.state))
        run = of({"a": "+"}, label="main")
        store.folder(where, run.id).mkdir(parents=True)
        store.write(where, run)

        for named in ("main", "latest"):
            with pytest.raises(NoBaseline, match="none beside the run itself"):
                call("main", "--baseline", named, "--no-regressions")

    def test_files_are_written_whatever_comes_of_it(self, state, tmp_path):
        cut = state("cut.json", of({"a": "-"}, complete=False))

        call(cut, "--min", "pass_rate=0.9", "--junit", "junit.xml", "--markdown", "summary.md")

        assert ElementTree.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"
        assert (tmp_path / "summary.md").read_text().startswith("# Gate undecided: coding\n")

    @pytest.mark.parametrize(
        ("arguments", "told"), [((), "a criterion"), (("--no-regressions",), "--baseline with")]
    )
    def test_a_gate_that_would_check_nothing_is_refused(self, state, arguments, told):
        with pytest.raises(UsageFailed, match=told):
            call(state("good.json", of({"a": "+"})), *arguments)
