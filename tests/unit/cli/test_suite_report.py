"""`./paddock suite report`: figures, comparison, and the forms that it is written in."""

import json
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from suite_runs import attempt, attempts, suite_run
from suite_runs import suite_run_of as of
from typer.testing import CliRunner

from paddock_cli import console
from paddock_cli.app import app
from paddock_cli.errors import NoBaseline
from paddock_cli.suites import comparison, markdown, pages, report_document, terminal
from paddock_cli.suites.results import SuiteRun
from paddock_cli.suites.summary import link, summarize

HOSTILE = (
    "<img src=x onerror=alert(1)>|`*_[a](javascript:alert(1)) \\| @all #1 www.example.org http://example.org\n"
    "# head\x1b]8;;http://example.org\x07\x1b[31m\u202e\x00"
)


def call(*arguments):
    return CliRunner().invoke(app, ["suite", "report", *arguments], catch_exceptions=False)


class TestFigures:
    def test_pass_rate_interval_and_pass_at_k(self):
        group = summarize(of({"a": "+-+", "b": "---"})).all

        assert (group.count.passed, group.count.decided) == (2, 6)
        assert group.interval.low == pytest.approx(0.0968, abs=1e-4)
        assert group.pass_at == pytest.approx({1: 1 / 3, 2: 0.5, 3: 0.5})

    def test_attempts_in_state_error_stand_beside(self):
        summary = summarize(of({"a": "+e", "b": "-+"}))

        assert (summary.all.count.passed, summary.all.count.decided, summary.all.errors) == (2, 3, 1)
        assert [one.task for one in summary.errors] == ["a"]
        assert all(one.state == "done" for one in summary.worst)
        # A task that was decided once has no pass@2.
        assert list(summary.all.pass_at) == [1]

    def test_cost_tokens_time_and_steps(self):
        made = [
            attempt("a", cost_usd=0.10, seconds=10, steps=2, tokens={"input": 100, "output": 20}),
            attempt("b", cost_usd=0.30, seconds=40, steps=4, tokens={"input": 300, "output": 40}),
            attempt(
                "c", cost_usd=0.20, seconds=1, steps=9, state="error", passed=False, tokens={"input": 40}
            ),
        ]
        group = summarize(suite_run(made)).all

        # What stood in the way is paid for, and is no measure of what an attempt takes.
        assert group.cost_usd.total == pytest.approx(0.60)
        assert group.cost_usd.mean == pytest.approx(0.20)
        assert (group.tokens.total, group.tokens.mean) == (500, 230)
        assert (group.seconds.mean, group.seconds.largest) == (25, 40)
        assert (group.steps.mean, group.steps.median) == (3, 3)

    def test_a_price_that_is_not_known_makes_the_sum_unknown(self):
        group = summarize(suite_run([attempt("a"), attempt("b", cost_usd=None)])).all

        assert group.cost_usd is None
        assert group.priced == 1

    def test_groups_are_in_the_order_of_the_run(self):
        made = [*attempts({"z": "+", "a": "-"}, "second"), *attempts({"z": "+", "a": "+"}, "first")]
        summary = summarize(suite_run(made, endpoints=["first", "second"]))

        assert [group.name for group in summary.by_endpoint] == ["first", "second"]
        assert [group.name for group in summary.by_task] == ["z", "a"]

    def test_endpoints_are_compared_on_the_same_tasks(self):
        tasks = "abcdef"
        made = [*attempts(dict.fromkeys(tasks, "+")), *attempts(dict.fromkeys(tasks, "-"), "cheap")]
        (pair,) = summarize(suite_run(made)).versus

        assert (pair.first, pair.second, pair.tasks, pair.difference) == ("coder", "cheap", 6, -1)
        assert pair.p_value == pytest.approx(2 / 2**6)

    def test_the_worst_traces_come_first(self):
        failing = {"name": "a check", "passed": False}
        passing = {"name": "another", "passed": True}
        no = {"relevance": {"value": "no", "passed": False}}
        made = [
            attempt("fine"),
            attempt("judged", judges=no),
            attempt("half", passed=False, checks=[failing, passing], cost_usd=0.95),
            attempt("dear", passed=False, checks=[failing], cost_usd=0.9),
            attempt("cheap", passed=False, checks=[failing], cost_usd=0.1),
            attempt("stopped", passed=False, checks=[failing], outcome="limit", cost_usd=0.1),
        ]

        worst = [one.task for one in summarize(suite_run(made)).worst]

        assert worst == ["stopped", "dear", "cheap", "half", "judged"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("E\nFAILED (failures=1)\n\n", "FAILED (failures=1)"),
        ("no\n(exit code 3)", "no (exit code 3)"),
        ("", ""),
    ],
)
def test_the_last_line_of_a_check_is_what_it_said(output, said):
    assert pages.last_line(output) == said


