"""The ledger in SQLite, for the embedded stack: what functions.sql does, in Python under `BEGIN IMMEDIATE`.

One writer at a time makes every question a transaction that nobody else comes between, also over several processes.
Money is whole numbers of 10⁻¹⁰ USD here, and moments are text that sorts (`database.Usd`, `database.Moment`).
"""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import floor, inf
from typing import Any

from sqlalchemy import make_url

from paddock_mlflow.database import from_units, units
from paddock_mlflow.ledger.errors import LedgerUnavailable
from paddock_mlflow.ledger.settlements import Settlements
from paddock_mlflow.ledger.types import (
    Admission,
    Admitted,
    KeyCredential,
    Outcome,
    Refused,
    Settlement,
    StaleConfiguration,
    Usage,
    UserCredential,
)
from paddock_mlflow.ledger.verdicts import Verdict, answer, refusal
from paddock_mlflow.ledger.windows import bounds

BUSY_SECONDS = 30.0
CLOSE_SECONDS = 10.0
A_DAY = 86400.0
_MOMENT = "%Y-%m-%d %H:%M:%S.%f"
_COVERS = "subject IN ({}) AND window_start <= ? AND window_end > ?"
_EXPIRED = Outcome.EXPIRED.value


@dataclass(frozen=True)
class _Policy:
    policy_id: str
    subject: str
    amount: int
    rejects: bool
    unit: str | None
    count: int
    start: datetime
    end: datetime


@dataclass(frozen=True)
class _Rate:
    bucket_id: str
    subject: str
    requests: int | None
    tokens: int | None


