"""Every Dockerfile under hadolint, and what its stages promise: locked packages, no setuid program, no root."""

import re
from pathlib import Path

import yaml
from linting import ROOT, lint

STRIP = "find / -xdev -type f -perm /6000 -exec chmod a-s {} +"
AS_ROOT = {"services/secrets/Dockerfile"}
"""Gives files to other users; see docker-compose.yml."""


def instructions(dockerfile: Path) -> list[str]:
    """The instructions, comments left out and continuations joined."""
    text = "".join(line for line in dockerfile.read_text().splitlines(True) if not line.startswith("#"))
    return [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def stages(dockerfile: Path) -> dict[str, tuple[str, list[str]]]:
    """Name (or number) of each stage → what it is made from, and its instructions."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in instructions(dockerfile):
        if match := re.match(r"FROM (\S+)(?: AS (\S+))?$", line):
            current = match[2] or str(len(found))
            found[current] = (match[1], [])
        elif found:
            found[current][1].append(line)
    return found


def finals(dockerfile: Path) -> list[str]:
    """Stages that become images: those that nothing else is made from."""
    all_stages = stages(dockerfile)
    used = {base for base, _ in all_stages.values()}
    copied = {
        match
        for _, lines in all_stages.values()
        for line in lines
        for match in re.findall(r"--from=(\S+)|from=([\w-]+)", line)
    }
    sources = {name for pair in copied for name in pair if name}
    return [name for name in all_stages if name not in used | sources]


def chain(dockerfile: Path, stage: str) -> list[str]:
    """All instructions that a stage's image is made of, the oldest first: its base, if that is none of the file's."""
    all_stages = stages(dockerfile)
    base, lines = all_stages[stage]
    before = chain(dockerfile, base) if base in all_stages else [f"FROM {base}"]
    return [*before, *lines]


def test_hadolint(dockerfile: Path) -> None:
    told = lint("hadolint", "--no-color", dockerfile)
    assert told.returncode == 0, told.stdout


def test_hadolint_would_find_what_is_weak(tmp_path: Path) -> None:
    weak = tmp_path / "Dockerfile"
    weak.write_text("FROM debian\nRUN cd /tmp && sudo true\nADD x /x\nUSER root\n")
    told = lint("hadolint", "--no-color", "--config", ROOT / ".hadolint.yaml", weak)
    assert told.returncode == 1
    assert all(rule in told.stdout for rule in ("DL3006", "DL3004", "DL3020", "DL3002"))


def test_every_suppression_of_hadolint_has_its_reason() -> None:
    text = (ROOT / ".hadolint.yaml").read_text()
    for rule in yaml.safe_load(text)["ignored"]:
        above = text[: text.index(f"- {rule}")].splitlines()[-2:]
        assert all(line.strip().startswith("#") for line in above if line.strip()), rule


def test_every_image_starts_from_the_one_base(dockerfile: Path) -> None:
    """Without a registry there is no other, and one digest pins all (docs/supply-chain.md)."""
    for stage in stages(dockerfile):
        base = chain(dockerfile, stage)[0]
        assert base in ("FROM ${BASE_IMAGE}", "FROM scratch"), stage
    assert "ARG BASE_IMAGE=debian:trixie-slim" in instructions(dockerfile)


def test_every_image_loses_its_setuid_programs_after_its_last_installation(dockerfile: Path) -> None:
    for stage in finals(dockerfile):
        lines = chain(dockerfile, stage)
        if lines[0] == "FROM scratch":
            continue
        assert any(STRIP in line for line in lines), stage
        last = max((i for i, line in enumerate(lines) if "apt-get" in line), default=0)
        assert any(STRIP in line for line in lines[last:]), stage


def test_every_image_has_a_user(dockerfile: Path) -> None:
    for stage in finals(dockerfile):
        users = [line.split()[1] for line in chain(dockerfile, stage) if line.startswith("USER ")]
        if dockerfile.relative_to(ROOT).as_posix() in AS_ROOT:
            assert not users
        else:
            assert users, f"{stage}: no USER"
            assert re.match(r"[1-9]\d*:[1-9]\d*$", users[-1]), stage


def test_python_packages_come_from_a_lock_with_hashes(dockerfile: Path) -> None:
    for line in instructions(dockerfile):
        for call in re.findall(r"(?:pip install|pip sync|uv sync)[^&;|]*", line):
            assert "--require-hashes" in call, call
        assert "pipx" not in line
        assert "uvx " not in line


def test_go_modules_come_by_their_checksums(dockerfile: Path) -> None:
    for line in instructions(dockerfile):
        if re.search(r"\bgo (build|install|run)\b|\bbuilder --config", line):
            assert "-mod=readonly" in line, line
            assert "GONOSUMDB" not in line
            assert "GOFLAGS=-insecure" not in line
            assert "GONOSUMCHECK" not in line
        assert "GOSUMDB=off" not in line


def test_nothing_is_fetched_past_the_package_managers(dockerfile: Path) -> None:
    lines = [line for line in instructions(dockerfile) if "apt-get" not in line]
    ways = ("curl ", "wget ", "ADD ", "--allow-unauthenticated", "trusted=yes")
    assert not [line for line in lines if any(way in line for way in ways)]
    assert "# syntax=" not in dockerfile.read_text()
