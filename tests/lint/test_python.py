"""Every Python file in ruff's form and by the rules of pyproject.toml."""

from linting import lint


def test_rules() -> None:
    told = lint("ruff", "check", "--no-cache", ".")
    assert told.returncode == 0, told.stdout


def test_form() -> None:
    told = lint("ruff", "format", "--check", "--no-cache", ".")
    assert told.returncode == 0, told.stdout
