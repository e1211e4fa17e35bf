"""What the process does with its environment."""

from pathlib import Path

import pytest
import uvicorn

from paddock_demo_model.__main__ import main


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("DEMO_LISTEN_PORT", "many", "DEMO_LISTEN_PORT: "),
        ("DEMO_LISTEN_PORT", "70000", "found '70000'"),
        ("DEMO_RECORD", "perhaps", "DEMO_RECORD: "),
        (
            "DEMO_API_KEY_FILE",
            "/nowhere/key",
            "expected a readable text file with the key, found /nowhere/key",
        ),
        ("DEMO_SCENARIOS", "/nowhere", "expected a folder with .yaml files, found /nowhere"),
    ],
)
def test_a_wrong_setting_ends_with_a_message_and_no_trace(
    variable: str, value: str, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)

    assert main() == 2
    message = capsys.readouterr().err
    assert message.startswith("paddock-demo-model: ")
    assert part in message
    assert "Traceback" not in message


def test_an_empty_key_file_does_not_open_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("\n")
    monkeypatch.setenv("DEMO_API_KEY_FILE", str(tmp_path / "key"))

    assert main() == 2
    assert "found an empty file" in capsys.readouterr().err


def test_empty_variables_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[dict[str, object]] = []
    monkeypatch.setattr(uvicorn, "run", lambda _, **options: served.append(options))
    for name in ("API_KEY", "API_KEY_FILE", "SCENARIOS", "RECORD", "LISTEN_PORT"):
        monkeypatch.setenv(f"DEMO_{name}", "")

    assert main() == 0
    assert served[0]["port"] == 8000
