"""One row for each judge and trace, in place of one for each trace that was handed to all of them."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from paddock_mlflow.database import Moment, Usd

revision = "0008"
down_revision = "0007"

_BATCH = 500
_SUCCEEDED, _CANCELED = 2, 5
_OLD_JOB = "paddock_judge_trace"


def upgrade() -> None:
    judgments = op.create_table(
        "paddock_judgments",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("experiment_id", sa.String(32), nullable=False),
        sa.Column("judge", sa.String(256), nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("subject", sa.String(250), nullable=False),
        sa.Column("trace_id", sa.String(50), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("origin", sa.String(8), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(255)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("verdicts", sa.Integer, nullable=False),
        sa.Column("feedbacks", sa.Integer, nullable=False),
        sa.Column("cost_usd", Usd),
        sa.Column("subject_ended_at", Moment, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("due_at", Moment, nullable=False),
        sa.Column("lease", sa.String(32)),
        sa.Column("lease_until", Moment),
        sa.Column("started_at", Moment),
        sa.Column("ended_at", Moment),
    )
    op.create_index("ix_paddock_judgments_subject", "paddock_judgments", ["subject", "judge"])
    op.create_index("ix_paddock_judgments_trace_id", "paddock_judgments", ["trace_id"])
    op.create_index("ix_paddock_judgments_state", "paddock_judgments", ["state", "due_at"])
    op.create_index("ix_paddock_judgments_ended", "paddock_judgments", ["experiment_id", "subject_ended_at"])
    connection = op.get_bind()
    for rows in _judged(connection):
        connection.execute(sa.insert(judgments), rows)
    # Nobody knows the function of these any more. Their traces have no rows, and so are judged as new ones are.
    connection.execute(
        sa.text("UPDATE jobs SET status = :canceled WHERE job_name = :name AND status NOT IN (2, 3, 4, 5)"),
        {"canceled": _CANCELED, "name": _OLD_JOB},
    )
    op.drop_table("paddock_judged_traces")


def downgrade() -> None:
    op.create_table(
        "paddock_judged_traces",
        sa.Column("trace_id", sa.String(50), primary_key=True),
        sa.Column("experiment_id", sa.String(32), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.String(50)),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_index("ix_paddock_judged_traces_taken_at", "paddock_judged_traces", ["taken_at"])
    op.execute(
        "INSERT INTO paddock_judged_traces SELECT subject, min(experiment_id), min(created_at), NULL, 'judged'"
        " FROM paddock_judgments WHERE level = 'trace' GROUP BY subject"
    )
    op.drop_table("paddock_judgments")


def _judged(connection: sa.Connection) -> Iterator[list[dict[str, Any]]]:
    """What the old table and the assessments say together: a row for each judge that looks by itself.

    A trace whose job did not come to its end has none.
    """
    judges = sa.text(
        "SELECT s.experiment_id, s.scorer_name, max(v.scorer_version) AS version FROM scorers s"
        " JOIN scorer_versions v ON v.scorer_id = s.scorer_id"
        " JOIN online_scoring_configs c ON c.scorer_id = s.scorer_id WHERE c.sample_rate > 0"
        " GROUP BY s.experiment_id, s.scorer_name"
    )
    by_experiment: dict[str, list[Any]] = {}
    for row in connection.execute(judges):
        by_experiment.setdefault(str(row.experiment_id), []).append(row)
    taken = sa.text(
        "SELECT j.trace_id, j.experiment_id, j.note, t.timestamp_ms + coalesce(t.execution_time_ms, 0) AS ended"
        " FROM paddock_judged_traces j JOIN trace_info t ON t.request_id = j.trace_id"
        " LEFT JOIN jobs ON jobs.id = j.job_id"
        " WHERE j.trace_id > :after AND (j.note <> '' OR jobs.status = :succeeded) ORDER BY j.trace_id LIMIT :limit"
    )
    said = sa.text(
        "SELECT trace_id, name, max(error) AS error FROM assessments WHERE assessment_type = 'feedback'"
        " AND trace_id IN :ids GROUP BY trace_id, name"
    ).bindparams(sa.bindparam("ids", expanding=True))
    after = ""
    while True:
        batch = connection.execute(taken, {"after": after, "succeeded": _SUCCEEDED, "limit": _BATCH}).all()
        if not batch:
            return
        after = batch[-1].trace_id
        ids = [row.trace_id for row in batch]
        errors = {(row.trace_id, row.name): row.error for row in connection.execute(said, {"ids": ids})}
        rows = [
            _row(trace, judge, errors)
            for trace in batch
            for judge in by_experiment.get(trace.experiment_id, [])
        ]
        if rows:
            yield rows


def _row(trace: Any, judge: Any, errors: dict[tuple[str, str], str | None]) -> dict[str, Any]:
    key = (trace.trace_id, judge.scorer_name)
    if key not in errors:
        state, reason = "filtered", trace.note or "an earlier release judged the trace without it"
    else:
        state, reason = ("failed", errors[key]) if errors[key] else ("done", "")
    moment = datetime.fromtimestamp(trace.ended / 1000, UTC)
    text = f"{trace.experiment_id}\0{judge.scorer_name}\0{trace.trace_id}"
    return {
        # As `judges.queue.row_id` makes it.
        "id": hashlib.sha256(text.encode()).hexdigest()[:32],
        "experiment_id": trace.experiment_id,
        "judge": judge.scorer_name,
        "level": "trace",
        "subject": trace.trace_id,
        "trace_id": trace.trace_id,
        "state": state,
        "reason": reason,
        "origin": "online",
        "version": judge.version,
        # Not known of what was judged before; an ask takes it for the present one of its version.
        "fingerprint": "",
        "attempts": 0,
        "verdicts": 0,
        "feedbacks": 0,
        "subject_ended_at": moment,
        "created_at": moment,
        "due_at": moment,
        "ended_at": moment,
    }
