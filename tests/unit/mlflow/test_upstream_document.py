"""docs/upstream.md lists every module that leans on MLflow's inside, each with tests that exist."""

import re
from pathlib import Path

import pytest
from test_contract import PRIVATE

ROOT = Path(__file__).resolve().parents[3]
GAP = ["Upstream", "Stock", "Ours", "Shown by", "Drop when"]
SEAM = ["Shown by", "Drop when"]


def sections(part: str) -> dict[str, str]:
    """Module → its section, of the part of the document with this heading."""
    document = (ROOT / "docs" / "upstream.md").read_text()
    text = document.split(f"\n## {part}\n")[1].split("\n## ")[0]
    found = re.split(r"^### `([\w.]+)`$", text, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


GAPS = sections("Gaps that are closed")
SEAMS = sections("Private names without a gap")


def folder_of(module: str) -> str:
    """The package of the plugin that a module is in, or its own name."""
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(PRIVATE))
def test_a_module_with_private_names_has_its_section(module: str) -> None:
    assert {module, folder_of(module)} & (GAPS.keys() | SEAMS.keys())


def test_no_module_has_two_sections() -> None:
    assert not GAPS.keys() & SEAMS.keys()


@pytest.mark.parametrize("module", sorted(GAPS.keys() | SEAMS.keys()))
def test_a_section_is_of_a_module_that_is_there(module: str) -> None:
    path = ROOT / "mlflow" / "paddock_mlflow" / module.replace(".", "/")
    assert path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize(
    ("text", "needed"),
    [pytest.param(text, GAP, id=module) for module, text in GAPS.items()]
    + [pytest.param(text, SEAM, id=module) for module, text in SEAMS.items()],
)
def test_a_section_tells_all_and_names_tests_that_exist(text: str, needed: list[str]) -> None:
    parts = re.split(r"^- \*\*([\w ]+)\*\*: ", text, flags=re.MULTILINE)[1:]
    told = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(told) == needed
    named = re.findall(r"`([\w./-]+)::(\w+)`", told["Shown by"])
    assert named
    for file, test in named:
        path = ROOT / "tests" / (file if "/" in file else f"unit/mlflow/{file}")
        assert re.search(rf"^ *(async )?def {test}\(", path.read_text(), flags=re.MULTILINE), (
            f"{file}::{test}"
        )
    if needed is GAP:
        stock = [file for file, test in named if file == "test_stock.py" or "stock" in test]
        assert stock or "No patch" in told["Ours"], "no test shows the released MLflow"
