"""Compose files under compose-lint (rules of OWASP and CIS), the Compose specification's schema, and yamllint."""

import json
import shutil
from pathlib import Path

import yaml
from linting import ROOT, files, lint

COMPOSE_LINT = ROOT / ".compose-lint.yml"


def test_compose_lint_finds_nothing(compose_file: Path, tmp_path: Path) -> None:
    """Over all profiles: the linter reads the file itself, which has none switched off. What stands on top of the stack's
    file is looked at merged with it, as it runs."""
    names = list(dict.fromkeys(["docker-compose.yml", compose_file.name]))
    for name in names:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".env").write_text(f"COMPOSE_FILE={':'.join(names)}\n")
    told = lint(
        *["compose-lint", "check", "--config", COMPOSE_LINT, "--strict-config", "--fail-on", "low"],
        *["--format", "json"],
        folder=tmp_path,
    )
    report = json.loads(told.stdout)
    assert not [finding for finding in report["findings"] if not finding["suppressed"]]
    assert report["findings"], "the suppressed ones at least"
    assert not [one for one in report["warnings"] if "COMPOSE_FILE" not in str(one)]
    assert (told.returncode, report["errors"]) == (0, []), told.stderr


def test_compose_lint_would_find_what_is_weak(tmp_path: Path) -> None:
    weak = tmp_path / "compose.yml"
    weak.write_text("services: {web: {image: 'nginx:1', privileged: true, ports: ['80:80']}}\n")
    told = lint("compose-lint", "check", weak, "--config", COMPOSE_LINT, "--format", "json")
    found = {
        finding["rule_id"] for finding in json.loads(told.stdout)["findings"] if not finding["suppressed"]
    }
    assert found >= {"CL-0002", "CL-0003", "CL-0005", "CL-0006", "CL-0026"}


def test_every_suppression_has_its_reason() -> None:
    for rule, settings in yaml.safe_load(COMPOSE_LINT.read_text())["rules"].items():
        excluded = settings.get("exclude_services")
        reasons = list(excluded.values()) if isinstance(excluded, dict) else [settings.get("reason")]
        assert all(reason and len(reason.split()) >= 8 for reason in reasons), rule


def test_the_schema_of_the_compose_specification(compose_file: Path) -> None:
    told = lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", compose_file)
    assert told.returncode == 0, told.stdout


def test_yamllint() -> None:
    found = [path for path in files() if path.suffix in (".yml", ".yaml")]
    assert len(found) > 10
    told = lint("yamllint", "--strict", *found)
    assert told.returncode == 0, told.stdout
