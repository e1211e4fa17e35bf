"""judges.yaml: its form, its rules, the schema that is published, and what a plan says of it. No server."""

import json
from pathlib import Path

import pytest

from paddock_mlflow.config.errors import InvalidConfiguration
from paddock_mlflow.config.source import parse
from paddock_mlflow.judges import definition, export, plan, schema, validation
from paddock_mlflow.judges.definition import Definition, Scale, Threshold
from paddock_mlflow.judges.plan import JudgeState, State

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "mlflow" / "judges.yaml"
CODE = ROOT / "mlflow" / "scorers"
ENDPOINTS = {"coder", "judge", "cheap"}
ASKS = "Rate {{ outputs }}."


def checked(text: str, code: Path = CODE) -> validation.Checked:
    """The file that these judges make."""
    source = parse(f"version: 1\njudges:\n{text}", "judges.yaml", validation.FORM)
    return validation.check(source, code, ENDPOINTS)


def judge(text: str, code: Path = CODE) -> Definition:
    """The one judge of a file."""
    return checked(f"  it: {text}\n", code).definitions["it"]


def state_of(wanted: dict[str, Definition], rate: float | None = 1.0, **more: object) -> State:
    """A server that has these judges, with that rate."""
    judges = {
        name: JudgeState(
            one, 1, "f" * 64, rate, str(more.get("filter", "")), True, True, str(more.get("problem", ""))
        )
        for name, one in wanted.items()
    }
    return State("1", judges, {"judge": "e-1", "cheap": "e-2"}, frozenset({"judge"}), frozenset({"judge"}))


