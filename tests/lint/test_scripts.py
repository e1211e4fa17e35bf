"""Every shell script under shellcheck, and in shfmt's form by .editorconfig."""

from pathlib import Path

from linting import lint


def test_shellcheck(script: Path) -> None:
    told = lint("shellcheck", script)
    assert told.returncode == 0, told.stdout


def test_shfmt(script: Path) -> None:
    told = lint("shfmt", "-d", script)
    assert told.returncode == 0, told.stdout
