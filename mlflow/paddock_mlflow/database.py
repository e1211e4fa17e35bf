"""Our own tables, beside MLflow's in the tracking database.

| table | a row is |
| --- | --- |
| `paddock_judgments` | what a judge has to say, or said, of a trace or a session, and why it said nothing |
| `paddock_judges` | a declared judge: what MLflow's registry can't hold of it, as what passes and code from a file |
| `paddock_judge_versions` | all that decided the verdicts of one fingerprint: prompt, settings, code |
| `paddock_keys` | a bearer key: its hash, whose it is, what it opens, what it may spend |
| `paddock_rate_limits`, `paddock_rate_buckets` | a limit a minute, and how full its bucket is |
| `paddock_calls` | a model call: who, what, its cost; in flight while `ended_at` is null |
| `paddock_budget_windows` | what the calls of one budget's window cost and reserve together |
| `paddock_alerts` | an alert that was fired |
| `paddock_usage_outbox` | the record of a call that is not a usage trace yet |
| `paddock_trace_owners` | the key that a trace belongs to, and its experiment |
| `paddock_config_version` | one row: a number that any change of the gateway's configuration raises |

Money is `Usd` everywhere, moments are `Moment`.
"""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Dialect,
    Double,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

metadata = MetaData()

DECIMAL_PLACES = 10
"""Decimal places of money: numeric(20,10)."""

_QUANTUM = Decimal(1).scaleb(-DECIMAL_PLACES)


def usd(amount: Decimal) -> Decimal:
    """An amount as the tables keep it: ten decimal places, a half rounded up."""
    return amount.quantize(_QUANTUM, ROUND_HALF_UP)


def units(amount: Decimal) -> int:
    """An amount as SQLite keeps it: a whole number of 10⁻¹⁰ USD."""
    return int(usd(amount).scaleb(DECIMAL_PLACES))


def from_units(number: int) -> Decimal:
    """The amount of what `units` made."""
    return Decimal(number).scaleb(-DECIMAL_PLACES)


class Usd(TypeDecorator[Decimal]):
    """USD: numeric(20,10) in PostgreSQL; in SQLite, which has no decimals, a whole number of 10⁻¹⁰ USD. Sums of it are
    exact in both, and come out as Decimal."""

    impl = Numeric(20, 10)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(Numeric(20, 10))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return units(value) if dialect.name == "sqlite" else usd(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None:
            return None
        return from_units(int(value)) if dialect.name == "sqlite" else Decimal(value)


class Moment(TypeDecorator[datetime]):
    """A moment: goes in with a zone and comes out in UTC. SQLite keeps text, `2026-01-31 12:00:00.000000`."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected a moment with a time zone, found {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


ListOfText = JSON().with_variant(JSONB(), "postgresql")
BigSerial = BigInteger().with_variant(Integer(), "sqlite")

judgments = Table(
    "paddock_judgments",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("experiment_id", String(32), nullable=False),
    Column("judge", String(256), nullable=False),
    Column("level", String(8), nullable=False),
    Column("subject", String(250), nullable=False),
    Column("trace_id", String(50), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("origin", String(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("endpoint", String(255), nullable=True),
    Column("attempts", Integer, nullable=False, default=0),
    Column("verdicts", Integer, nullable=False, default=0),
    Column("feedbacks", Integer, nullable=False, default=0),
    Column("cost_usd", Usd, nullable=True),
    Column("subject_ended_at", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("lease", String(32), nullable=True),
    Column("lease_until", Moment, nullable=True),
    Column("started_at", Moment, nullable=True),
    Column("ended_at", Moment, nullable=True),
    Index("ix_paddock_judgments_subject", "subject", "judge"),
    Index("ix_paddock_judgments_trace_id", "trace_id"),
    Index("ix_paddock_judgments_state", "state", "due_at"),
    Index("ix_paddock_judgments_ended", "experiment_id", "subject_ended_at"),
)
"""One row for each judge and subject: `subject` is a trace's id, or a session's, and `trace_id` the trace that the
verdict stands on, of a session its first. `id` is made of experiment, judge and subject (`judges.queue.row_id`), and the
ids of a verdict's assessments of it, of `verdicts` (how many were written) and of their number among the last one's
`feedbacks`. A row belongs to who has its `lease` until `lease_until`; `due_at` is when it may be taken. `version` and
`fingerprint` are the judge's that judged it or is to."""

keys = Table(
    "paddock_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("username", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("endpoints", ListOfText, nullable=False, default=list),
    Column("experiment_ids", ListOfText, nullable=False, default=list),
    Column("run_id", String(64), nullable=True),
    Column("budget_usd", Usd, nullable=True),
    Column("budget_unit", String(16), nullable=True),
    Column("budget_count", Integer, nullable=True),
    Column("requests_per_minute", Integer, nullable=True),
    Column("tokens_per_minute", Integer, nullable=True),
    Column("egress_allow", ListOfText, nullable=False, default=list, server_default="[]"),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(255), nullable=False),
    Column("expires_at", Moment, nullable=True),
    Column("revoked_at", Moment, nullable=True),
    Column("last_used_at", Moment, nullable=True),
    UniqueConstraint("sha256", name="uq_paddock_keys_sha256"),
)
"""A budget without a unit is for the key's whole life. An empty list of endpoints opens none. `egress_allow` is what the
egress proxy lets the key's run reach, beside its own defaults."""

rate_limits = Table(
    "paddock_rate_limits",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("scope", String(16), nullable=False),
    Column("target", String(255), nullable=False),
    Column("requests_per_minute", Integer, nullable=True),
    Column("tokens_per_minute", Integer, nullable=True),
    UniqueConstraint("scope", "target", name="uq_paddock_rate_limits_target"),
)
"""Scope `key` (target: a key's id), `user` (a user's name) or `endpoint` (an endpoint's id)."""

