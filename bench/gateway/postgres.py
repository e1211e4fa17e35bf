"""One PostgreSQL cluster for the run: the machine's own package, its default settings, a database for each server."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import processes


def _program(name: str) -> Path:
    """Debian keeps the server's programs off PATH, in a folder a version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [
        Path(path) for path in [shutil.which(name)] if path
    ]
    if not found:
        sys.exit(
            f"bench: expected PostgreSQL's {name}, found none; install it (Debian: apt-get install postgresql)"
        )
    return found[-1]


class Postgres:
    """A cluster in a folder of its own. Its superuser has a random password."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgres"
        self._folder.mkdir()
        self.port = processes.free_port()
        self._password = secrets.token_hex(16)
        # PostgreSQL refuses to run as root.
        self._owner: dict[str, object] = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("nobody")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            self._owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        given = self._folder / "password"
        given.write_text(self._password)
        if self._owner:
            shutil.chown(given, "nobody")
        data = self._folder / "data"
        done = subprocess.run(
            [
                _program("initdb"),
                *["--pgdata", data, "--username=bench", "--auth=scram-sha-256", f"--pwfile={given}"],
                *["--encoding=UTF8", "--locale=C.UTF-8"],
            ],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            **self._owner,  # type: ignore[call-overload]
        )
        if done.returncode:
            sys.exit(f"bench: expected initdb to succeed, found:\n{done.stderr}")
        self.server = processes.Server(
            "postgres",
            [
                *[_program("postgres"), "-D", data, "-p", self.port, "-k", ""],
                *["-c", "listen_addresses=127.0.0.1"],
            ],
            processes.variables(),
            self._folder,
            **self._owner,
        )
        self.server.wait(lambda: self._psql("postgres", "select 1").returncode == 0)

    def url(self, database: str) -> str:
        """SQLAlchemy URL of a database, made where it is missing."""
        if self._psql("postgres", f"create database {database}").returncode:
            found = self._psql("postgres", f"select 1 from pg_database where datname = '{database}'")
            assert found.stdout.strip() == "1"
        return f"postgresql+psycopg2://bench:{self._password}@127.0.0.1:{self.port}/{database}"

    def number(self, database: str, query: str) -> float:
        """The one number that a query gives.

        Raises:
            SystemExit: the query failed.
        """
        done = self._psql(database, query)
        if done.returncode:
            sys.exit(f"bench: expected a number of {database}, found: {done.stderr}")
        return float(done.stdout)

    def end(self) -> None:
        """A fast shutdown."""
        self.server.end(signal.SIGINT)

    def _psql(self, database: str, query: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                *[_program("psql"), "-XAtq", "-h", "127.0.0.1", "-p", str(self.port)],
                *["-U", "bench", "-d", database, "-c", query],
            ],
            env=processes.variables({"PGPASSWORD": self._password}),
            capture_output=True,
            text=True,
            check=False,
        )
