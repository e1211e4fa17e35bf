"""Which finished traces were handed to the judges."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "paddock_judged_traces",
        sa.Column("trace_id", sa.String(50), primary_key=True),
        sa.Column("experiment_id", sa.String(32), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.String(50)),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_index("ix_paddock_judged_traces_taken_at", "paddock_judged_traces", ["taken_at"])


def downgrade() -> None:
    op.drop_table("paddock_judged_traces")