rate_buckets = Table(
    "paddock_rate_buckets",
    metadata,
    Column("id", String(300), primary_key=True),
    Column("requests", Double, nullable=False),
    Column("tokens", Double, nullable=False),
    Column("updated_at", Moment, nullable=False),
)
"""How much is left of a minute's requests and tokens; below zero where a call used more than it had announced."""

calls = Table(
    "paddock_calls",
    metadata,
    Column("call_id", String(64), primary_key=True),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment, nullable=True),
    Column("endpoint_id", String(36), nullable=False),
    Column("endpoint_name", String(255), nullable=False),
    Column("workspace", String(63), nullable=False),
    Column("username", String(255), nullable=False),
    Column("key_id", String(40), nullable=True),
    Column("run_id", String(64), nullable=True),
    Column("provider", String(64), nullable=False, default=""),
    Column("model", String(255), nullable=False, default=""),
    Column("outcome", String(16), nullable=False, default=""),
    Column("status", Integer, nullable=True),
    Column("attempts", Integer, nullable=False, default=0),
    Column("reserved_usd", Usd, nullable=False),
    Column("cost_usd", Usd, nullable=True),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False, default=0),
    Column("output_tokens", BigInteger, nullable=False, default=0),
    Column("cache_read_tokens", BigInteger, nullable=False, default=0),
    Column("cache_write_tokens", BigInteger, nullable=False, default=0),
    Column("reasoning_tokens", BigInteger, nullable=False, default=0),
    Column("lease_until", Moment, nullable=False),
    Index("ix_paddock_calls_started_at", "started_at"),
    Index(
        "ix_paddock_calls_key_id",
        "key_id",
        "started_at",
        postgresql_where=text("key_id IS NOT NULL"),
        sqlite_where=text("key_id IS NOT NULL"),
    ),
    Index(
        "ix_paddock_calls_in_flight",
        "lease_until",
        postgresql_where=text("ended_at IS NULL"),
        sqlite_where=text("ended_at IS NULL"),
    ),
)
"""`cost_usd` is null while a call is in flight and what was charged afterwards; `reserved_usd` stays as it was."""

budget_windows = Table(
    "paddock_budget_windows",
    metadata,
    Column("policy_id", String(48), primary_key=True),
    Column("window_start", Moment, primary_key=True),
    Column("window_end", Moment, primary_key=True),
    Column("subject", String(300), nullable=False),
    Column("spent", Usd, nullable=False),
    Column("reserved", Usd, nullable=False),
    Index("ix_paddock_budget_windows_subject", "subject"),
)
"""Of MLflow's budget policies, and of keys: `policy_id` is `key:<id>` then, and a budget for the whole life lasts from
1970 to 9999.

`subject` is whose calls count: `all`, `workspace:<name>`, `endpoint:<id>`, `user:<name>`, `key:<id>`. At every moment
`spent` is the cost of all ended calls of the subject that began in the window, and `reserved` what those in flight hold;
a row that is missing is made by adding them up.
"""

alerts = Table(
    "paddock_alerts",
    metadata,
    Column("policy_id", String(48), primary_key=True),
    Column("window_start", Moment, primary_key=True),
    Column("fired_at", Moment, nullable=False),
)

usage_outbox = Table(
    "paddock_usage_outbox",
    metadata,
    Column("id", BigSerial, primary_key=True, autoincrement=True),
    Column("experiment_id", String(32), nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("error", Text, nullable=True),
)
"""`error` says why no trace could be made of a record, which is then set aside."""

trace_owners = Table(
    "paddock_trace_owners",
    metadata,
    Column("trace_id", String(50), primary_key=True),
    Column("key_id", String(40), nullable=False),
    Column("experiment_id", String(32), nullable=False),
    Column("claimed_at", Moment, nullable=False),
)
"""`trace_id` as MLflow has it, `tr-…`."""

judges = Table(
    "paddock_judges",
    metadata,
    Column("experiment_id", String(32), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("definition", JSON, nullable=False),
    Column("version", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("sample_rate", Double, nullable=True),
    Column("filter", Text, nullable=True),
    Column("checked", String(64), nullable=False, default=""),
    Column("problem", Text, nullable=False, default=""),
    Column("updated_at", Moment, nullable=False),
)
"""`definition` is a `paddock_mlflow.judges.definition.Definition`. Rate and filter are of judges that MLflow refuses to
sample by itself. `checked` is the fingerprint of the code that was loaded, `problem` why it could not be."""

judge_versions = Table(
    "paddock_judge_versions",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("experiment_id", String(32), primary_key=True),
    Column("name", String(256), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("content", JSON, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index("ix_paddock_judge_versions_name", "experiment_id", "name"),
)

config_version = Table(
    "paddock_config_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)


def now() -> datetime:
    return datetime.now(UTC)


def raise_config_version(connection: Connection) -> None:
    """Make every server read endpoints, models and prices anew before its next call.

    Triggers do it for MLflow's tables; this is for what lies elsewhere, as a price file.
    """
    connection.execute(config_version.update().values(version=config_version.c.version + 1))


@cache
def engine(url: str) -> Engine:
    """A small pool for our own tables, apart from MLflow's."""
    if url.startswith("sqlite"):
        return create_engine(url, connect_args={"timeout": 30})
    return create_engine(
        url, pool_size=4, max_overflow=4, pool_pre_ping=True, connect_args={"connect_timeout": 5}
    )