@pytest.mark.parametrize(
    ("text", "place", "expected", "found", "remedy"),
    [
        ("{scorer: RelevanceToQuerry}", "scorer", "a built-in scorer of MLflow", "RelevanceToQuerry", "RelevanceToQuery"),
        ("{scorer: Guidelines}", "scorer", "a built-in scorer", "Guidelines", "write `guidelines:`"),
        ("{scorer: Safety, sampling: 1.5}", "sampling", "a share from 0 to 1", "1.5", "0.2"),
        ("{scorer: Safety, sampling: some}", "sampling", "a share from 0 to 1", "some", "0.2"),
        ("{scorer: Safety, endpoint: jugde}", "endpoint", "an endpoint of the gateway", "jugde", "did you mean `judge`"),
        ("{scorer: Safety, endpoint: coder}", "endpoint", "of the judges' own", "which agents call", "name another"),
        ("{scorer: PIIDetection, endpoint: judge}", "endpoint", "no endpoint", "judge", "remove it"),
        ("{scorer: Safety, filter: \"status = \"}", "filter", "comparisons joined by AND", "status =", "trace.status"),
        ("{scorer: Safety, filter: \"a = 'x' OR b = 'y'\"}", "filter", "joined by AND", "OR", "trace.status"),
        ("{scorer: Safety, run: on demand, sampling: 0.5}", "sampling", "on demand", "one", "run: online"),
        ("{scorer: Safety, options: {x: 1}}", "options.x", "an option of Safety", "x", "there are: none"),
        ("{scorer: RegexMatch}", "options", "the option `pattern`", "none", "add it"),
        ("{scorer: RegexMatch, options: {pattern: '('}}", "options.pattern", "regular expression", "missing )", "mend"),
        ("{scorer: ResponseLength}", "options", "`min_length` or `max_length`", "neither", "how long"),
        ("{scorer: ResponseLength, options: {min_length: 9, max_length: 1}}", "options.min_length", "1", "9", "swap"),
        ("{scorer: PIIDetection, options: {pii_types: [name]}}", "options.pii_types", "email", "a list", "mend"),
        ("{scorer: Safety, pass: [maybe]}", "pass[0]", "one of yes, no", "maybe", "mend"),
        ("{scorer: Safety, pass: {at_least: 1}}", "pass", "yes, no", "a bound", "ranges of numbers"),
        ("{scorer: Safety, guidelines: x}", "guidelines", "one of scorer", "scorer and guidelines", "two judges"),
        ("{}", "", "one of scorer", "none of them", "say what"),
        ("{sees: steps, scorer: Safety}", "sees", "beside `guidelines` alone", "beside `scorer`", "remove it"),
        ("{guidelines: []}", "guidelines", "at least one", "a list", "mend"),
        ("{instructions: Be kind.}", "instructions", "{{ inputs }}", "none of them", "Is {{ outputs }} polite?"),
        ("{instructions: 'Is {{ answer }} good?'}", "instructions", "{{ inputs }}", "{{ answer }}", "rename"),
        (
            "{instructions: '{{ conversation }} {{ inputs }}'}",
            "instructions",
            "nothing but {{ expectations }}",
            "{{ inputs }}",
            "holds requests",
        ),
        (f"{{instructions: '{ASKS}', values: 5}}", "values", "`boolean`", "5", "docs/judges.md"),
        (f"{{instructions: '{ASKS}', values: [good]}}", "values", "two different words", "good", "mend"),
        (f"{{instructions: '{ASKS}', values: {{lowest: 5, highest: 1}}}}", "values.lowest", "less than", "5", "swap"),
        (f"{{instructions: '{ASKS}', values: {{lowest: 0.5, highest: 1}}}}", "values.lowest", "whole", "0.5", "whole:"),
        (
            f"{{instructions: '{ASKS}', values: {{lowest: 1, highest: 5}}, pass: {{at_least: 6}}}}",
            "pass.at_least",
            "a number of the scale, 1 to 5",
            "6",
            "mend one",
        ),
        (
            f"{{instructions: '{ASKS}', values: {{lowest: 1, highest: 5}}, pass: {{at_least: 4, at_most: 2}}}}",
            "pass.at_least",
            "at most 2",
            "4",
            "swap",
        ),
        (
            f"{{instructions: '{ASKS}', values: {{lowest: 1, highest: 5}}, pass: [five]}}",
            "pass",
            "`at_least`",
            "answers",
            "at_least: 4",
        ),
        (f"{{instructions: '{ASKS}', values: [good, bad], pass: [great]}}", "pass[0]", "good, bad", "great", "mend"),
        (f"{{instructions: '{ASKS}', values: boolean, pass: [good]}}", "pass", "true or false", "good", "passes"),
        ("{python: style}", "python", "FILE.py:FUNCTION", "style", "JUDGES_CODE"),
        ("{python: 'no_such.py:x'}", "python", "a readable file no_such.py", "No such file", "JUDGES_CODE"),
        ("{python: 'examples.py:nope'}", "python", "a function nope", "few_files", "name one"),
        ("{python: 'sub/../../judges.yaml.py:f'}", "python", "a file in", "leads out of it", "put the file there"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_line_its_field_and_its_remedy(
    text: str, place: str, expected: str, found: str, remedy: str
) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        checked(f"  it: {text}\n")

    (problem,) = refused.value.problems
    assert problem.line == 3
    assert problem.path == f"judges.it.{place}".rstrip(".")
    assert expected in problem.expected
    assert found in problem.found
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("code", "expected", "found"),
    [
        ("def f(:\n  pass\n", "it.py to be Python", "line 1"),
        ("async def f(trace): pass\n", "a plain function", "async def f"),
        ("\ndef f(trace, threshold): pass\n", "some of inputs, outputs", "threshold in it.py, line 2"),
        ("x = 1\n", "a function f", "none"),
        ("#" * 300_000, "at most 262144 bytes", "300000"),
    ],
)  # fmt: skip
def test_code_is_looked_at_and_not_run(tmp_path: Path, code: str, expected: str, found: str) -> None:
    (tmp_path / "it.py").write_text(code)

    with pytest.raises(InvalidConfiguration) as refused:
        judge("{python: 'it.py:f'}", tmp_path)

    (problem,) = refused.value.problems
    assert (problem.line, problem.path) == (3, "judges.it.python")
    assert expected in problem.expected
    assert found in problem.found


def test_code_that_leaves_the_folder_by_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "secret.py").write_text("def f(): return True\n")
    (tmp_path / "code" / "it.py").symlink_to(tmp_path / "secret.py")

    with pytest.raises(InvalidConfiguration, match="leads out of it"):
        judge("{python: 'it.py:f'}", tmp_path / "code")


def test_a_name_that_is_there_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidConfiguration, match=r"4:3: judges.it: expected each name once, .* after line 3"
    ):
        checked("  it: {scorer: Safety}\n  it: {scorer: Fluency}\n")
    with pytest.raises(InvalidConfiguration, match="each judge once, however it is written"):
        checked("  plain_words: {scorer: Safety}\n  PlainWords: {scorer: Fluency}\n")


def test_every_mistake_is_told_at_once() -> None:
    text = "  a: {scorer: Nope}\n  b: {scorer: Safety, sampling: 2}\n  c: {instructions: x, when: y}\n"

    with pytest.raises(InvalidConfiguration) as refused:
        checked(text)

    assert [(one.line, one.path) for one in refused.value.problems] == [
        (3, "judges.a.scorer"),
        (4, "judges.b.sampling"),
        (5, "judges.c.when"),
    ]


