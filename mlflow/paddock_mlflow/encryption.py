"""The passphrases that the gateway's secrets are encrypted with: which one is in force, and a change to a new one.

Every passphrase is a file of its own, which is never written again: `kek_passphrase` is version 1, `kek_passphrase_2`
version 2, and so on. Which one is in force is said by the database, where every secret carries the version that wraps its
key. So a change is one transaction, and it may be cut off anywhere: before it, the new file is there and unused, after it
every start takes the new one. MLflow's own `crypto rotate-kek` leaves passphrase and version to be written down by hand,
at the moment in between.

Webhooks sign with secrets that MLflow encrypts by a key of its own, and where none is set by a new one in each process,
so that no other process, and no later start, can read them; theirs comes from the stack's internal token.
"""

import base64
import hashlib
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from paddock_mlflow.database import engine
from paddock_mlflow.errors import SettingsError, SetupError
from paddock_mlflow.settings import Settings, secrets_folder

_logger = logging.getLogger(__name__)

FIRST = "kek_passphrase"
_LATER = re.compile(rf"{FIRST}_([1-9][0-9]*)")


@dataclass(frozen=True)
class Passphrase:
    """A passphrase with its version, as MLflow counts them."""

    version: int
    text: str = field(repr=False)


def in_force(settings: Settings) -> Passphrase:
    """The passphrase that the stored secrets are encrypted with; the newest one where there are none yet.

    Raises:
        SettingsError: the database names a version whose file is missing.
    """
    known = _known(settings)
    with engine(settings.tracking_database).connect() as connection:
        versions = _versions(connection)
    version = max(versions, default=max(known))
    if version not in known:
        raise SettingsError(
            f"expected the passphrase of version {version}, which the stored secrets are encrypted with, found"
            f" {', '.join(map(str, sorted(known))) or 'none'}; restore the file {_file(version)} of the secrets volume"
            " from the backup that belongs to this database"
        )
    return Passphrase(version, known[version])


def rotate(settings: Settings) -> tuple[int, int]:
    """Wrap every secret's key with the newest passphrase, in one transaction. No server may run meanwhile: it would go on
    with the old passphrase.

    Returns:
        The version in force now, and how many secrets changed.

    Raises:
        SettingsError: there is no newer passphrase than the one in force, or one that a secret needs is missing.
        SetupError: a secret can't be decrypted; nothing was changed.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.crypto import KEKManager, rotate_secret_encryption

    known = _known(settings)
    newest = max(known, default=0)
    managers: dict[int, KEKManager] = {}

    def manager(version: int) -> KEKManager:
        if version not in known:
            raise SettingsError(
                f"expected the passphrase of version {version}, found none; restore the file {_file(version)} of the"
                " secrets volume"
            )
        return managers.setdefault(version, KEKManager(known[version], version))

    changed = 0
    with engine(settings.tracking_database).begin() as connection:
        rows = connection.execute(
            text("SELECT secret_id, secret_name, encrypted_value, wrapped_dek, kek_version FROM secrets")
        ).all()
        if (
            rows
            and newest <= max(row.kek_version for row in rows)
            and len({row.kek_version for row in rows}) == 1
        ):
            raise SettingsError(
                f"expected a newer passphrase than version {newest}, found none; make one by ./paddock config rotate-key"
                " (docker compose run --rm secrets rotate-key)"
            )
        for row in rows:
            if row.kek_version == newest:
                continue
            try:
                wrapped = rotate_secret_encryption(
                    bytes(row.encrypted_value),
                    bytes(row.wrapped_dek),
                    manager(row.kek_version),
                    manager(newest),
                ).wrapped_dek
            except MlflowException as error:
                raise SetupError(
                    f"expected the secret {row.secret_name} to be encrypted with passphrase {row.kek_version}, found that"
                    f" it is not ({error.message}); nothing was changed: write that secret anew (config rotate-secret)"
                    " or delete it, then try again"
                ) from None
            connection.execute(
                text(
                    "UPDATE secrets SET wrapped_dek = :wrapped, kek_version = :version WHERE secret_id = :id"
                ),
                {"wrapped": wrapped, "version": newest, "id": row.secret_id},
            )
            changed += 1
    _logger.info("%d secret(s) are encrypted with passphrase %d now", changed, newest)
    return newest, changed


def webhook_key(internal_token: str) -> str:
    """The key of webhooks' secrets (Fernet: 32 bytes, base64url), the same in every process of the stack."""
    digest = hashlib.sha256(b"paddock webhooks|" + internal_token.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()


def _known(settings: Settings) -> dict[int, str]:
    """Every passphrase by its version."""
    found = {1: settings.secret(FIRST)}
    for path in Path(secrets_folder()).glob(f"{FIRST}_*"):
        if match := _LATER.fullmatch(path.name):
            found[int(match[1])] = path.read_text()
    return found


def _versions(connection: Connection) -> set[int]:
    try:
        return set(connection.execute(text("SELECT DISTINCT kek_version FROM secrets")).scalars())
    except (OperationalError, ProgrammingError) as error:
        # The table is made by the migration, before which there are no secrets.
        if "secrets" not in str(error):
            raise
        return set()


def _file(version: int) -> str:
    return FIRST if version == 1 else f"{FIRST}_{version}"
