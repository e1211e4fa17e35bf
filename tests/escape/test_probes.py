"""Every harmless probe, twice: as a program in an agent's container, and by the agent's own terminal."""

import pytest
from catalogue import BY_TERMINAL_ALONE, HARMLESS
from played import HostileRun
from probe_record import Record

from paddock_probes.registry import PROBES, Finding


@pytest.mark.parametrize("name", [name for name in HARMLESS if name not in BY_TERMINAL_ALONE])
def test_in_the_container(name: str, by_exec: dict[str, Finding], record: Record) -> None:
    found = by_exec[name]
    record.note(name, outcome=found.outcome, evidence=found.evidence)
    assert found.outcome == PROBES[name].expected, found.evidence


@pytest.mark.parametrize("name", HARMLESS)
def test_by_the_agents_terminal(name: str, hostile_run: HostileRun, record: Record) -> None:
    found = hostile_run.findings[name]
    if name in BY_TERMINAL_ALONE:
        record.note(name, outcome=found.outcome, evidence=found.evidence)
    assert found.outcome == PROBES[name].expected, found.evidence
