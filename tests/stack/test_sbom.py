"""Bills of materials of real images: valid, and true."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cases import Product
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from stack_under_test import ROOT

SERVICES = ("demo-model", "gate", "postgres")
"""One image each of Python packages, Go modules and Debian's packages alone; the larger ones only take longer."""


@pytest.fixture(scope="module")
def bills(product: Product, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Service → its file, by the command that a user calls."""
    folder = tmp_path_factory.mktemp("bills") / "made by the command"
    options = [word for service in SERVICES for word in ("--service", service)]
    answer = product.paddock("sbom", str(folder), *options, "--json")
    assert answer.code == 0, answer.err
    written = {
        Path(bill["file"]).name.removesuffix(".cdx.json"): Path(bill["file"])
        for bill in answer.document["bills"]
    }
    assert written.keys() == set(SERVICES)
    assert {path.name for path in folder.iterdir()} == {path.name for path in written.values()}, (
        "nothing else is left"
    )
    return written


def versions(bill: Path, kind: str) -> dict[str, str]:
    """Package → version, of one kind of package URL."""
    return {
        component["name"]: component["version"]
        for component in json.loads(bill.read_text())["components"]
        if component.get("purl", "").startswith(f"pkg:{kind}/")
    }


@pytest.mark.parametrize("service", SERVICES)
def test_it_is_valid_cyclonedx(bills: dict[str, Path], service: str) -> None:
    text = bills[service].read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken: dict[str, Any] = json.loads(text) | {"serialNumber": 7}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


@pytest.mark.parametrize("service", SERVICES)
def test_it_says_which_image_it_is_of(bills: dict[str, Path], service: str) -> None:
    described = json.loads(bills[service].read_text())["metadata"]["component"]
    assert (described["type"], described["name"]) == ("container", f"paddock/{service}")
    assert described["version"]


@pytest.mark.parametrize("service", SERVICES)
def test_debians_packages_are_in_it(bills: dict[str, Path], service: str) -> None:
    found = versions(bills[service], "deb")
    assert found.keys() >= {"bash", "libc6", "dpkg", "ca-certificates"}
    assert ("postgresql-17" in found) == (service == "postgres")


def test_every_locked_python_package_is_in_it(bills: dict[str, Path]) -> None:
    lock = (ROOT / "services" / "demo-model" / "requirements.txt").read_text()
    locked = {
        name.replace("_", "-").lower(): version
        for name, version, marker in re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==(\S+)( ; [^\\\n]+)?", lock, re.M)
        if "win32" not in marker
    }
    found = {
        name.replace("_", "-").lower(): version
        for name, version in versions(bills["demo-model"], "pypi").items()
    }
    assert len(locked) > 10
    assert found.items() >= locked.items()


def test_go_modules_and_the_toolchain_are_in_it(bills: dict[str, Path]) -> None:
    found = versions(bills["gate"], "golang")
    go_mod = (ROOT / "services" / "gate" / "go.mod").read_text()
    caddy = re.search(r"github.com/caddyserver/caddy/v2 (v\S+)", go_mod)
    toolchain = max(re.findall(r"^(?:toolchain go|go )(1\.\d+\.\d+)$", go_mod, re.M))
    assert found["github.com/caddyserver/caddy/v2"] == caddy[1]
    assert found["stdlib"] == f"go{toolchain}"


def test_an_unknown_service_and_a_missing_image_are_refused(product: Product, tmp_path: Path) -> None:
    answer = product.paddock("sbom", str(tmp_path / "a"), "--service", "nobody", "--json")
    assert (answer.code, answer.document["error"]["kind"]) == (2, "UsageFailed")
    other = Product("compose", product.env | {"PADDOCK_VERSION": "0.0.0-never-built"}, product.model_url)
    answer = other.paddock("sbom", str(tmp_path / "b"), "--service", "gate", "--json")
    assert (answer.code, answer.document["error"]["kind"]) == (32, "NotFound")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
