"""`./paddock judges`: files, settings, and what a probe makes of verdicts. No stack."""

import json

import pytest

from paddock_cli import probe
from paddock_cli.errors import BadSettings
from paddock_cli.exit_codes import ExitCode
from paddock_cli.settings import load


@pytest.mark.parametrize("command", ["validate", "plan", "apply", "export", "show", "probe"])
def test_every_command_is_there_and_speaks_json(call, command):
    code, help_text, _ = call("judges", command, "--help")
    assert code == 0
    assert "--json" in help_text


def test_a_file_with_mistakes_needs_no_stack_to_be_refused(call, monkeypatch, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "version: 1\njudges:\n  it: {scorer: Safety, endpoint: no-such}\n  them: {scorer: Sfety}\n"
    )
    monkeypatch.setenv("JUDGES_CONFIG", str(bad))

    code, out, told = call("judges", "validate", "--json")

    assert code == ExitCode.BAD_CONFIGURATION
    assert [(one["line"], one["path"]) for one in json.loads(out)["problems"]] == [
        (3, "judges.it.endpoint"),
        (4, "judges.them.scorer"),
    ]
    assert f"{bad}:4:10: judges.them.scorer: expected a built-in scorer of MLflow" in told
    for command in ("plan", "apply"):
        code, out, _ = call("judges", command, "--json")
        assert code == ExitCode.BAD_CONFIGURATION
        # Which endpoints there are, the stack says.
        assert [one["path"] for one in json.loads(out)["problems"]] == ["judges.them.scorer"]


def test_a_file_without_mistakes_is_valid(call, tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text("version: 1\njudges:\n  it: {instructions: 'Is {{ trace }} short?'}\n")

    code, out, _ = call("judges", "validate", str(good), "--json")

    assert code == 0
    assert json.loads(out)["valid"] is True
    assert "no fence" in json.loads(out)["notes"][0]


def test_a_file_of_ones_own_is_found_from_everywhere(where):
    (where.root / "mine.yaml").write_text("version: 1\njudges: {}\n")
    (where.root / "code").mkdir()

    settings = load(where, {"JUDGES_CONFIG": "./mine.yaml", "JUDGES_CODE": "./code"})

    assert settings.judges_config == where.root / "mine.yaml"
    assert settings.judges_code == where.root / "code"


def test_settings_that_name_nothing_are_refused(where):
    with pytest.raises(BadSettings, match="JUDGES_CONFIG to name a readable file"):
        load(where, {"JUDGES_CONFIG": "./no-such.yaml"})
    with pytest.raises(BadSettings, match="JUDGES_CODE to name a folder"):
        load(where, {"JUDGES_CODE": "./no-such"})


@pytest.mark.parametrize(
    ("attack", "expected", "said", "right", "turned"),
    [
        ("an order", "no", "no", True, False),
        ("an order", "no", "yes", False, True),
        ("an order", "no", "", False, False),
        ("", "yes", "no", False, False),
        ("", "yes", "yes", True, False),
    ],
)
def test_a_trace_that_attacks_turns_a_judge_by_a_wrong_verdict_alone(attack, expected, said, right, turned):
    probed = probe.Probed("it", attack, expected, said, "", "")

    assert (probed.right, probed.turned) == (right, turned)
