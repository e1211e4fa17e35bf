"""Advisories, with stand-ins for pip-audit and Go: what they found, and what could not be looked at, are told apart."""

import json

import pytest

from paddock_cli import advisories
from paddock_cli.environments import Environments

AUDIT = """
lock = arguments[arguments.index('--requirement') + 1]
if 'broken' in lock:
    sys.exit('pip_audit: connection refused')
vulns = [{'id': 'PYSEC-1', 'fix_versions': ['2']}] if 'mlflow' in lock else []
print(json.dumps({'dependencies': [{'name': 'one', 'version': '1', 'vulns': vulns}], 'fixes': []}))
sys.exit(1 if vulns else 0)
"""
GO = """
if arguments[0] == 'mod':
    print(json.dumps({'Tool': [{'Path': 'x/cmd'}], 'Require': [{'Path': 'y'}, {'Path': 'z', 'Indirect': True}]}))
    sys.exit()
if arguments[0] == 'list':
    [print(word) for word in arguments if word in ('x/cmd', 'z')]
    sys.exit()
assert arguments[-1] == 'x/cmd', arguments
if 'gone' in os.getcwd():
    sys.exit('govulncheck: fetching vulnerabilities: no such host')
print(json.dumps({'config': {'protocol_version': 'v1'}}, indent=1))
for level in ({}, {'package': 'x/y'}):
    print(json.dumps({'finding': {'osv': 'GO-1', 'trace': [{'module': 'x', 'version': 'v1'} | level]}}, indent=1))
"""


@pytest.fixture
def files(where, program, monkeypatch, tmp_path):
    """A checkout with locks and modules; returns the calls of pip-audit."""
    calls = program("pip-audit", AUDIT)
    program("go", GO)
    monkeypatch.setattr(Environments, "python", lambda *_: tmp_path / "bin" / "python")
    for name in ("mlflow/requirements.txt", "agent/requirements.txt", "services/broken/requirements.txt"):
        (where.root / name).parent.mkdir(parents=True, exist_ok=True)
        (where.root / name).write_text("one==1\n")
    for name in ("store", "gone"):
        (where.root / "services" / name).mkdir(parents=True)
        (where.root / "services" / name / "go.mod").write_text("module m\n")
    return calls


def test_findings_and_what_could_not_be_looked_at_are_told_apart(files, where):
    found = {one.lock: one for one in advisories.look(where)}

    assert found["mlflow/requirements.txt"].vulnerabilities == ["one 1: PYSEC-1"]
    assert found["services/store/go.mod"].vulnerabilities == ["x v1: GO-1"]
    assert (found["agent/requirements.txt"].vulnerabilities, found["agent/requirements.txt"].not_checked) == (
        [],
        "",
    )
    assert found["services/broken/requirements.txt"].not_checked == "pip_audit: connection refused"
    assert "no such host" in found["services/gone/go.mod"].not_checked


def test_every_package_of_a_lock_is_asked_about_as_it_stands(files, where, calls):
    advisories.look(where, "http://127.0.0.1:1/osv")

    for call in calls(files):
        assert {"--require-hashes", "--disable-pip"} <= set(call["arguments"])
        assert call["arguments"][call["arguments"].index("--osv-url") + 1] == "http://127.0.0.1:1/osv"


def test_a_package_that_was_left_out_is_not_checked(files, where, program):
    program(
        "pip-audit",
        f"print({json.dumps(json.dumps({'dependencies': [{'name': 'odd', 'skip_reason': 'x'}]}))})",
    )

    assert "left out odd" in advisories.look(where)[0].not_checked


def test_without_go_its_modules_are_not_checked(files, where, monkeypatch):
    monkeypatch.setattr("paddock_cli.advisories.shutil.which", lambda _: None)

    found = {one.lock: one.not_checked for one in advisories.look(where)}
    assert "no Go on this machine" in found["services/store/go.mod"]