class TestComparison:
    def test_a_task_is_compared_with_itself_on_the_same_endpoint(self):
        before = suite_run([*attempts({"a": "+++", "b": "+-"}), *attempts({"a": "---"}, "cheap")])
        now = suite_run([*attempts({"a": "---", "b": "+"}), *attempts({"a": "+++"}, "cheap")])

        found = comparison.against(before, now)

        assert found.paired_by == "task and endpoint"
        kinds = {(one.task, one.endpoint): one.kind for one in found.changes}
        assert kinds == {("a", "coder"): "broken", ("a", "cheap"): "fixed", ("b", "coder"): "better"}
        assert [one.task for one in found.regressed] == ["a"]
        assert found.difference == pytest.approx((-1 + 1 + 0.5) / 3)

    def test_a_task_that_lost_some_passes_is_worse_and_not_broken(self):
        found = comparison.against(of({"a": "+++", "b": "++-"}), of({"a": "++-", "b": "---"}))

        assert [one.kind for one in found.changes] == ["worse", "worse"]

    def test_without_a_common_endpoint_by_task_alone(self):
        found = comparison.against(of({"a": "+", "b": "+"}), of({"a": "-", "b": "+"}, "other"))

        assert found.paired_by == "task"
        assert [one.kind for one in found.changes] == ["broken", "same"]
        assert "no endpoint in common" in " ".join(found.notes)

    def test_an_endpoint_of_one_run_alone_is_left_out_and_named(self):
        now = suite_run([*attempts({"a": "+"}), *attempts({"a": "-"}, "new")])
        found = comparison.against(of({"a": "+"}), now)

        assert [(one.task, one.endpoint) for one in found.changes] == [("a", "coder")]
        assert found.endpoints_left_out == ("new",)

    def test_attempts_in_state_error_are_no_regression(self):
        found = comparison.against(of({"a": "+++"}), of({"a": "eee"}))

        assert [one.kind for one in found.changes] == ["undecided"]
        assert not found.regressed
        assert not found.worse

    def test_a_task_that_broke_counts_where_there_are_enough_attempts(self):
        three = comparison.against(of({"a": "+++"}), of({"a": "---"}))
        two = comparison.against(of({"a": "++"}), of({"a": "--"}))

        assert [one.task for one in three.regressed] == ["a"]
        assert three.regressed[0].p_value == 0.05
        assert not two.regressed
        assert [one.task for one in two.suspects] == ["a"]

    def test_with_one_attempt_each_five_lost_passes_are_worse_and_four_are_not(self):
        before = of(dict.fromkeys("abcdefgh", "+"))

        def lost(number):
            results = {task: "-" if index < number else "+" for index, task in enumerate("abcdefgh")}
            return comparison.against(before, of(results))

        assert not lost(4).worse
        assert lost(5).worse
        assert lost(0).worse_needs == 5

    def test_where_no_loss_could_be_seen_it_says_so(self):
        found = comparison.against(of({"a": "+", "b": "-"}), of({"a": "+", "b": "-"}))

        assert found.worse_needs is None
        assert "no loss could be told from chance" in pages.sensitivity(found)

    def test_what_only_one_of_them_has_is_named(self):
        found = comparison.against(of({"a": "+", "old": "+"}), of({"a": "+", "new": "-"}))

        assert (found.added, found.removed) == (("new",), ("old",))
        assert [one.task for one in found.changes] == ["a"]

    def test_other_contents_and_a_baseline_that_is_not_whole_are_said(self):
        before = of({"a": "+"}, suite_sha256="1" * 64, complete=False, missing_because="the budget is spent")
        notes = " ".join(comparison.against(before, of({"a": "+"})).notes)

        assert "contents have changed" in notes
        assert "the budget is spent" in notes

    def test_nothing_in_common_is_no_baseline(self):
        with pytest.raises(NoBaseline, match="none of them"):
            comparison.against(of({"a": "+"}), of({"b": "+"}))


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "javascript://example.org/%0aalert(1)",
        "ftp://example.org/",
        "data:text/html,x",
        "http://a/ b",
        "http://a/<b>",
        'http://a/"',
        "http://a/)",
        "http://a/|",
        "http://[",
        "http:///nowhere",
        "",
    ],
)
def test_only_plain_web_addresses_become_links(url):
    assert link(url) == ""


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def hostile_page():
    made = [
        attempt(
            HOSTILE,
            HOSTILE,
            passed=False,
            message=HOSTILE,
            outcome=HOSTILE,
            model=HOSTILE,
            trace_url="javascript:alert(1)",
            trace_id=HOSTILE,
            checks=[{"name": HOSTILE, "passed": False, "output": HOSTILE}],
            judges={HOSTILE: {"value": "no", "passed": False, "rationale": HOSTILE}},
        ),
        attempt("b", state="error", passed=False, error=HOSTILE, trace_url=""),
    ]
    run = suite_run(
        made, suite=HOSTILE, label=HOSTILE, missing_because=HOSTILE, complete=False, git={"branch": HOSTILE}
    )
    summary = summarize(run)
    return pages.suite_page(summary, comparison.against(run, run), 30)


