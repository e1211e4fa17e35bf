"""What a run may reach through the egress proxy."""

import sqlalchemy as sa
from alembic import op

from paddock_mlflow.database import ListOfText

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("paddock_keys", sa.Column("egress_allow", ListOfText, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("paddock_keys", "egress_allow")
