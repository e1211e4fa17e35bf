"""What goes wrong with guardrails.

PaddockError
└── UnusableGuardrail   a scorer that cannot guard, or not at this stage, or not with this action
"""

from paddock_mlflow.errors import PaddockError


class UnusableGuardrail(PaddockError):
    """The text says what was expected, what was found and what to do."""