class SqliteLedger:
    """See `ledger.types.Ledger`. The file is read and written in a thread of its own.

    Args:
        url: SQLAlchemy's URL of the tracking database.
    """

    def __init__(self, url: str) -> None:
        self.book = Book(url)
        self._thread = ThreadPoolExecutor(1, "paddock-ledger")
        self._settlements = Settlements(self._write)

    async def admit(self, admission: Admission) -> Admitted | Refused | StaleConfiguration:
        try:
            verdict = await self._run(self.book.admit, admission)
        except BaseException:
            # Cancelled while the thread went on: give back what it may have reserved.
            self._settlements.add_later(
                Settlement(admission.call_id, Outcome.ERROR, Decimal(0), status=503, attempts=0)
            )
            raise
        return answer(verdict, admission)

    async def extend(self, call_id: str, amount: Decimal) -> Refused | None:
        return await self._run(self.book.extend, call_id, amount)

    async def settle(self, settlement: Settlement) -> None:
        await self._settlements.add(settlement)

    async def note(self, experiment_id: str, record: bytes) -> None:
        await self._run(self.book.note, experiment_id, record)

    async def config_version(self) -> int:
        return await self._run(self.book.config_version)

    async def expire(self) -> int:
        """Charge calls whose lease has run out their bound; returns how many there were."""
        return await self._run(self.book.expire)

    async def close(self) -> None:
        await self._settlements.close(CLOSE_SECONDS)
        await self._run(self.book.close)
        self._thread.shutdown()

    async def _write(self, batch: Sequence[Settlement]) -> None:
        await self._run(self.book.settle, batch)

    async def _run[**P, T](self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class Book:
    """The questions themselves, each one transaction. Used by one thread at a time."""

    def __init__(self, url: str) -> None:
        self._path = make_url(url).database or ""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def admit(self, admission: Admission) -> Verdict:
        """May a call be made? If so its bound is reserved and its rates are taken; if not, nothing is changed."""
        with self._transaction() as database:
            verdict = self._admit(database, admission)
            if verdict.verdict == "budget_reserved" and self._expire(database):
                # Calls of a dead server stood in the way.
                verdict = self._admit(database, admission)
            return verdict

    def extend(self, call_id: str, amount: Decimal) -> Refused | None:
        """Reserve more for a call in flight."""
        with self._transaction() as database:
            call = database.execute("SELECT * FROM paddock_calls WHERE call_id = ?", [call_id]).fetchone()
            if call is None or call["ended_at"] is not None:
                return refusal(Verdict("gone"), "")
            now, started, extra = datetime.now(UTC), _moment(call["started_at"]), units(amount)
            subjects = _subjects(call)
            for policy in _policies(database, subjects, started):
                window = _window(database, policy)
                if window is None or not policy.rejects:
                    continue
                if refused := _judge(policy, window, extra):
                    refused.moment, refused.username, refused.key_id = now, call["username"], call["key_id"]
                    return refusal(refused, call["endpoint_name"])
            _move(database, subjects, started, spent=0, reserved=extra)
            database.execute(
                "UPDATE paddock_calls SET reserved_usd = reserved_usd + ? WHERE call_id = ?", [extra, call_id]
            )
            return None

    def settle(self, batch: Sequence[Settlement]) -> int:
        """End calls; returns how many were in flight, or charged for a lease that had run out."""
        with self._transaction() as database:
            return self._settle(database, batch)

    def expire(self) -> int:
        """Charge calls whose lease has run out their bound; returns how many there were."""
        with self._transaction() as database:
            return self._expire(database)

    def forget_windows(self) -> int:
        """Drop windows that ended a day ago; returns how many there were."""
        with self._transaction() as database:
            limit = _text(datetime.now(UTC) - timedelta(days=1))
            return database.execute(
                "DELETE FROM paddock_budget_windows WHERE window_end < ?", [limit]
            ).rowcount

    def note(self, experiment_id: str, record: bytes) -> None:
        """Put a record into the outbox."""
        with self._transaction() as database:
            _into_outbox(database, experiment_id, record, datetime.now(UTC))

    def config_version(self) -> int:
        """The version of the gateway's configuration."""
        with self._transaction() as database:
            return int(database.execute("SELECT version FROM paddock_config_version").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.rollback()
                    raise
                self._connection.commit()
            except sqlite3.OperationalError as error:
                raise LedgerUnavailable(
                    f"expected to read and write {self._path}, found: {error};"
                    " look whether the file and its folder are there, and who else holds it"
                ) from error

    def _connect(self) -> sqlite3.Connection:
        # `mode=rw`: a file that is missing is an error, not a new and empty one.
        made = sqlite3.connect(
            f"file:{self._path}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        made.row_factory = sqlite3.Row
        # Readers and the writer don't wait for each other then, and a commit is one write, which outlives the process.
        # Where the file system can't do it, or somebody is in the middle of a write, it stays as it was.
        with suppress(sqlite3.OperationalError):
            made.execute("PRAGMA journal_mode = WAL")
        (mode,) = made.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            made.execute("PRAGMA synchronous = NORMAL")
        return made

    def _admit(self, database: sqlite3.Connection, admission: Admission) -> Verdict:
        now = datetime.now(UTC)
        row = database.execute(
            "SELECT c.version, e.workspace FROM paddock_config_version c"
            " LEFT JOIN endpoints e ON e.endpoint_id = ?",
            [admission.endpoint_id],
        ).fetchone()
        if row["version"] != admission.config_version:
            return Verdict("stale", version=row["version"])
        workspace = row["workspace"] or "default"
        key, verdict = _credential(database, admission, now)
        if verdict.verdict:
            return verdict
        if admission.bound is None or admission.unpriced:
            verdict.verdict = "unpriced_model"
            return verdict

        call = {
            "endpoint_id": admission.endpoint_id,
            "workspace": workspace,
            "username": verdict.username,
            "key_id": verdict.key_id,
        }
        levels: list[tuple[float, float, str]] = []
        for rate in _rates(database, call):
            requests, tokens = _level(database, rate, now)
            needs = min(admission.tokens, rate.tokens) if rate.tokens is not None else 0
            for reason, has, need, a_minute in (
                ("request_rate", requests, 1, rate.requests),
                ("token_rate", tokens, max(needs, 1), rate.tokens),
            ):
                if a_minute is not None and has < need:
                    wait = (need - has) * 60 / a_minute if a_minute else A_DAY
                    if verdict.retry_after is None or wait > verdict.retry_after:
                        verdict.verdict, verdict.retry_after, verdict.subject = reason, wait, rate.subject
                        verdict.amount, verdict.remaining = Decimal(a_minute), Decimal(max(floor(has), 0))
            levels.append((requests - 1, tokens - needs, rate.bucket_id))
        if verdict.verdict:
            return verdict

        bound, subjects = units(admission.bound), _subjects(call)
        refused = self._budgets(database, subjects, bound, now, verdict)
        if refused is not None:
            return refused

        for requests, tokens, bucket_id in levels:
            _keep_level(database, bucket_id, requests, tokens, now)
        _move(database, subjects, now, spent=0, reserved=bound)
        database.execute(
            "INSERT INTO paddock_calls (call_id, started_at, endpoint_id, endpoint_name, workspace, username, key_id,"
            " run_id, reserved_usd, reserved_tokens, lease_until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                admission.call_id,
                _text(now),
                admission.endpoint_id,
                admission.endpoint_name,
                workspace,
                verdict.username,
                verdict.key_id,
                verdict.run_id,
                bound,
                admission.tokens,
                _text(now + timedelta(seconds=admission.lease_seconds)),
            ],
        )
        last = key and key["last_used_at"]
        if key is not None and (last is None or _moment(last) < now - timedelta(minutes=1)):
            database.execute("UPDATE paddock_keys SET last_used_at = ? WHERE id = ?", [_text(now), key["id"]])
        verdict.verdict = "admitted"
        return verdict

    def _budgets(
        self, database: sqlite3.Connection, subjects: list[str], bound: int, now: datetime, admitted: Verdict
    ) -> Verdict | None:
        worst: Verdict | None = None
        for policy in _policies(database, subjects, now):
            window = _window(database, policy) or _open_window(database, policy)
            if not policy.rejects:
                continue
            if refused := _judge(policy, window, bound):
                refused.username, refused.key_id, refused.moment = admitted.username, admitted.key_id, now
                if worst is None or _gravity(refused) > _gravity(worst):
                    worst = refused
            else:
                left = from_units(policy.amount - window["spent"] - window["reserved"] - bound)
                admitted.remaining = left if admitted.remaining is None else min(admitted.remaining, left)
        return worst

    def _settle(self, database: sqlite3.Connection, batch: Sequence[Settlement]) -> int:
        settled = 0
        for one in batch:
            now = datetime.now(UTC)
            call = database.execute("SELECT * FROM paddock_calls WHERE call_id = ?", [one.call_id]).fetchone()
            if call is None or (call["ended_at"] is not None and call["outcome"] != _EXPIRED):
                continue
            if call["ended_at"] is not None and one.outcome == _EXPIRED:
                continue
            cost = call["reserved_usd"] if one.cost is None else units(one.cost)
            usage = one.usage
            database.execute(
                "UPDATE paddock_calls SET ended_at = ?, outcome = ?, cost_usd = ?, provider = ?, model = ?, status = ?,"
                " attempts = ?, input_tokens = ?, output_tokens = ?, cache_read_tokens = ?, cache_write_tokens = ?,"
                " reasoning_tokens = ? WHERE call_id = ?",
                [
                    _text(now),
                    one.outcome.value,
                    cost,
                    one.provider[:64],
                    one.model[:255],
                    one.status if one.outcome != _EXPIRED else None,
                    one.attempts,
                    usage.input,
                    usage.output,
                    usage.cache_read,
                    usage.cache_write,
                    usage.reasoning,
                    one.call_id,
                ],
            )
            _move(
                database,
                _subjects(call),
                _moment(call["started_at"]),
                spent=cost - (call["cost_usd"] or 0),
                reserved=0 if call["ended_at"] is not None else -call["reserved_usd"],
            )
            if one.cost is not None:
                _correct_rates(database, call, usage, now)
            if one.record is not None:
                _into_outbox(database, one.experiment_id, one.record, now)
            settled += 1
        return settled

    def _expire(self, database: sqlite3.Connection) -> int:
        rows = database.execute(
            "SELECT call_id FROM paddock_calls WHERE ended_at IS NULL AND lease_until < ?",
            [_text(datetime.now(UTC))],
        ).fetchall()
        return self._settle(database, [Settlement(row["call_id"], Outcome.EXPIRED, None) for row in rows])


def _credential(
    database: sqlite3.Connection, admission: Admission, now: datetime
) -> tuple[sqlite3.Row | None, Verdict]:
    """The key's row, and a verdict that is empty where the caller is whom it says."""
    credential = admission.credential
    if isinstance(credential, UserCredential):
        return None, Verdict("", username=credential.username)
    assert isinstance(credential, KeyCredential)
    key = database.execute("SELECT * FROM paddock_keys WHERE sha256 = ?", [credential.sha256]).fetchone()
    if key is None:
        return None, Verdict("unknown_key")
    verdict = Verdict("", username=key["username"], key_id=key["id"], run_id=key["run_id"])
    if key["run_id"] is not None and not credential.opens_run_keys:
        verdict.verdict = "run_key_elsewhere"
    elif key["revoked_at"] is not None:
        verdict.verdict, verdict.moment = "revoked_key", _moment(key["revoked_at"])
    elif key["expires_at"] is not None and _moment(key["expires_at"]) <= now:
        verdict.verdict, verdict.moment = "expired_key", _moment(key["expires_at"])
    elif admission.endpoint_name not in json.loads(key["endpoints"]):
        verdict.verdict = "forbidden_endpoint"
    return key, verdict


def _subjects(call: Any) -> list[str]:
    """Whose budgets a call counts in."""
    found = [
        "all",
        f"workspace:{call['workspace']}",
        f"endpoint:{call['endpoint_id']}",
        f"user:{call['username']}",
    ]
    return [*found, f"key:{call['key_id']}"] if call["key_id"] else found


def _policies(database: sqlite3.Connection, subjects: list[str], at: datetime) -> list[_Policy]:
    """The budgets in force for these subjects, and the key's own."""
    scopes = {"GLOBAL": "all", "WORKSPACE": "workspace:", "ENDPOINT": "endpoint:", "USER": "user:"}
    found = []
    for row in database.execute("SELECT * FROM budget_policies ORDER BY budget_policy_id"):
        scope = row["target_scope"]
        target = {"GLOBAL": "", "WORKSPACE": row["workspace"]}.get(scope, row["target_value"])
        subject = f"{scopes[scope]}{target}"
        if target is not None and subject in subjects:
            start, end = bounds(row["duration_unit"], row["duration_value"], at)
            amount = units(Decimal(repr(row["budget_amount"])))
            rejects = row["budget_action"] == "REJECT"
            found.append(
                _Policy(
                    row["budget_policy_id"],
                    subject,
                    amount,
                    rejects,
                    row["duration_unit"],
                    row["duration_value"],
                    start,
                    end,
                )
            )
    key = subjects[4].removeprefix("key:") if len(subjects) > 4 else None
    row = database.execute(
        "SELECT * FROM paddock_keys WHERE id = ? AND budget_usd IS NOT NULL", [key]
    ).fetchone()
    if row is not None:
        count = row["budget_count"] or 1
        start, end = bounds(row["budget_unit"], count, at)
        subject = f"key:{key}"
        found.append(
            _Policy(subject, subject, row["budget_usd"], True, row["budget_unit"], count, start, end)
        )
    return found


def _window(database: sqlite3.Connection, policy: _Policy) -> sqlite3.Row | None:
    return database.execute(
        "SELECT spent, reserved FROM paddock_budget_windows"
        " WHERE policy_id = ? AND window_start = ? AND window_end = ? AND subject = ?",
        [policy.policy_id, _text(policy.start), _text(policy.end), policy.subject],
    ).fetchone()


def _open_window(database: sqlite3.Connection, policy: _Policy) -> sqlite3.Row:
    """A new window, with what was spent and is reserved already."""
    kind, _, target = policy.subject.partition(":")
    column = {
        "all": "''",
        "workspace": "workspace",
        "endpoint": "endpoint_id",
        "user": "username",
        "key": "key_id",
    }
    database.execute(
        "INSERT OR REPLACE INTO paddock_budget_windows (policy_id, window_start, window_end, subject, spent, reserved)"
        " SELECT ?, ?, ?, ?, coalesce(sum(cost_usd), 0), coalesce(sum(reserved_usd) FILTER (WHERE ended_at IS NULL), 0)"
        f" FROM paddock_calls WHERE {column[kind]} = ? AND started_at >= ? AND started_at < ?",
        [
            policy.policy_id,
            _text(policy.start),
            _text(policy.end),
            policy.subject,
            target,
            _text(policy.start),
            _text(policy.end),
        ],
    )
    made = _window(database, policy)
    assert made is not None
    return made


def _judge(policy: _Policy, window: sqlite3.Row, bound: int) -> Verdict | None:
    """Why a policy refuses a bound, or None."""
    left = policy.amount - window["spent"] - window["reserved"]
    if left >= bound:
        return None
    return Verdict(
        "budget_exceeded" if policy.amount - window["spent"] < bound else "budget_reserved",
        subject=policy.subject,
        amount=from_units(policy.amount),
        remaining=from_units(max(left, 0)),
        unit=policy.unit,
        count=policy.count,
        resets_at=policy.end,
    )


def _gravity(refused: Verdict) -> tuple[bool, datetime | None]:
    return refused.verdict == "budget_exceeded", refused.resets_at


def _move(
    database: sqlite3.Connection, subjects: list[str], started: datetime, *, spent: int, reserved: int
) -> None:
    """Add to every window that a call counts in."""
    covers = _COVERS.format(", ".join("?" * len(subjects)))
    database.execute(
        f"UPDATE paddock_budget_windows SET spent = spent + ?, reserved = reserved + ? WHERE {covers}",
        [spent, reserved, *subjects, _text(started), _text(started)],
    )


def _rates(database: sqlite3.Connection, call: Any) -> list[_Rate]:
    """The limits a minute that a call counts in."""
    found = [
        _Rate(
            f"limit:{row['id']}",
            f"{row['scope']}:{row['target']}",
            row["requests_per_minute"],
            row["tokens_per_minute"],
        )
        for row in database.execute(
            "SELECT * FROM paddock_rate_limits"
            " WHERE (scope, target) IN (VALUES ('endpoint', ?), ('user', ?), ('key', ?))",
            [call["endpoint_id"], call["username"], call["key_id"]],
        )
    ]
    key = database.execute("SELECT * FROM paddock_keys WHERE id = ?", [call["key_id"]]).fetchone()
    if key is not None and (key["requests_per_minute"], key["tokens_per_minute"]) != (None, None):
        subject = f"key:{key['id']}"
        found.append(_Rate(subject, subject, key["requests_per_minute"], key["tokens_per_minute"]))
    return found


def _level(database: sqlite3.Connection, rate: _Rate, now: datetime) -> tuple[float, float]:
    """How full a bucket is that holds a minute's worth and is refilled evenly; without a limit it is always full."""
    row = database.execute("SELECT * FROM paddock_rate_buckets WHERE id = ?", [rate.bucket_id]).fetchone()
    seconds = max((now - _moment(row["updated_at"])).total_seconds(), 0.0) if row else 0.0

    def level(a_minute: int | None, kept: float) -> float:
        return inf if a_minute is None else min(float(a_minute), kept + a_minute / 60 * seconds)

    if row is None:
        return level(rate.requests, inf), level(rate.tokens, inf)
    return level(rate.requests, row["requests"]), level(rate.tokens, row["tokens"])


def _keep_level(
    database: sqlite3.Connection, bucket_id: str, requests: float, tokens: float, now: datetime
) -> None:
    database.execute(
        "INSERT OR REPLACE INTO paddock_rate_buckets (id, requests, tokens, updated_at) VALUES (?, ?, ?, ?)",
        [bucket_id, requests, tokens, _text(now)],
    )


def _correct_rates(database: sqlite3.Connection, call: sqlite3.Row, usage: Usage, now: datetime) -> None:
    """The announced tokens become the real ones."""
    for rate in _rates(database, call):
        if rate.tokens is not None:
            requests, tokens = _level(database, rate, now)
            tokens += min(call["reserved_tokens"], rate.tokens) - usage.input - usage.output
            _keep_level(database, rate.bucket_id, requests, min(tokens, float(rate.tokens)), now)


def _into_outbox(database: sqlite3.Connection, experiment_id: str, record: bytes, now: datetime) -> None:
    database.execute(
        "INSERT INTO paddock_usage_outbox (experiment_id, record, created_at) VALUES (?, ?, ?)",
        [experiment_id, record, _text(now)],
    )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_MOMENT)


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _MOMENT).replace(tzinfo=UTC)
