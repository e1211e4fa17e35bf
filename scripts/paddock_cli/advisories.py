"""`./paddock advisories`: known vulnerabilities of the locked Python packages (pip-audit) and Go modules (govulncheck).

Both ask a database on the Internet. Where one can't be reached, that is the result, and said as loudly as a finding: a
check that did not happen must not look like one that found nothing.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddock_cli import console
from paddock_cli.environments import Environments, installer_variables
from paddock_cli.sbom import LOCK
from paddock_cli.settings import Paths

GOVULNCHECK = "golang.org/x/vuln/cmd/govulncheck@v1.1.4"
PYTHON_LOCKS = (
    "agent/requirements.txt",
    "mlflow/requirements.txt",
    "services/*/requirements.txt",
    "scripts/requirements*.txt",
)
"""What images and the command line install; what only tests and benchmarks install is not looked at."""
SECONDS = 600


@dataclass
class Looked:
    """What became of one lock: vulnerabilities as `package version: id`, or why it could not be looked at."""

    lock: str
    vulnerabilities: list[str] = field(default_factory=list)
    not_checked: str = ""


def look(where: Paths, osv_url: str = "") -> list[Looked]:
    """Look at every lock of the product.

    Args:
        osv_url: where OSV's API is, if not at its usual address.

    Raises:
        EnvironmentFailed: pip-audit can't be installed.
    """
    audit = Environments(where.cache).python("supply-chain", where.root / LOCK).with_name("pip-audit")
    found = []
    for pattern in PYTHON_LOCKS:
        for lock in sorted(where.root.glob(pattern)):
            with console.step(f"advisories on {lock.relative_to(where.root)}") as step:
                found.append(_python(where.root, audit, lock, osv_url))
                step.result = _told(found[-1])
    for module in sorted(where.root.glob("services/*/go.mod")):
        with console.step(f"advisories on {module.relative_to(where.root)}") as step:
            found.append(_go(where.root, module))
            step.result = _told(found[-1])
    return found


def _told(one: Looked) -> str:
    if one.not_checked:
        return f"NOT CHECKED: {one.not_checked}"
    return f"{len(one.vulnerabilities)} known" if one.vulnerabilities else "none known"


def _python(root: Path, audit: Path, lock: Path, osv_url: str) -> Looked:
    command = [str(audit), "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--vulnerability-service", "osv"]
    command += ["--osv-url", osv_url] if osv_url else []
    name = lock.relative_to(root).as_posix()
    answer = _run(command, root, installer_variables())
    try:
        dependencies = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Looked(name, not_checked=_last_line(answer))
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    return Looked(
        name,
        [
            f"{one['name']} {one['version']}: {bug['id']}"
            for one in dependencies
            for bug in one.get("vulns", [])
        ],
        not_checked=f"pip-audit left out {', '.join(skipped)}" if skipped else "",
    )


def _go(root: Path, module: Path) -> Looked:
    name = module.relative_to(root).as_posix()
    go = shutil.which("go")
    if go is None:
        return Looked(name, not_checked="no Go on this machine, which govulncheck needs")
    described = _run([go, "mod", "edit", "-json"], module.parent, dict(os.environ))
    if described.returncode:
        return Looked(name, not_checked=_last_line(described))
    listed = json.loads(described.stdout)
    # No program of ours stands beside these go.mod files: what is compiled is a tool of the module, or is put together
    # from what it requires directly, as far as that is a package and not only a module.
    named = [one["Path"] for one in listed.get("Tool") or []]
    named += [one["Path"] for one in listed.get("Require") or [] if not one.get("Indirect")]
    with_code = "{{if .GoFiles}}{{.ImportPath}}{{end}}"
    packages = _run([go, "list", "-e", "-find", "-f", with_code, *named], module.parent, dict(os.environ))
    if not packages.stdout.split():
        return Looked(name, not_checked=_last_line(packages))
    command = [go, "run", GOVULNCHECK, "-scan", "package", "-format", "json", *packages.stdout.split()]
    answer = _run(command, module.parent, dict(os.environ))
    if answer.returncode:
        return Looked(name, not_checked=_last_line(answer))
    found: dict[str, None] = {}
    for message in _documents(answer.stdout):
        if finding := message.get("finding"):
            trace = finding["trace"][0]
            found[f"{trace['module']} {trace.get('version', '')}: {finding['osv']}"] = None
    return Looked(name, list(found))


def _documents(text: str) -> list[dict[str, Any]]:
    """JSON documents that stand one after the other."""
    decoder, position, found = json.JSONDecoder(), 0, []
    while text[position:].strip():
        position += len(text[position:]) - len(text[position:].lstrip())
        document, position = decoder.raw_decode(text, position)
        found.append(document)
    return found


def _run(command: list[str], folder: Path, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer in {SECONDS} s")


def _last_line(answer: "subprocess.CompletedProcess[str]") -> str:
    lines = (answer.stderr or answer.stdout).strip().splitlines()
    return lines[-1].strip()[:300] if lines else f"exit code {answer.returncode} and no word"