class TestForms:
    def test_markdown_shows_what_agents_wrote_and_obeys_none_of_it(self):
        text = markdown.render(hostile_page())
        rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text)
        tags = _Tags()
        tags.feed(rendered)

        ours = {"h1", "h2", "blockquote", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "sub"}
        assert {tag for tag, _ in tags.seen} <= ours
        assert "&lt;img src=x onerror=alert(1)&gt;|`*_[a](javascript:alert(1)) \\|" in rendered
        # No bare address or mention is left for a forge to make a link of.
        assert not re.search(r"http://|www\.|@all|javascript:", text)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)

    def test_every_row_of_markdown_has_the_columns_of_its_table(self):
        for block in markdown.render(hostile_page()).split("\n\n"):
            rows = [line for line in block.splitlines() if line.startswith("|")]
            assert len({len(re.findall(r"\|", row)) for row in rows}) <= 1, block

    def test_markdown_keeps_links(self):
        page = pages.suite_page(summarize(of({"a": "-"})), None, 30)

        address = "http://127.0.0.1:5000/#/experiments/1/traces?traceId=tr-a-coder-1"
        assert f'href="{address}"' in MarkdownIt("commonmark").enable("table").render(markdown.render(page))

    def test_markdown_fits_a_summary(self):
        run = of({f"task-{number}-{'x' * 50}": "-" for number in range(9000)})

        text = markdown.render(pages.suite_page(summarize(run), None, 10_000))

        assert len(text.encode()) < 1024 * 1024
        assert "too long for a summary" in text

    def test_a_terminal_obeys_nothing(self, capsys):
        terminal.show(hostile_page())
        shown = capsys.readouterr().out

        assert "onerror=alert(1)" in shown
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)

    def test_a_narrow_terminal_shows_whole_numbers(self, monkeypatch, capsys):
        monkeypatch.setattr(console.out, "width", 60)
        terminal.show(pages.suite_page(summarize(of({"a-rather-long-name-of-a-task": "+-+"})), None, 30))
        tables = capsys.readouterr().out.split("By endpoint")[1].split("Worst traces")[0]

        assert "2/3" in tables
        assert "$0.02" in tables
        assert max(map(len, tables.splitlines())) <= 60

    def test_addresses_stay_whole_on_a_terminal(self, monkeypatch, capsys):
        monkeypatch.setattr(console.out, "width", 40)
        terminal.show(pages.suite_page(summarize(of({"a": "-"})), None, 30))

        assert (
            "http://127.0.0.1:5000/#/experiments/1/traces?traceId=tr-a-coder-1\n" in capsys.readouterr().out
        )

    def test_json_has_everything(self):
        run = of({"a": "+-", "b": "e"})
        document = json.loads(report_document.render(summarize(run), comparison.against(run, run)))

        assert document["all"]["count"] == {"passed": 1, "decided": 2, "rate": 0.5}
        assert document["all"]["interval"]["low"] == pytest.approx(0.0945, abs=1e-4)
        assert [one["task"] for one in document["worst"]] == ["a"]
        assert [one["error"] for one in document["errors"]] == ["the repository can't be cloned"]
        assert document["comparison"]["p_value"] == 1


