"""Bearer keys: their text, and what the database knows of them.

A key is 256 random bits, so its SHA-256 says nothing about it and needs no slow hash; nothing else of it is stored.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from paddock_mlflow.database import keys, now

PREFIX = "pdk_"
"""By it a key is told from a provider's own, also by the gate and by scanners of leaked secrets."""

PREFIXES = (PREFIX, "pdk-")
"""The stack's own key has the second: the gate passes on what has the first."""

STACK_KEY_ID = "pk_stack"
"""The key that the stack itself has: the gate's identity, and what `./paddock env` prints."""

_LISTS = ("endpoints", "experiment_ids", "egress_allow")


@dataclass(frozen=True)
class Key:
    """A row of `paddock_keys`, without its hash. A budget (USD) without a unit is for the key's whole life."""

    id: str
    username: str
    name: str
    endpoints: tuple[str, ...]
    experiment_ids: tuple[str, ...]
    run_id: str | None
    budget_usd: Decimal | None
    budget_unit: str | None
    budget_count: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    egress_allow: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def state(self, at: datetime | None = None) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= (at or now()):
            return "expired"
        return "active"


def generate() -> str:
    """The text of a new key."""
    return PREFIX + secrets.token_urlsafe(32)


def new_id() -> str:
    """The name of a new key, by which people speak of it."""
    return f"pk_{secrets.token_hex(6)}"


def digest(key: str) -> bytes:
    """What is stored of a key: its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def find(connection: Connection, sha256: bytes) -> Key | None:
    """The key of that hash, valid or not; None where there is none. One indexed query."""
    row = connection.execute(select(*_columns()).where(keys.c.sha256 == sha256)).mappings().first()
    return _key(row) if row is not None else None


def by_id(connection: Connection, identifier: str) -> Key | None:
    """The key of that name; None where there is none."""
    row = connection.execute(select(*_columns()).where(keys.c.id == identifier)).mappings().first()
    return _key(row) if row is not None else None


def every(connection: Connection) -> list[Key]:
    """All keys, the oldest first."""
    rows = connection.execute(select(*_columns()).order_by(keys.c.created_at, keys.c.id)).mappings()
    return [_key(row) for row in rows]


def add(connection: Connection, sha256: bytes, key: Key) -> None:
    """Store a key."""
    connection.execute(keys.insert().values(sha256=sha256, **_values(key)))


def open_endpoints(connection: Connection, identifier: str, endpoints: list[str]) -> None:
    """The key may call these endpoints from now on, by name, and no others."""
    connection.execute(keys.update().where(keys.c.id == identifier).values(endpoints=endpoints))


def revoke(connection: Connection, identifier: str) -> None:
    """From now on the key opens nothing; the moment of an earlier revocation stays."""
    connection.execute(
        keys.update().where(keys.c.id == identifier, keys.c.revoked_at.is_(None)).values(revoked_at=now())
    )


def revoke_of_user(connection: Connection, username: str) -> None:
    """Revoke every key of a user."""
    connection.execute(
        keys.update().where(keys.c.username == username, keys.c.revoked_at.is_(None)).values(revoked_at=now())
    )


def put_stack_key(connection: Connection, sha256: bytes, key: Key) -> None:
    """Store the stack's own key, or bring its row up to date; what it opened before is replaced."""
    values = _values(key)
    opens = {name: values[name] for name in ("username", "endpoints", "experiment_ids")}
    changed = connection.execute(
        keys.update().where(keys.c.id == key.id).values(sha256=sha256, **opens)
    ).rowcount
    if not changed:
        add(connection, sha256, key)


def _columns() -> list[Any]:
    return [keys.c[name] for name in Key.__dataclass_fields__]


def _key(row: RowMapping) -> Key:
    values = dict(row)
    return Key(**values | {name: tuple(values[name]) for name in _LISTS})


def _values(key: Key) -> dict[str, Any]:
    values = {name: getattr(key, name) for name in Key.__dataclass_fields__}
    return values | {name: list(values[name]) for name in _LISTS}
