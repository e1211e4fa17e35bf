#!/bin/bash
# Starts PostgreSQL, and makes its cluster at the first start: two databases owned by the role `mlflow`, and a superuser
# whom only this container's own user can be without a password.
set -euo pipefail

secrets=${SECRETS_DIR:-/run/secrets}
new=$PGDATA/.new

# PG_VERSION moves last: whatever ends the making half-way, the next start begins it again.
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  echo 'postgres: making the cluster'
  find "$PGDATA" -mindepth 1 -delete
  initdb --pgdata "$new" --data-checksums --encoding=UTF8 --locale=C.UTF-8 --username=postgres \
    --auth-local=peer --auth-host=scram-sha-256 --pwfile="$secrets/postgres_superuser_password" --no-instructions >/dev/null
  echo "include = '/etc/paddock/postgresql.conf'" >>"$new/postgresql.conf"
  # Over the network only the role that needs it, to the databases that it owns.
  cat >"$new/pg_hba.conf" <<'HBA'
local all                postgres       peer
host  mlflow,mlflow_auth mlflow   all   scram-sha-256
HBA
  pg_ctl --pgdata "$new" --silent --wait --options "-c listen_addresses=''" start >/dev/null
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 postgres <<'SQL'
\set password `cat "${SECRETS_DIR:-/run/secrets}/postgres_mlflow_password"`
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE mlflow, mlflow_auth FROM PUBLIC;
SQL
  pg_ctl --pgdata "$new" --silent --wait --mode fast stop
  find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv -t "$PGDATA" {} +
  mv "$new/PG_VERSION" "$PGDATA/PG_VERSION"
  rmdir "$new"
fi

exec postgres
