"""What a judge said, as MLflow's assessments: checked against its scale, cleaned, and written with the row that says so.

The assessments and the state of their judgment are one transaction, of a process that still holds the row. What comes
late, from a process whose lease went to another, is not written at all.
"""

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from mlflow.entities import Assessment, AssessmentError, AssessmentSource, Feedback
from mlflow.entities.trace import Trace
from mlflow.exceptions import MlflowException
from mlflow.genai.evaluation.utils import standardize_scorer_value
from mlflow.genai.judges import CategoricalRating
from mlflow.genai.scorers import Scorer
from mlflow.store.tracking.dbmodels import models
from mlflow.store.tracking.utils.sql_trace_rollups import (
    RollupFamily,
    enqueue_rollup_rebuilds,
    rollups_enabled,
)
from mlflow.tracing.constant import AssessmentMetadataKey, TraceMetadataKey
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, case, delete, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from paddock_mlflow.database import DECIMAL_PLACES, judgments, now
from paddock_mlflow.judges.errors import BadVerdict, NoVerdict
from paddock_mlflow.judges.queue import Judgment, Queue, assessment_id, owned
from paddock_mlflow.judges.registry import Judge
from paddock_mlflow.judges.states import PASSED_OVER, Level, State

_logger = logging.getLogger(__name__)

TAG = "paddock.judges"
"""The tag of a trace that says which judges did not look at it, and why."""

_TAG_CHARACTERS = 4000
_RATIONALE_CHARACTERS = 16_000
_VALUE_CHARACTERS = 4000
_MESSAGE_CHARACTERS = 2000
_FEEDBACKS = 20
"""Of one verdict: a scorer may answer with several."""
_TRIES = 4

# MLflow's models have no types.
_traces: Any = models.SqlTraceInfo.__table__
_tags: Any = models.SqlTraceTag.__table__
_assessments: Any = models.SqlAssessments.__table__


@dataclass(frozen=True)
class Outcome:
    """What became of a judgment: a verdict or a failure with its feedbacks, or a state without any.

    `due` is when to take it up again, in seconds from now.
    """

    judgment: Judgment
    state: State
    reason: str = ""
    feedbacks: Sequence[Feedback] = ()
    cost_usd: Decimal | None = None
    due: float | None = None
    judge: Judge | None = field(default=None, repr=False)


def feedbacks_of(judge: Judge, scorer: Scorer, value: object) -> list[Feedback]:
    """What a scorer returned, as feedbacks of the judge's scale.

    Raises:
        BadVerdict: it is no verdict: nothing, too many, another value than the scale has, or one that is not finite.
    """
    try:
        found = standardize_scorer_value(judge.name, value)
    except MlflowException as error:
        raise BadVerdict(f"expected a verdict of {judge.name}, found {_shown(value)}: {error}") from None
    if not found or len(found) > _FEEDBACKS:
        raise BadVerdict(f"expected 1 to {_FEEDBACKS} feedbacks of {judge.name}, found {len(found)}")
    for feedback in found:
        if feedback.error is not None:
            continue
        feedback.value = _in_scale(judge, scorer, feedback.value)
        feedback.rationale = clean(feedback.rationale, _RATIONALE_CHARACTERS) if feedback.rationale else None
        feedback.name = clean(feedback.name, 250)
    return found


