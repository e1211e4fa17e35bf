"""Explicit tasks by rule, on real tool results."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from workbench import ERROR, STANDARD, Workbench, lost_output, terminal_text

Make = Callable[..., Workbench]


def test_a_command_is_run_and_its_output_told(workbench: Make) -> None:
    bench = workbench()

    closing = bench.run("Run `echo one; echo two >&2` please.")

    assert bench.calls[0][1]["command"] == "echo one; echo two >&2"
    assert "ended with exit code 0" in closing
    assert "one\ntwo" in closing


def test_a_failed_command_is_told(workbench: Make) -> None:
    closing = workbench().run("Execute the command `ls nothing-here; exit 3`")

    assert "failed with exit code 3" in closing
    assert "nothing-here" in closing


def test_a_long_command_is_waited_for(workbench: Make) -> None:
    bench = workbench()
    answers = iter(["[The command has no new output after 30 seconds. You may wait ...]", None])
    bench.override["terminal"] = lambda _: next(answers, None)

    closing = bench.run("Run `echo done`")

    assert [arguments["command"] for name, arguments in bench.calls if name == "terminal"] == [
        "echo done",
        "",
    ]
    assert "ended with exit code 0" in closing


def test_a_terminal_error_is_told(workbench: Make) -> None:
    bench = workbench()
    bench.override["terminal"] = lambda _: f"{ERROR}The terminal session was reset."

    assert (
        bench.run("Run `true`")
        == "I could not run `true`. The terminal said: The terminal session was reset."
    )


@pytest.mark.parametrize(
    ("code", "told"), [(0, "it ended with exit code 0"), (4, "it ended with exit code 4")]
)
def test_a_lost_output_is_told_and_the_command_not_run_again(workbench: Make, code: int, told: str) -> None:
    bench = workbench()
    answers = [lost_output(bench.folder), terminal_text(f"exit code {code}", bench.folder, 0)]
    bench.override["terminal"] = lambda _: answers.pop(0)

    closing = bench.run("Run `touch made`")

    commands = [arguments["command"] for name, arguments in bench.calls if name == "terminal"]
    assert commands == ["touch made", 'echo "exit code $?"']
    assert told in closing
    assert "The terminal lost its output" in closing


@pytest.mark.parametrize("task", ["What is this?", "Find all files matching `*.txt`", "Search for `needle`"])
def test_a_lost_look_is_repeated(workbench: Make, task: str) -> None:
    bench = workbench()
    (bench.folder / "a.txt").write_text("needle")
    answers = [lost_output(bench.folder), *[None] * 5]
    bench.override["terminal"] = lambda _: answers.pop(0)

    assert "a.txt" in bench.run(task)


@pytest.mark.parametrize(
    ("task", "name", "content"),
    [
        ("Create a file hello.txt with the contents `hello world`.", "hello.txt", "hello world\n"),
        ('Create a new file called sub/a.md containing the text "one two"', "sub/a.md", "one two\n"),
        ("Write 'x = 1' into code.py", "code.py", "x = 1\n"),
        ("Create a file `odd name` with:\n```\nline 1\nline 2\n```", "odd name", "line 1\nline 2\n"),
    ],
)
def test_a_file_is_created_with_the_given_text(workbench: Make, task: str, name: str, content: str) -> None:
    bench = workbench()

    closing = bench.run(task)

    assert (bench.folder / name).read_text() == content
    assert f"I created the file {name}" in closing


def test_an_existing_file_is_replaced_and_that_is_told(workbench: Make) -> None:
    bench = workbench()
    (bench.folder / "a.txt").write_text("old")

    closing = bench.run("Create a file a.txt with the text `new`")

    assert (bench.folder / "a.txt").read_text() == "new\n"
    assert "I replaced it" in closing


def test_a_text_is_replaced(workbench: Make) -> None:
    bench = workbench()
    (bench.folder / "a.txt").write_text("one two")

    assert bench.run("Replace `two` with `three` in a.txt").startswith("I replaced 'two' with 'three'")
    assert (bench.folder / "a.txt").read_text() == "one three"
    assert "did not appear" in bench.run("Replace `nine` with `ten` in a.txt")


@pytest.mark.parametrize("tools", [(*STANDARD, "glob", "grep"), STANDARD])
def test_files_are_found_by_name_and_by_text(workbench: Make, tools: tuple[str, ...]) -> None:
    bench = workbench(tools)
    (bench.folder / "a.py").write_text("needle (x)\n")
    (bench.folder / "b.txt").write_text("hay\n")

    found = bench.run("Find all files matching `*.py`")
    searched = bench.run('Search for the text "needle (x)"')
    nothing = bench.run("Search the files for `absent`")

    for closing in (found, searched):
        assert "I found 1 file" in closing
        assert "a.py" in closing
    assert nothing == 'I found no file containing "absent".'
    assert ("glob" in bench.names()) == ("glob" in tools)


def test_a_file_is_read(workbench: Make) -> None:
    bench = workbench()
    (bench.folder / "a.txt").write_text("first\nsecond\n")

    assert "first\nsecond" in bench.run("Show me the file a.txt")
    assert "I could not read b.txt" in bench.run("Read b.txt")


def test_a_page_is_read_by_the_browser(workbench: Make) -> None:
    bench = workbench()
    url = {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}
    bench.add_tool("browser_navigate", url, "Navigated to: http://127.0.0.1:8/tides.html")
    bench.add_tool("browser_get_content", {"type": "object", "properties": {}}, "# Tides\nHigh water 12:04")

    closing = bench.run("Read the page http://127.0.0.1:8/tides.html, and tell me what it says.")

    assert bench.calls[0][1]["url"] == "http://127.0.0.1:8/tides.html"
    assert "High water 12:04" in closing


def test_a_page_that_does_not_open_is_told(workbench: Make) -> None:
    bench = workbench()
    url = {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}
    bench.add_tool("browser_navigate", url, "Browser operation failed: net::ERR_CONNECTION_REFUSED")

    assert "ERR_CONNECTION_REFUSED" in bench.run("Open http://127.0.0.1:9/")
    assert "no browser tools" in workbench().run("Open http://127.0.0.1:9/")


ADD = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "b": {"type": "number"},
        "note": {"type": "string"},
        "summary": {"type": "string"},
    },
    "required": ["a", "b"],
}


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ('with {"a": 2, "b": 3.5, "note": "x"}', {"a": 2, "b": 3.5, "note": "x"}),
        ("with a=2, b=3", {"a": 2, "b": 3.0}),
        ('with a: 2 and b: 3 and note: "two words"', {"a": 2, "b": 3.0, "note": "two words"}),
        ("on 2 and 3", {"a": 2, "b": 3.0}),
    ],
)
def test_an_mcp_tool_is_called_by_its_name(workbench: Make, words: str, arguments: dict[str, object]) -> None:
    bench = workbench()
    bench.add_tool("add_numbers", ADD, "5")

    closing = bench.run(f"Call the MCP tool `add_numbers` {words}.")

    name, given = bench.calls[0]
    assert name == "add_numbers"
    assert {key: value for key, value in given.items() if key != "summary"} == arguments
    assert "It answered:\n\n5" in closing


def test_the_full_stop_of_a_sentence_is_no_part_of_a_number(workbench: Make) -> None:
    bench = workbench()
    whole = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    bench.add_tool("add_numbers", whole, "5")

    bench.run("Call the MCP tool `add_numbers` with a=2, b=3.")

    assert {key: bench.calls[0][1][key] for key in "ab"} == {"a": 2, "b": 3}


def test_a_tool_without_its_arguments_is_not_called(workbench: Make) -> None:
    bench = workbench()
    bench.add_tool("add_numbers", ADD, "5")

    closing = bench.run("Use the tool add_numbers")

    assert bench.names() == ["finish"]
    assert "it needs a, b" in closing


def test_several_wishes_are_done_in_turn(workbench: Make) -> None:
    bench = workbench()

    closing = bench.run("Create a file a.txt with the text `one`. Then run `cat a.txt`, and read a.txt.")

    assert bench.names()[0] == "task_tracker"
    assert "I created the file a.txt" in closing
    assert "ended with exit code 0. Its output:\n\n```\none\n```" in closing
    assert closing.index("I created") < closing.index("I ran") < closing.index("says:")


def test_after_a_failure_the_rest_is_left_and_that_is_told(workbench: Make) -> None:
    bench = workbench()

    closing = bench.run("Run `false`, then create a file a.txt with the text `one`.")

    assert "I stopped there and did not do: Create a.txt." in closing
    assert not (bench.folder / "a.txt").exists()


def test_an_unknown_task_gets_a_look_around_and_an_honest_answer(workbench: Make) -> None:
    bench = workbench()
    (bench.folder / "a.txt").write_text("x")

    closing = bench.run("Compose a symphony")

    assert "a.txt" in closing
    assert "I have no rule for this task" in closing
    assert "not a language model" in closing


def test_no_task_of_the_shipped_suite_looks_like_one_that_it_has_a_rule_for(workbench: Make) -> None:
    """Without a provider's key a suite run ends soon, with attempts that say why they have done nothing."""
    suite = Path(__file__).resolve().parents[3] / "suites" / "coding.yaml"
    for task in yaml.safe_load(suite.read_text())["tasks"]:
        bench = workbench()
        closing = bench.run(task["prompt"])
        assert len(bench.calls) <= 2, task["id"]
        assert "I have no rule for this task, so I did nothing. I am Paddock's demo model" in closing


def test_a_follow_up_remembers_what_was_asked_before(workbench: Make) -> None:
    bench = workbench()
    bench.run("Run `echo one`")

    assert 'Before that you asked: "Run `echo one`"' in bench.run("Why is that so?")


def test_no_plan_goes_on_for_ever(workbench: Make) -> None:
    bench = workbench()
    bench.messages.append({"role": "user", "content": "Run `true`"})
    for number in range(80):
        call = {"id": f"other{number}", "type": "function", "function": {"name": "think", "arguments": "{}"}}
        bench.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        bench.messages.append({"role": "tool", "tool_call_id": f"other{number}", "content": "ok"})

    closing = bench.step()

    assert closing is not None
    assert "80 tool calls have not led to an end" in closing
