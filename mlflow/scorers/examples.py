"""Code scorers for judges.yaml: `python: examples.py:few_files`.

A function takes what it names of `inputs`, `outputs`, `expectations` and `trace` (mlflow.entities.Trace), and returns
true or false, a number, a text, or an mlflow.entities.Feedback with a rationale. It runs in the stack's judging process.
"""

import json

from mlflow.entities import Feedback, SpanType, Trace

MOST = 5


def few_files(trace: Trace) -> Feedback:
    """Whether the agent wrote no more than five files by its editor."""
    written = set()
    for span in trace.search_spans(span_type=SpanType.TOOL):
        action = json.loads(json.dumps(span.inputs or {}, default=str))
        if isinstance(action, dict) and action.get("command") in ("create", "str_replace", "insert"):
            written.add(str(action.get("path")))
    return Feedback(value=len(written) <= MOST, rationale=f"{len(written)} files were written.")