def test_a_file_that_is_none_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"JUDGES_CONFIG in \.env"):
        validation.load(tmp_path / "none.yaml", CODE, ENDPOINTS)
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(InvalidConfiguration, match=r"mlflow/judges\.yaml shows the form"):
        validation.load(tmp_path / "list.yaml", CODE, ENDPOINTS)


def test_the_shipped_file_is_what_a_new_stack_judges_by() -> None:
    found = validation.load(SHIPPED, CODE, ENDPOINTS)

    assert found.notes == []
    assert {name: (one.kind, one.online) for name, one in found.definitions.items()} == {
        "relevance_to_query": ("built-in", True),
        "tool_call_efficiency": ("built-in", True),
        "correctness": ("built-in", False),
        "conduct": ("guidelines", True),
    }


def test_what_the_shipped_file_has_in_comments_is_valid() -> None:
    text = SHIPPED.read_text()
    comment = text[text.index("# More, to be taken in:") :].partition("\n\n")[0]
    examples = comment.replace("\n  # ", "\n  ").replace("\n  #\n", "\n").partition("\n")[2]

    found = checked(f"{examples}\n")

    assert {one.kind for one in found.definitions.values()} == {"built-in", "instructions", "python"}


def test_the_published_schema_is_that_of_the_classes() -> None:
    assert schema.PUBLISHED.read_text() == schema.text(), "python -m paddock_mlflow.judges.schema"
    assert json.loads(schema.text())["properties"].keys() == {"version", "endpoint", "judges"}


def test_yes_and_no_are_words() -> None:
    """YAML takes them for truths."""
    found = judge(f"{{instructions: '{ASKS}', values: [yes, no], pass: [no]}}")

    assert found.words == ("yes", "no")
    assert found.threshold("no") is True
    assert found.threshold("Yes") is False


@pytest.mark.parametrize(
    ("text", "passing", "failing", "neither"),
    [
        ("{scorer: Safety, pass: [no]}", ["no"], ["yes"], []),
        ("{scorer: UserFrustration}", ["none", "resolved"], ["unresolved"], []),
        (f"{{instructions: '{ASKS}', values: boolean, pass: false}}", [False], [True], ["no", 0]),
        (
            f"{{instructions: '{ASKS}', values: {{lowest: 1, highest: 5}}, pass: {{at_least: 4}}}}",
            [4, 5.0],
            [3, 1],
            ["5", True],
        ),
        (
            f"{{instructions: '{ASKS}', values: {{lowest: 0, highest: 1, whole: false}}, pass: {{at_most: 0.2}}}}",
            [0.2, 0],
            [0.21],
            [None],
        ),
    ],
)  # fmt: skip
def test_what_passes(text: str, passing: list[object], failing: list[object], neither: list[object]) -> None:
    threshold = judge(text).threshold

    assert [threshold(value) for value in passing] == [True] * len(passing)
    assert [threshold(value) for value in failing] == [False] * len(failing)
    assert [threshold(value) for value in neither] == [None] * len(neither)


def test_a_scale_is_told_to_the_model_and_read_back() -> None:
    found = judge(f"{{instructions: '{ASKS}', values: {{lowest: -1, highest: 2.5, whole: false}}}}")

    assert found.registered_instructions() == f"{ASKS}\n\nThe result is a number from -1 to 2.5."
    assert definition.without_scale(found.registered_instructions()) == (
        ASKS,
        Scale(lowest=-1, highest=2.5, whole=False),
    )
    assert definition.without_scale(ASKS) == (ASKS, None)


def test_options_that_say_what_a_scorer_does_anyway_are_no_difference() -> None:
    assert judge("{scorer: ToolCallCorrectness, options: {should_exact_match: false}}").options == {}


def test_who_reads_the_trace_by_tools_is_told_that_it_is_not_fenced() -> None:
    (note,) = checked("  it: {instructions: 'Is {{ trace }} short?'}\n").notes

    assert "no fence" in note


# Plans


def test_a_stack_that_has_the_file_has_nothing_to_change() -> None:
    wanted = validation.load(SHIPPED, CODE, ENDPOINTS).definitions
    state = state_of(wanted)
    state.judges["correctness"] = JudgeState(wanted["correctness"], 1, "f", None, "", True, True, "")

    assert plan.plan(wanted, state).clean


def test_a_new_stack_gets_every_judge_and_the_grant_that_they_need() -> None:
    wanted = checked("  it: {scorer: Safety, endpoint: cheap}\n").definitions

    planned = plan.plan(wanted, state_of({}))

    assert [change.text() for change in planned.changes] == [
        "create grant judge on endpoint cheap",
        "create judge it",
    ]
    assert any("no budget ends what judges spend on the endpoint cheap" in note for note in planned.notes)


