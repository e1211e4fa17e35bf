"""Prices that the declared configuration names."""

import sqlalchemy as sa
from alembic import op

from paddock_mlflow.database import Usd

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "paddock_prices",
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(200), primary_key=True),
        sa.Column("input", Usd, nullable=False),
        sa.Column("output", Usd, nullable=False),
        sa.Column("cache_read", Usd),
        sa.Column("cache_write", Usd),
    )


def downgrade() -> None:
    op.drop_table("paddock_prices")