def _in_scale(judge: Judge, scorer: Scorer, value: Any) -> Any:
    if isinstance(value, CategoricalRating):
        if value is CategoricalRating.UNKNOWN:
            raise BadVerdict(f"expected yes or no of {judge.name}, found another word")
        return str(value)
    # Of judges by make_judge; upstream hands on whatever the model wrote.
    scale = getattr(scorer, "feedback_value_type", None)
    if scale is not None and "instructions_judge_pydantic_data" in (judge.serialized or ""):
        try:
            value = TypeAdapter(scale).validate_python(value)
        except ValidationError:
            raise BadVerdict(f"expected {_scale(scale)} of {judge.name}, found {_shown(value)}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise BadVerdict(f"expected a finite number of {judge.name}, found {value}")
    if isinstance(value, str):
        return clean(value, _VALUE_CHARACTERS)
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise BadVerdict(
            f"expected a value of {judge.name} that JSON can hold, found {_shown(value)}"
        ) from None
    if value is None or len(text) > _VALUE_CHARACTERS:
        found = "none" if value is None else f"{len(text)} characters"
        raise BadVerdict(
            f"expected a value of {judge.name} of at most {_VALUE_CHARACTERS} characters, found {found}"
        )
    return value


def _scale(scale: Any) -> str:
    schema = TypeAdapter(scale).json_schema()
    if options := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return "one of " + ", ".join(str(option) for option in options)
    return f"a value of the type {schema.get('type', scale)}"


def _shown(value: object) -> str:
    return clean(repr(value), 200)


def clean(text: str, characters: int) -> str:
    """Text that the database can keep, cut: PostgreSQL takes neither a zero byte nor half of a surrogate pair."""
    text = text[: characters + 1].replace("\0", "").encode("utf-8", "replace").decode()
    return text if len(text) <= characters else text[: characters - 1] + "…"


def verdict(judgment: Judgment, judge: Judge, feedbacks: list[Feedback], cost_usd: Decimal | None) -> Outcome:
    """A verdict; one of which a feedback is an error is a failure."""
    errors = [one.error for one in feedbacks if one.error is not None]
    for one in feedbacks:
        _sign(judgment, judge, one, cost_usd)
        if one.error is None and (passed := judge.passes(one.value)) is not None:
            one.metadata = {**(one.metadata or {}), "paddock.passed": str(passed).lower()}
    if errors:
        reason = clean(f"{errors[0].error_code}: {errors[0].error_message or ''}", _MESSAGE_CHARACTERS)
        return Outcome(judgment, State.FAILED, reason, feedbacks, cost_usd, judge=judge)
    return Outcome(judgment, State.DONE, "", feedbacks, cost_usd, judge=judge)


def failure(judgment: Judgment, judge: Judge, why: NoVerdict, cost_usd: Decimal | None = None) -> Outcome:
    """An assessment that says why there is no verdict."""
    text = clean(str(why), _MESSAGE_CHARACTERS)
    feedback = Feedback(
        name=judge.name,
        source=AssessmentSource(source_type=judge.source_type, source_id=_source(judge)),
        error=AssessmentError(error_code=why.code, error_message=text),
    )
    _sign(judgment, judge, feedback, cost_usd)
    return Outcome(judgment, State.FAILED, f"{why.code}: {text}", [feedback], cost_usd, judge=judge)


def _source(judge: Judge) -> str:
    return f"gateway:/{judge.endpoint}" if judge.endpoint else judge.name


def _sign(judgment: Judgment, judge: Judge, feedback: Feedback, cost_usd: Decimal | None) -> None:
    """Say whose verdict it is: MLflow's own keys, and those that its keys have no place for."""
    metadata = {str(key): str(value) for key, value in (feedback.metadata or {}).items()}
    metadata |= {
        AssessmentMetadataKey.SCORER_NAME: judge.name,
        AssessmentMetadataKey.SCORER_VERSION: str(judge.version),
        "paddock.judge.version": str(judge.version),
        "paddock.judge.fingerprint": judge.fingerprint,
    }
    if judge.endpoint:
        metadata["paddock.judge.endpoint"] = judge.endpoint
    if cost_usd is not None:
        text = f"{cost_usd:.{DECIMAL_PLACES}f}"
        metadata |= {"paddock.judge.cost_usd": text, AssessmentMetadataKey.JUDGE_COST: text}
    if judgment.level is Level.SESSION:
        metadata[TraceMetadataKey.TRACE_SESSION] = judgment.subject
        metadata[AssessmentMetadataKey.ONLINE_SCORING_SESSION_ID] = judgment.subject
    feedback.metadata = {key: clean(value, _MESSAGE_CHARACTERS) for key, value in metadata.items()}


def on_root(trace: Trace, feedbacks: Iterable[Feedback]) -> None:
    """Let feedbacks stand at the root span, as upstream's do."""
    root = trace.data._get_root_span()
    for feedback in feedbacks:
        feedback.span_id = root.span_id if root else None


class Writer:
    """Writes what became of judgments."""

    def __init__(self, queue: Queue) -> None:
        self._engine = queue.engine

    def write(self, outcomes: Sequence[Outcome]) -> int:
        """Write a batch, in one transaction where it can be.

        Returns:
            How many of them were written; the others belonged to another process by now, or their trace is gone.
        """
        for attempt in range(_TRIES):
            try:
                return self._write(outcomes)
            except OperationalError:
                # A deadlock with a writer of spans, or a busy SQLite.
                if attempt + 1 == _TRIES:
                    raise
                time.sleep(0.05 * 4**attempt)
            except DBAPIError as error:
                if len(outcomes) > 1:
                    # One of them can't be stored: the others are not to suffer.
                    return sum(self.write([outcome]) for outcome in outcomes)
                if not outcomes[0].feedbacks or outcomes[0].judge is None:
                    raise
                _logger.exception("a verdict can't be stored")
                told = BadVerdict(f"the verdict can't be stored: {type(error.orig).__name__}")
                return self._write([failure(outcomes[0].judgment, outcomes[0].judge, told)])
        raise AssertionError("the last try returns or raises")

    def _write(self, outcomes: Sequence[Outcome]) -> int:
        with self._engine.begin() as connection:
            traces = _lock_traces(connection, [one.judgment.trace_id for one in outcomes])
            mine = self._claim(connection, [one.judgment for one in outcomes])
            kept = [one for one in outcomes if one.judgment.id in mine and one.judgment.trace_id in traces]
            if gone := [one.judgment.id for one in outcomes if one.judgment.trace_id not in traces]:
                # Somebody deleted the trace: there is nothing to judge, and nobody to tell.
                connection.execute(delete(judgments).where(judgments.c.id.in_(gone)))
            if kept:
                self._assessments(connection, kept, traces)
                self._states(connection, kept)
                tag(connection, {one.judgment.trace_id for one in kept})
            return len(kept)

    @staticmethod
    def _claim(connection: Connection, held: Sequence[Judgment]) -> set[str]:
        """Those rows that are still this process's. They can't be anybody else's until the transaction ends."""
        if connection.dialect.name == "postgresql":
            ordered = select(judgments.c.id).where(owned(held)).order_by(judgments.c.id).with_for_update()
            return set(connection.execute(ordered).scalars())
        # SQLite has no locks of rows: the first write takes the database.
        touched = update(judgments).where(owned(held)).values(due_at=judgments.c.due_at)
        return set(connection.execute(touched.returning(judgments.c.id)).scalars())

    @staticmethod
    def _assessments(
        connection: Connection, outcomes: Sequence[Outcome], traces: Mapping[str, tuple[int, int]]
    ) -> None:
        rows, earlier = [], []
        for outcome in outcomes:
            if not outcome.feedbacks:
                continue
            judgment = outcome.judgment
            before = judgment.earlier
            earlier += before
            for number, feedback in enumerate(outcome.feedbacks):
                overridden = before[number] if number < len(before) else None
                identifier = assessment_id(judgment.id, judgment.verdicts + 1, number)
                rows.append(_row(feedback, judgment.trace_id, identifier, overridden, traces))
        if earlier:
            connection.execute(
                update(_assessments).where(_assessments.c.assessment_id.in_(earlier)).values(valid=False)
            )
        if not rows:
            return
        with Session(connection) as session:
            if rollups_enabled():
                moments = defaultdict(list)
                for row in rows:
                    moments[row.experiment_id].append(row.trace_timestamp_ms)
                for experiment_id, stamps in moments.items():
                    enqueue_rollup_rebuilds(session, RollupFamily.ASSESSMENT, experiment_id, stamps)
            session.add_all(rows)
            session.flush()
            session.expunge_all()

    @staticmethod
    def _states(connection: Connection, outcomes: Sequence[Outcome]) -> None:
        c = judgments.c
        moment = now()

        def per_row(column: Any, values: Mapping[str, Any]) -> Any:
            if not values:
                return column
            return case(
                *((c.id == key, literal(value, column.type)) for key, value in values.items()), else_=column
            )

        judged = {one.judgment.id: one.judge for one in outcomes if one.judge is not None}
        written = {one.judgment.id: one for one in outcomes if one.feedbacks}
        # One statement for all of them.
        connection.execute(
            update(judgments)
            .where(c.id.in_([one.judgment.id for one in outcomes]))
            .values(
                state=per_row(c.state, {one.judgment.id: str(one.state) for one in outcomes}),
                reason=per_row(c.reason, {one.judgment.id: one.reason for one in outcomes}),
                lease=None,
                lease_until=None,
                ended_at=moment,
                due_at=per_row(
                    c.due_at,
                    {
                        one.judgment.id: moment + timedelta(seconds=one.due)
                        for one in outcomes
                        if one.due is not None
                    },
                ),
                version=per_row(c.version, {key: judge.version for key, judge in judged.items()}),
                fingerprint=per_row(c.fingerprint, {key: judge.fingerprint for key, judge in judged.items()}),
                endpoint=per_row(c.endpoint, {key: judge.endpoint for key, judge in judged.items()}),
                cost_usd=per_row(c.cost_usd, {key: one.cost_usd for key, one in written.items()}),
                # A spent budget is no attempt.
                attempts=case(
                    (
                        c.id.in_([one.judgment.id for one in outcomes if one.state is State.BUDGET]),
                        c.attempts - 1,
                    ),
                    else_=c.attempts,
                ),
                verdicts=case((c.id.in_(list(written)), c.verdicts + 1), else_=c.verdicts),
                feedbacks=per_row(c.feedbacks, {key: len(one.feedbacks) for key, one in written.items()}),
            )
        )


def _lock_traces(connection: Connection, trace_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Experiment and start, in milliseconds, of those that are there; they stay so until the transaction ends."""
    query = (
        select(_traces.c.request_id, _traces.c.experiment_id, _traces.c.timestamp_ms)
        .where(_traces.c.request_id.in_(sorted(set(trace_ids))))
        .order_by(_traces.c.request_id)
        .with_for_update()
    )
    return {row.request_id: (row.experiment_id, row.timestamp_ms) for row in connection.execute(query)}


def _row(
    feedback: Feedback,
    trace_id: str,
    identifier: str,
    overridden: str | None,
    traces: Mapping[str, tuple[int, int]],
) -> Any:
    """MLflow's own row, with an id that no other verdict can have."""
    assessment: Assessment = feedback
    assessment.trace_id = trace_id
    assessment.assessment_id = identifier
    assessment.overrides = overridden
    row = models.SqlAssessments.from_mlflow_entity(assessment)
    row.experiment_id, row.trace_timestamp_ms = traces[trace_id]
    return row


def tag(connection: Connection, trace_ids: Iterable[str]) -> None:
    """Write on traces which judges passed them over, and take away what no longer holds."""
    c = judgments.c
    ids = sorted(set(trace_ids))
    query = (
        select(c.trace_id, c.judge, c.state, c.reason)
        .where(c.trace_id.in_(ids), c.state.in_(PASSED_OVER))
        .order_by(c.trace_id, c.judge)
    )
    reasons = defaultdict(list)
    for row in connection.execute(query):
        reasons[row.trace_id].append(f"{row.judge}: {row.reason or row.state}")
    values = [
        {"request_id": trace_id, "key": TAG, "value": clean("; ".join(told), _TAG_CHARACTERS)}
        for trace_id, told in reasons.items()
    ]
    if stale := [trace_id for trace_id in ids if trace_id not in reasons]:
        connection.execute(delete(_tags).where(_tags.c.request_id.in_(stale), _tags.c.key == TAG))
    if values:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(_tags).values(values)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[_tags.c.key, _tags.c.request_id], set_={"value": statement.excluded.value}
            )
        )