def test_a_difference_names_the_field_and_both_values() -> None:
    old = checked("  it: {guidelines: [Be kind.]}\n").definitions
    new = checked("  it: {guidelines: [Be kind., Be short.], sees: steps, pass: [no]}\n").definitions

    (change,) = plan.plan(new, state_of(old)).changes

    assert change.text() == (
        "update judge it: guidelines Be kind. → Be kind. | Be short., sees answer → steps, pass none → no"
    )


@pytest.mark.parametrize(
    ("text", "rate", "kept_filter", "expected"),
    [
        ("{scorer: Safety}", 0.0, "", []),
        ("{scorer: Safety}", 0.3, "tags.a = 'b'", []),
        ("{scorer: Safety}", None, "", [("run", "on demand", "online")]),
        ("{scorer: Safety, sampling: 0.5}", 1.0, "", [("sampling", "1", "0.5")]),
        ("{scorer: Safety, sampling: 0.5}", 0.5, "tags.a = 'b'", [("filter", "tags.a = 'b'", "")]),
        ("{scorer: Safety, filter: \"tags.a = 'b'\"}", 0.2, "", [("filter", "", "tags.a = 'b'")]),
        ("{scorer: Safety, run: on demand}", 1.0, "", [("run", "online, sampling 1", "on demand")]),
        ("{scorer: Safety, run: on demand}", 0.0, "", []),
    ],
)
def test_what_the_file_does_not_claim_of_the_sampling_stays_the_uis(
    text: str, rate: float | None, kept_filter: str, expected: list[tuple[str, str, str]]
) -> None:
    wanted = checked(f"  it: {text}\n").definitions

    planned = plan.plan(wanted, state_of(wanted, rate, filter=kept_filter))

    told = [(one.field, one.old, one.new) for change in planned.changes for one in change.differences]
    assert told == expected


def test_what_was_made_by_hand_is_reported_and_no_change() -> None:
    by_hand = checked("  mine: {scorer: Fluency}\n").definitions

    planned = plan.plan({}, state_of(by_hand))

    assert planned.changes == ()
    assert [change.text() for change in planned.unmanaged] == ["delete judge mine"]


def test_an_endpoint_that_the_gateway_does_not_have_yet_stops_an_apply() -> None:
    wanted = checked("  it: {scorer: Safety}\n").definitions
    state = state_of({})
    state.endpoints = {}

    (conflict,) = plan.plan(wanted, state).conflicts

    assert "expected the gateway to have the endpoint judge" in conflict


def test_code_that_could_not_be_loaded_is_told_at_every_plan() -> None:
    wanted = checked("  it: {python: 'examples.py:few_files'}\n").definitions

    planned = plan.plan(wanted, state_of(wanted, problem="expected examples.py to load, found no mlflow"))

    assert "judge it can't judge: expected examples.py to load" in planned.notes[0]


# Export


def test_an_export_is_a_file_from_which_nothing_changes() -> None:
    text = (
        "  a: {scorer: ResponseLength, options: {max_length: 4000}, sampling: 0.5}\n"
        "  b: {guidelines: ['Be kind: always.', 'No \"x\"'], sees: steps, sampling: 1.0, filter: \"tags.a = 'b'\"}\n"
        '  c: {instructions: "First line {{ outputs }}\\nSecond", values: {lowest: 1, highest: 5}, pass: {at_least: 4},'
        " endpoint: cheap, run: on demand}\n"
        "  d: {python: 'examples.py:few_files', expects: true, run: on demand}\n"
        "  e: {instructions: '{{ outputs }}', values: [good, bad], pass: [good], run: on demand}\n"
        "  f: {scorer: UserFrustration, run: on demand}\n"
        "  g: {instructions: '{{ outputs }}', values: boolean, pass: false, run: on demand}\n"
    )
    wanted = checked(text).definitions
    state = state_of(wanted, None)
    for name, rate, kept in (("a", 0.5, ""), ("b", 1.0, "tags.a = 'b'")):
        state.judges[name] = JudgeState(wanted[name], 1, "f", rate, kept, True, True, "")
    state.granted = state.limited = frozenset({"judge", "cheap"})

    written = validation.check(parse(export.export(state), "out.yaml"), CODE, ENDPOINTS).definitions

    assert written == wanted
    assert plan.plan(written, state).clean


def test_what_no_file_can_say_is_named() -> None:
    foreign = {"them": Definition(name="them", kind="foreign")}

    state = state_of(foreign)

    assert "them" not in export.export(state)
    assert list(export.unexportable(state)) == [
        "judge them: an ensemble, code in MLflow's registry, or settings that a file does not have"
    ]


def test_a_threshold_that_says_nothing_is_known() -> None:
    assert Threshold().is_default
    assert not Threshold(truth=False).is_default
