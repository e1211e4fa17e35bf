"""The sum of cosines against values worked out by hand."""

from tides.harmonics import Constituent, height


def test_a_constituent_is_highest_at_its_phase():
    assert height([Constituent("S2", 2.0, 60.0)], hours=2.0) == 2.0


def test_the_mean_is_added():
    assert height([], hours=5.0, mean=3.5) == 3.5
