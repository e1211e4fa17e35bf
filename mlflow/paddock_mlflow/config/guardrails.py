"""Which scorers a file can name to guard calls, and what each can do."""

from dataclasses import dataclass

STAGES = ("before", "after")
DEFAULT_MODEL = "judge"
"""The endpoint that decides where none is named."""


@dataclass(frozen=True)
class Scorer:
    """`actions`: sanitization needs a place that can be masked. `judges`: an endpoint's model decides."""

    actions: tuple[str, ...]
    judges: bool = False
    instructed: bool = False
    """Whether it needs `instructions`."""


SCORERS = {
    "PIIDetection": Scorer(("validation", "sanitization")),
    "SecretDetection": Scorer(("validation", "sanitization")),
    "Safety": Scorer(("validation",), judges=True),
    "Judge": Scorer(("validation",), judges=True, instructed=True),
}
"""MLflow's PIIDetection and Safety, its RegexMatch for keys and tokens, and a judge made by its make_judge."""

UNUSABLE = {
    "Correctness": "it compares with an expected answer, which a call does not have",
    "Equivalence": "it compares with an expected answer, which a call does not have",
    "ToolCallEfficiency": "it looks at a whole trace, which a call is not yet",
    "ToolCallCorrectness": "it looks at a whole trace, which a call is not yet",
}
"""Scorers of MLflow that can't guard, and why."""
