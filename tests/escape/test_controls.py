"""Every harmless probe gets through where its wall is taken away: one that can't succeed proves nothing."""

from collections.abc import Callable

import pytest
from catalogue import CONTROLS, HARMLESS, KEYS, RUNNER
from played import HERE, UNWALLED_NAME, WALLED_NAME, Outside
from probe_record import Record

from paddock_probes.registry import BLOCKED, OPEN, PROBES, Finding


@pytest.mark.parametrize("name", CONTROLS)
def test_gets_through_without_its_wall(
    name: str, without: Callable[[str], dict[str, Finding]], record: Record
) -> None:
    found = without(CONTROLS[name])[name]
    record.note(name, control=found.evidence)
    assert found.outcome == OPEN, found.evidence


def test_the_played_world_saw_what_got_through_and_nothing_of_the_agent(
    by_exec: dict[str, Finding], without: Callable[[str], dict[str, Finding]], outside: Outside
) -> None:
    """The resolver's own list: the walled agent's query never came, the other one's did."""
    assert by_exec["dns-outside"].outcome == BLOCKED
    assert without("network")["dns-outside"].outcome == OPEN
    asked = outside.told()["asked"]
    assert UNWALLED_NAME in asked
    assert WALLED_NAME not in asked


def test_every_probe_has_a_control_and_every_control_a_file() -> None:
    closed = {name for name in HARMLESS if not PROBES[name].stands_open}
    assert closed == CONTROLS.keys()
    files = {path.stem for path in (HERE / "without").glob("*.yaml")}
    assert set(CONTROLS.values()) - {KEYS, RUNNER} <= files
