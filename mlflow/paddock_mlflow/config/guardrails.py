"""Which scorers can guard a call, and at which stage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scorer:
    """What a guardrail's scorer can do: at which stages it works, and whether it can mask what it finds."""

    stages: tuple[str, ...]
    actions: tuple[str, ...]
    judges: bool = False
    """Whether a model decides, in which case `instructions` and `model` are needed."""


SCORERS: dict[str, Scorer] = {}

REFUSED = {
    "Safety": (
        "MLflow 3.17 calls it with arguments that it does not take, so that every call of the endpoint would fail",
        "take the scorer `Judge` with instructions that say what is unsafe",
    ),
}
"""Scorers that MLflow accepts and that then fail every call: the reason, and what to take."""