class TestCommand:
    def test_a_table_with_what_changed(self, state):
        before = state("before.json", of({"a": "+++", "b": "+++"}, id="coding-20261124-200000-aaaa"))
        now = state("now.json", of({"a": "---", "b": "+++"}))

        answer = call(now, "--baseline", before)

        assert answer.exit_code == 0, answer.output
        assert "50 % (3 of 6); 95 % interval 19 % to 81 %" in answer.output
        assert "broken" in answer.output
        assert "tests pass: FAILED (failures=1)" in answer.output

    def test_the_form_follows_the_name_of_the_file(self, state, tmp_path):
        now = state("now.json", of({"a": "-"}))

        call(now, "--output", str(tmp_path / "report.md"))
        call(now, "--output", str(tmp_path / "report.json"))

        assert (tmp_path / "report.md").read_text().startswith("# Suite coding\n")
        assert json.loads((tmp_path / "report.json").read_text())["all"]["attempts"] == 1

    def test_json_is_one_document(self, state):
        assert (
            json.loads(call(state("now.json", of({"a": "-"})), "--json").stdout)["suite_run"]["suite"]
            == "coding"
        )

    def test_the_suite_run_itself_is_a_baseline_elsewhere(self, state, tmp_path):
        run = of({"a": "+-e"}, label="main")

        call(state("now.json", run), "--format", "results", "--output", str(tmp_path / "baseline.json"))

        assert SuiteRun.model_validate_json((tmp_path / "baseline.json").read_text()) == run

    @pytest.mark.parametrize(
        "arguments", [("--json", "--format", "html"), ("--output", "report.txt"), ("--level", "0.9")]
    )
    def test_a_call_that_makes_no_sense(self, state, arguments):
        from paddock_cli.errors import UsageFailed

        now = state("now.json", of({"a": "-"}))
        try:
            assert call(now, *arguments).exit_code == 2
        except UsageFailed as error:
            assert error.exit_code == 2

    def test_a_figure_that_is_no_number_is_refused(self, state, tmp_path):
        from paddock_cli.errors import ServerFailed

        text = of({"a": "-"}).model_dump_json().replace('"cost_usd":0.02', '"cost_usd":NaN')
        (tmp_path / "results.json").write_text(text)

        with pytest.raises(ServerFailed, match="cost_usd"):
            call(str(tmp_path / "results.json"))
