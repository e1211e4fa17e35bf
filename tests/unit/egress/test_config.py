"""`egress.yaml`: every mistake at once, each with its line and what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paddock_egress.__main__ import main
from paddock_egress.config import schema, validation
from paddock_egress.config.errors import InvalidConfiguration
from paddock_egress.config.hosts import is_entry, is_name, matches
from paddock_egress.config.source import parse
from paddock_egress.errors import SettingsError
from paddock_egress.settings import secret

SHIPPED = Path(__file__).resolve().parents[3] / "services" / "egress" / "egress.yaml"


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        validation.check(parse(text, "egress.yaml"))
    return [problem.text("egress.yaml") for problem in caught.value.problems]


def test_what_is_shipped_allows_nothing() -> None:
    shipped = validation.load(SHIPPED)
    assert shipped.defaults.allow == []
    assert shipped.services == {}


def test_what_is_shipped_as_an_example_is_valid() -> None:
    lines = SHIPPED.read_text().splitlines()
    text = "\n".join(
        line.replace("services: {}", "services:").replace("#  ", "  ", 1) if line.startswith(("#  ", "services"))
        else line.replace("  # - ", "  - ").replace("allow: []", "allow:")
        for line in lines
    )  # fmt: skip
    checked = validation.check(parse(text, "egress.yaml"))
    assert checked.defaults.allow == ["index.example", "*.files.example"]
    assert checked.services["code"].credential is not None


def test_the_published_schema_is_that_of_the_code() -> None:
    assert schema.PUBLISHED.read_text() == schema.text()
    assert json.loads(schema.text())["properties"].keys() == {"version", "defaults", "services", "limits"}


def test_every_mistake_has_its_line() -> None:
    found = problems(
        """version: 1
defaults:
  allow:
    - https://index.example/
    - 10.0.0.1
    - mlflow
    - "*.example"
    - Index.example
services:
  code:
    host: "*.git.example"
    path: [/team/]
    methods: [GET, FETCH]
    credential: {secret: token, value: Bearer}
  none: {}
limits: {connections: 0}
"""
    )
    starts = [line.split(":", 4)[:4] for line in found]
    assert [(int(line), field.strip()) for _, line, _, field in starts] == [
        (4, "defaults.allow[0]"),
        (5, "defaults.allow[1]"),
        (6, "defaults.allow[2]"),
        (7, "defaults.allow[3]"),
        (8, "defaults.allow[4]"),
        (11, "services.code.host"),
        (12, "services.code.path"),
        (13, "services.code.methods"),
        (13, "services.code.methods[1]"),
        (14, "services.code.credential.secret"),
        (14, "services.code.credential.value"),
        (15, "services.none.host"),
        (16, "limits.connections"),
    ]
    assert "did you mean `paths`?" in found[6]
    assert all("expected " in line and ", found " in line and "; " in line for line in found)


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("{host: git.example, credential: {secret: OPENAI_API_KEY}}", "the stack's own"),
        ("{host: git.example, credential: {secret: S3_SECRET_KEY}}", "the stack's own"),
        (
            "{host: git.example, credential: {secret: TOKEN, header: Host}}",
            "a header that carries credentials",
        ),
        (
            "{host: git.example, credential: {secret: TOKEN, basic_user: u, value: 'x {secret}'}}",
            "either `basic_user`",
        ),
        ("{host: git.example, paths: [/a/../b]}", "without . and .."),
        ("{host: git.example, paths: ['/a%2e']}", "a path prefix"),
        ("{host: git.example, paths: []}", "at least one entry"),
        ('{host: git.example, credential: {secret: TOKEN, value: "a {secret}\\r\\nb"}}', "{secret} in it"),
        ("&a {host: git.example, x: *a}", "write it out"),
        ("{host: git.example, host: git.example}", "each name once"),
    ],
)
def test_a_service_that_would_do_harm_is_refused(service: str, words: str) -> None:
    assert any(words in line for line in problems(f"version: 1\nservices: {{code: {service}}}"))


def test_services_of_one_host_must_agree() -> None:
    found = problems(
        """version: 1
