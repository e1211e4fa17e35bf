"""Declared judges, and what decided each verdict."""

import sqlalchemy as sa
from alembic import op

from paddock_mlflow.database import Moment

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "paddock_judges",
        sa.Column("experiment_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("sample_rate", sa.Double, nullable=True),
        sa.Column("filter", sa.Text, nullable=True),
        sa.Column("checked", sa.String(64), nullable=False, server_default=""),
        sa.Column("problem", sa.Text, nullable=False, server_default=""),
        sa.Column("updated_at", Moment, nullable=False),
    )
    op.create_table(
        "paddock_judge_versions",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("experiment_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
    )
    op.create_index("ix_paddock_judge_versions_name", "paddock_judge_versions", ["experiment_id", "name"])


def downgrade() -> None:
    op.drop_table("paddock_judge_versions")
    op.drop_table("paddock_judges")
