"""MLflow's built-in scorers, as judges.yaml may name them. Known here without MLflow, which the command line does not
have; a contract test compares this list with the installed release.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["trace", "session"]

PII_KINDS = ("email", "phone", "ssn", "credit_card", "ip_address")

YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Option:
    """A setting of a scorer: `kind` is what its value must be."""

    kind: Literal["text", "texts", "whole", "truth", "choice", "choices"]
    choices: tuple[str, ...] = ()
    required: bool = False
    default: Any = None


@dataclass(frozen=True)
class BuiltIn:
    """`name` is the one of its assessments, and of the judge where no other is given."""

    name: str
    level: Level = "trace"
    asks: bool = True
    """Whether it asks a model."""
    expects: bool = False
    """Whether it needs an expectation with the trace."""
    options: Mapping[str, Option] = field(default_factory=dict)
    values: tuple[str, ...] = YES_NO
    passing: tuple[str, ...] = ("yes",)


BUILT_IN: Mapping[str, BuiltIn] = {
    "Completeness": BuiltIn("completeness"),
    "Correctness": BuiltIn("correctness", expects=True),
    "Equivalence": BuiltIn("equivalence", expects=True),
    "ExpectationsGuidelines": BuiltIn("expectations_guidelines", expects=True),
    "Fluency": BuiltIn("fluency"),
    "RelevanceToQuery": BuiltIn("relevance_to_query"),
    "RetrievalGroundedness": BuiltIn("retrieval_groundedness"),
    "RetrievalRelevance": BuiltIn("retrieval_relevance"),
    "RetrievalSufficiency": BuiltIn("retrieval_sufficiency", expects=True),
    "Safety": BuiltIn("safety"),
    "Summarization": BuiltIn("summarization"),
    "ToolCallCorrectness": BuiltIn(
        "tool_call_correctness",
        options={
            "should_exact_match": Option("truth", default=False),
            "should_consider_ordering": Option("truth", default=False),
        },
    ),
    "ToolCallEfficiency": BuiltIn("tool_call_efficiency"),
    # Sessions
    "ConversationCompleteness": BuiltIn("conversation_completeness", "session"),
    "ConversationalGuidelines": BuiltIn(
        "conversational_guidelines", "session", options={"guidelines": Option("texts", required=True)}
    ),
    "ConversationalRoleAdherence": BuiltIn("conversational_role_adherence", "session"),
    "ConversationalSafety": BuiltIn("conversational_safety", "session"),
    "ConversationalToolCallEfficiency": BuiltIn("conversational_tool_call_efficiency", "session"),
    "KnowledgeRetention": BuiltIn("knowledge_retention", "session"),
    "UserFrustration": BuiltIn(
        "user_frustration",
        "session",
        values=("none", "resolved", "unresolved"),
        passing=("none", "resolved"),
    ),
    # Without a model
    "PIIDetection": BuiltIn("pii_detection", asks=False, options={"pii_types": Option("choices", PII_KINDS)}),
    "RegexMatch": BuiltIn(
        "regex_match",
        asks=False,
        options={
            "pattern": Option("text", required=True),
            "match_type": Option("choice", ("search", "fullmatch"), default="search"),
            "case_insensitive": Option("truth", default=False),
        },
    ),
    "ResponseLength": BuiltIn(
        "response_length",
        asks=False,
        options={
            "min_length": Option("whole"),
            "max_length": Option("whole"),
            "unit": Option("choice", ("chars", "words"), default="chars"),
        },
    ),
}
"""By class. `Guidelines` is a kind of judge of its own, and stands in a file as `guidelines:`."""

GUIDELINES = "Guidelines"

VARIABLES = ("inputs", "outputs", "expectations", "trace", "conversation")
"""What instructions may ask for, written {{ so }}."""


def problem_of(option: Option, value: Any) -> str:
    """What a value of an option should have been; empty where it is that."""
    if option.kind == "text":
        return "" if isinstance(value, str) and value else "a text"
    if option.kind == "texts":
        good = (
            isinstance(value, list) and value and all(isinstance(one, str) and one.strip() for one in value)
        )
        return "" if good else "a list of texts"
    if option.kind == "whole":
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return "" if good else "a whole number, 0 or more"
    if option.kind == "truth":
        return "" if isinstance(value, bool) else "true or false"
    known = ", ".join(option.choices)
    if option.kind == "choice":
        return "" if value in option.choices else f"one of {known}"
    good = isinstance(value, list) and value and all(one in option.choices for one in value)
    return "" if good else f"a list of some of {known}"
