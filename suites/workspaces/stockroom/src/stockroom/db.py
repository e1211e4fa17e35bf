"""The database file and its migrations."""

import re
import sqlite3
from pathlib import Path

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def connect(path: Path) -> sqlite3.Connection:
    """A connection that checks foreign keys and waits for others for ten seconds."""
    connection = sqlite3.connect(path, timeout=10)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def migrate(connection: sqlite3.Connection, folder: Path = MIGRATIONS) -> list[str]:
    """Runs the migrations that have not been run yet; their names."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT PRIMARY KEY)")
    done = {row["name"] for row in connection.execute("SELECT name FROM schema_migrations")}
    run = []
    for file in sorted(folder.glob("*.sql")):
        if not re.match(r"\d{4}_", file.name) or file.stem in done:
            continue
        # executescript commits what is open, so the transaction has to stand in the script.
        connection.executescript(
            f"BEGIN;\n{file.read_text(encoding='utf-8')}\n"
            f"INSERT INTO schema_migrations (name) VALUES ('{file.stem}');\nCOMMIT;"
        )
        run.append(file.stem)
    return run