services:
  one: {host: git.example, paths: [/a], private: true}
  two: {host: git.example, paths: [/a/]}
"""
    )
    assert len(found) == 2
    assert any("private or it is not" in line for line in found)
    assert any("which one has" in line for line in found)


@pytest.mark.parametrize(
    "text", ["", "- a", "version: [", "version: 2", "version: 1\n\x00", "x: &a [*a]", "just words"]
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    assert problems(text)


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none.yaml")]) == 2
    assert "EGRESS_CONFIG" in capsys.readouterr().err
    assert main(["check", str(SHIPPED)]) == 0


def test_names_and_patterns() -> None:
    for good in ("a.example", "a-b.c9.example", "xn--bcher-kva.example"):
        assert is_name(good)
        assert is_entry("*." + good)
    for bad in (
        "example", "a.example.", ".example", "a..example", "A.example", "a_b.example", "-a.example", "10.0.0.1",
        "1.2.3.0x4", "a.b.7", "a.example:443", "a.example/", "a example", "*", "a.*.example", "[::1]",
        "a" * 64 + ".example",         "a." * 130 + "example",
    ):  # fmt: skip
        assert not is_name(bad), bad
    assert not is_entry("*.example")
    assert not is_entry("*.*.a.example")
    assert matches("*.a.example", "b.a.example")
    assert matches("*.a.example", "c.b.a.example")
    assert not matches("*.a.example", "a.example")
    assert not matches("*.a.example", "ba.example")
    assert not matches("a.example", "b.a.example")


def test_a_secret_that_would_write_headers_is_refused(tmp_path: Path) -> None:
    for value in ("", "two words", "line\nX-Evil: 1", "ünicode"):
        (tmp_path / "token").write_text(value)
        with pytest.raises(SettingsError):
            secret(tmp_path, "TOKEN")
    (tmp_path / "token").write_text("good\n")
    assert secret(tmp_path, "TOKEN") == "good"
    with pytest.raises(SettingsError, match=r"write it into \.env"):
        secret(tmp_path, "MISSING")


def test_another_secret_ends_the_process_which_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "egress.yaml").write_text(
        "version: 1\nservices: {code: {host: git.example, credential: {secret: COMPANY_GIT_TOKEN}}}\n"
    )
    for name in ("egress_token", "company_git_token"):
        (tmp_path / name).write_text("old-value")
    (tmp_path / "trust").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "paddock_egress"],
        stdout=subprocess.PIPE,
        text=True,
        env={
            "PYTHONPATH": str(SHIPPED.parent),
            "EGRESS_CONFIG": str(tmp_path / "egress.yaml"),
            "EGRESS_SECRETS": str(tmp_path),
            "EGRESS_TRUST": str(tmp_path / "trust"),
            "EGRESS_ROOTS": os.devnull,
            "EGRESS_LISTEN_PORT": "0",
        },
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "started"
        assert "BEGIN CERTIFICATE" in (tmp_path / "trust" / "ca-bundle.crt").read_text()
        (tmp_path / "company_git_token").unlink()
        (tmp_path / "company_git_token").write_text("new-value")
        assert process.wait(30) == 0
        told = process.stdout.read()
        assert json.loads(told)["event"] == "ended"
        assert "value" not in told
    finally:
        process.kill()
        process.wait()


def test_every_missing_secret_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "egress.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "services": {
                    name: {"host": f"{name}.example", "credential": {"secret": f"{name.upper()}_TOKEN"}}
                    for name in ("one", "two")
                },
            }
        )
    )
    monkeypatch.setenv("EGRESS_CONFIG", str(file))
    monkeypatch.setenv("EGRESS_SECRETS", str(tmp_path))
    assert main([]) == 2
    told = capsys.readouterr().err
    assert "ONE_TOKEN" in told
    assert "TWO_TOKEN" in told
