"""Declared prices of reasoning, and of what is written to a cache for an hour."""

import sqlalchemy as sa
from alembic import op

from paddock_mlflow.database import Usd

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("cache_write_1h", "reasoning"):
        op.add_column("paddock_prices", sa.Column(name, Usd))


def downgrade() -> None:
    for name in ("cache_write_1h", "reasoning"):
        op.drop_column("paddock_prices", name)
