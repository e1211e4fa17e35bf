"""Keys, rate limits, the ledger of calls and budgets, the outbox of usage traces, the configuration's version."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from paddock_mlflow.database import Moment, Usd

revision = "0002"
down_revision = "0001"

LIST = sa.JSON().with_variant(JSONB(), "postgresql")
BIG_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Rows that change with every call: room for the next versions on the same page, so that no index changes.
HOT = {
    "postgresql_with": {
        "fillfactor": 20,
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 1000,
    }
}

# A queue: all that comes goes again, and what is dead stands in the way of the next look.
QUEUE = {"postgresql_with": {"autovacuum_vacuum_scale_factor": 0, "autovacuum_vacuum_threshold": 1000}}


def upgrade() -> None:
    op.create_table(
        "paddock_keys",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("username", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("endpoints", LIST, nullable=False),
        sa.Column("experiment_ids", LIST, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("budget_usd", Usd),
        sa.Column("budget_unit", sa.String(16)),
        sa.Column("budget_count", sa.Integer),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.Integer),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("expires_at", Moment),
        sa.Column("revoked_at", Moment),
        sa.Column("last_used_at", Moment),
        sa.UniqueConstraint("sha256", name="uq_paddock_keys_sha256"),
    )
    op.create_table(
        "paddock_rate_limits",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.Integer),
        sa.UniqueConstraint("scope", "target", name="uq_paddock_rate_limits_target"),
    )
    op.create_table(
        "paddock_rate_buckets",
        sa.Column("id", sa.String(300), primary_key=True),
        sa.Column("requests", sa.Double, nullable=False),
        sa.Column("tokens", sa.Double, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        **HOT,
    )
    op.create_table(
        "paddock_calls",
        sa.Column("call_id", sa.String(64), primary_key=True),
        sa.Column("started_at", Moment, nullable=False),
        sa.Column("ended_at", Moment),
        sa.Column("endpoint_id", sa.String(36), nullable=False),
        sa.Column("endpoint_name", sa.String(255), nullable=False),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("username", sa.String(255), nullable=False),
        sa.Column("key_id", sa.String(40)),
        sa.Column("run_id", sa.String(64)),
        sa.Column("provider", sa.String(64), nullable=False, server_default=""),
        sa.Column("model", sa.String(255), nullable=False, server_default=""),
        sa.Column("outcome", sa.String(16), nullable=False, server_default=""),
        sa.Column("status", sa.Integer),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("reserved_usd", Usd, nullable=False),
        sa.Column("cost_usd", Usd),
        sa.Column("reserved_tokens", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("lease_until", Moment, nullable=False),
    )
    op.create_index("ix_paddock_calls_started_at", "paddock_calls", ["started_at"])
    op.create_index(
        "ix_paddock_calls_key_id",
        "paddock_calls",
        ["key_id", "started_at"],
        postgresql_where=sa.text("key_id IS NOT NULL"),
        sqlite_where=sa.text("key_id IS NOT NULL"),
    )
    op.create_index(
        "ix_paddock_calls_in_flight",
        "paddock_calls",
        ["lease_until"],
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "paddock_budget_windows",
        sa.Column("policy_id", sa.String(48), primary_key=True),
        sa.Column("window_start", Moment, primary_key=True),
        sa.Column("window_end", Moment, primary_key=True),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("spent", Usd, nullable=False),
        sa.Column("reserved", Usd, nullable=False),
        **HOT,
    )
    op.create_index("ix_paddock_budget_windows_subject", "paddock_budget_windows", ["subject"])
    op.create_table(
        "paddock_alerts",
        sa.Column("policy_id", sa.String(48), primary_key=True),
        sa.Column("window_start", Moment, primary_key=True),
        sa.Column("fired_at", Moment, nullable=False),
    )
    op.create_table(
        "paddock_usage_outbox",
        sa.Column("id", BIG_SERIAL, primary_key=True, autoincrement=True),
        sa.Column("experiment_id", sa.String(32), nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("error", sa.Text),
        **QUEUE,
    )
    version = op.create_table(
        "paddock_config_version",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        **HOT,
    )
    op.bulk_insert(version, [{"id": 1, "version": 1}])


def downgrade() -> None:
    for table in (
        "config_version",
        "usage_outbox",
        "alerts",
        "budget_windows",
        "calls",
        "rate_buckets",
        "rate_limits",
        "keys",
    ):
        op.drop_table(f"paddock_{table}")
