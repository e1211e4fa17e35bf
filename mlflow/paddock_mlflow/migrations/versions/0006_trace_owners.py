"""The key that each trace belongs to."""

import sqlalchemy as sa
from alembic import op

from paddock_mlflow.database import Moment

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "paddock_trace_owners",
        sa.Column("trace_id", sa.String(50), primary_key=True),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("experiment_id", sa.String(32), nullable=False),
        sa.Column("claimed_at", Moment, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("paddock_trace_owners")
