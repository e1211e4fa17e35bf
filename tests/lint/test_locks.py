"""What may be installed: Python packages by hash, Go modules by checksum, nothing that is known to be bad."""

import json
import re
from pathlib import Path

import pytest
from linting import ROOT, files, is_lock, name_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]+\])?==(?P<version>[^\s;\\]+)")
KNOWN_BAD = ROOT / "known-bad.txt"


def pins(lock: Path) -> dict[str, tuple[str, int]]:
    """Package → version and number of hashes. Raises AssertionError for a line that is neither pin, hash nor comment."""
    found: dict[str, tuple[str, int]] = {}
    for entry in re.sub(r"\\\n\s*", " ", lock.read_text()).splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        match = PIN.match(entry)
        assert match, f"{name_of(lock)}: expected name==version with hashes, found {entry[:80]!r}"
        found[canonicalize_name(match["name"])] = (
            match["version"],
            len(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)),
        )
    return found


def known_bad() -> list[Requirement]:
    lines = KNOWN_BAD.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def refused(lock: Path) -> list[str]:
    """Pins of a lock that known-bad.txt rules out."""
    versions = pins(lock)
    return [
        f"{rule.name}=={versions[rule.name][0]}"
        for rule in known_bad()
        if rule.name in versions and not rule.specifier.contains(versions[rule.name][0], prereleases=True)
    ]


def test_every_package_has_a_hash(lock: Path) -> None:
    found = pins(lock)
    assert found
    assert not [name for name, (_, hashes) in found.items() if not hashes]


def test_no_lock_names_an_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--trusted-host" not in text


def test_no_lock_holds_a_release_that_is_known_to_be_bad(lock: Path) -> None:
    assert not refused(lock)


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
def test_the_stolen_releases_of_litellm_are_refused(tmp_path: Path, version: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"LiteLLM[proxy]=={version} \\\n    --hash=sha256:{'0' * 64}\n")
    assert refused(lock) == [f"litellm=={version}"]


def test_every_list_keeps_the_bad_releases_out_when_its_lock_is_made() -> None:
    lists = [path.with_suffix(".in") for path in files() if is_lock(path)]
    assert len(lists) >= 8
    for path in lists:
        named = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("-c ")]
        assert KNOWN_BAD in [(path.parent / name).resolve() for name in named], name_of(path)


def test_every_lock_that_something_installs_is_among_them() -> None:
    """No second, unlocked list: whatever calls itself requirements has been made from a list."""
    named = [path for path in files() if re.match(r"requirements.*\.txt$", path.name)]
    assert named
    assert not [name_of(path) for path in named if not is_lock(path)]


def test_every_go_module_has_checksums(go_module: Path) -> None:
    """Each module that the build list names has its content's checksum, or the build with -mod=readonly stops."""
    wanted = set(re.findall(r"^\s*(?:require )?(\S+) (v\S+)(?: // indirect)?$", go_module.read_text(), re.M))
    sums = go_module.with_name("go.sum")
    if not wanted:
        return
    assert sums.exists(), "no go.sum"
    listed = {tuple(line.split()[:2]) for line in sums.read_text().splitlines()}
    assert not {module for module in wanted if module not in listed}


def test_what_is_compiled_for_the_stack_gets_a_patched_go() -> None:
    """Without the line the module's least version is taken, whose standard library has holes that later ones mended."""
    modules = [path for path in files() if path.name == "go.mod" and name_of(path).startswith("services/")]
    assert modules
    for path in modules:
        toolchain = re.search(r"^toolchain go1\.(\d+)\.(\d+)$", path.read_text(), re.M)
        assert toolchain, f"{name_of(path)}: no toolchain line"
        assert (int(toolchain[1]), int(toolchain[2])) >= (26, 11), name_of(path)


def test_no_go_module_is_replaced_by_another(go_module: Path) -> None:
    """A replacement by a fork or a folder is not what the checksum database vouches for."""
    assert not re.findall(r"^\s*replace\b", go_module.read_text(), re.M)


def test_npm_packages_have_hashes() -> None:
    for path in files():
        if path.name != "package-lock.json":
            continue
        packages = json.loads(path.read_text())["packages"]
        assert not [
            name
            for name, entry in packages.items()
            if name and not entry.get("link") and "integrity" not in entry
        ]
