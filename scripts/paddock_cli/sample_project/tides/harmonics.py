"""Height of the tide as a sum of cosines, one for each constituent."""

import math
from dataclasses import dataclass

SPEEDS = {"M2": 28.984104, "S2": 30.0, "K1": 15.041069, "O1": 13.943036}
"""Degrees an hour."""


@dataclass(frozen=True)
class Constituent:
    """One harmonic: its name, amplitude in metres and phase in degrees."""

    name: str
    amplitude: float
    phase: float


def height(constituents: list[Constituent], hours: float, mean: float = 0.0) -> float:
    """Metres above the datum, `hours` after the epoch of the phases."""
    return mean + sum(
        one.amplitude * math.cos(math.radians(SPEEDS[one.name] * hours - one.phase)) for one in constituents
    )
