"""`--allow`, the proxy's configuration, and its log, as the command line sees them."""

import json
from pathlib import Path

import pytest

from paddock_cli import egress
from paddock_cli.errors import BadConfiguration, BadSettings, NotRunning, UsageFailed
from paddock_cli.settings import load

TOKEN_FILE = """version: 1
services:
  code: {host: git.example, credential: {secret: COMPANY_GIT_TOKEN}}
"""


class Stack:
    """A stack whose proxy runs or not, and said this."""

    def __init__(self, kind: str = "compose", *, runs: bool = True, lines: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._runs = runs
        self._lines = lines

    def egress(self) -> bool:
        return self._runs

    def logs(self, services, *, follow, tail):
        assert services == ["egress"]
        yield from self._lines


@pytest.fixture
def shipped(where):
    """The configuration where a checkout has it."""
    path = where.root / "services" / "egress" / "egress.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("version: 1\n")
    return path


def test_hosts_are_names(where):
    assert egress.hosts([" Index.Example ", "*.files.example", "index.example"]) == (
        "index.example",
        "*.files.example",
    )
    for wrong in ("10.0.0.1", "mlflow", "https://index.example", "index.example:443", "*.example", ""):
        with pytest.raises(UsageFailed, match="--allow"):
            egress.hosts([wrong])
    with pytest.raises(UsageFailed, match="100 times"):
        egress.hosts([f"h{number}.example" for number in range(101)])


def test_a_run_is_told_of_the_proxy_where_it_runs():
    assert egress.for_run(Stack(), ("index.example",)) is True
    assert egress.for_run(Stack(), ()) is True
    assert egress.for_run(Stack(runs=False), ()) is False
    assert egress.for_run(Stack("embedded"), ()) is False


def test_allow_without_a_proxy_is_refused_before_the_run():
    with pytest.raises(NotRunning, match="COMPOSE_PROFILES=egress"):
        egress.for_run(Stack(runs=False), ("index.example",))
    with pytest.raises(UsageFailed, match="embedded"):
        egress.for_run(Stack("embedded", runs=False), ("index.example",))


def test_a_configuration_is_looked_at_where_the_proxy_is_on(where, shipped):
    shipped.write_text("version: 1\ndefaults: {allow: [10.0.0.1]}\n")
    egress.require_valid(load(where, {}))
    with pytest.raises(BadConfiguration, match=r"egress\.yaml:2:20: defaults\.allow\[0\]") as caught:
        egress.require_valid(load(where, {"COMPOSE_PROFILES": "tls, egress"}))
    assert caught.value.problems[0]["line"] == 2


def test_a_secret_without_a_value_stops_the_start(where, shipped):
    shipped.write_text(TOKEN_FILE)
    on = {"COMPOSE_PROFILES": "egress"}
    with pytest.raises(BadConfiguration, match="COMPANY_GIT_TOKEN"):
        egress.require_valid(load(where, on))
    settings = load(where, on | {"COMPANY_GIT_TOKEN": "tok"})
    egress.require_valid(settings)
    # A key, so it goes into files that only its owner reads, and is kept for a later call.
    assert settings.keys["COMPANY_GIT_TOKEN"] == settings.remembered["COMPANY_GIT_TOKEN"] == "tok"


def test_a_file_of_ones_own(where, shipped, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(TOKEN_FILE)
    assert load(where, {}).egress_config == shipped
    assert load(where, {"EGRESS_CONFIG": str(own)}).egress_config == own
    with pytest.raises(BadSettings, match="EGRESS_CONFIG"):
        load(where, {"EGRESS_CONFIG": "missing.yaml"})


def test_the_log_is_read_by_run_and_kind():
    lines = [
        {"event": "started"},
        {"event": "allowed", "run_id": "r-1", "host": "index.example"},
        {"event": "refused", "run_id": "r-1", "host": "git.example", "reason": "not-allowed"},
        {"event": "refused", "run_id": "r-2", "host": "git.example", "reason": "port"},
    ]
    stack = Stack(lines=(*(f"egress-1  | {json.dumps(line)}" for line in lines), "egress-1  | no JSON", ""))
    assert list(egress.decisions(stack, run_id="", every=False)) == lines[2:]
    assert list(egress.decisions(stack, run_id="r-1", every=False)) == [lines[2]]
    assert list(egress.decisions(stack, run_id="r-1", every=True)) == lines[1:3]
    with pytest.raises(NotRunning):
        list(egress.decisions(Stack(runs=False), run_id="", every=False))


def test_what_is_shipped_is_valid():
    assert egress.validate(Path(__file__).resolve().parents[3] / "services" / "egress" / "egress.yaml")
