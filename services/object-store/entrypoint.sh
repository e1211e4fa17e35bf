#!/bin/bash
# Starts MinIO with the root credentials of the secrets volume. They are read from files, so that no environment that
# `docker inspect` shows holds them. MinIO's own MINIO_ROOT_USER_FILE reads from a fixed folder only.
set -euo pipefail

MINIO_ROOT_USER=$(<"${SECRETS_DIR:-/run/secrets}/s3_root_user")
MINIO_ROOT_PASSWORD=$(<"${SECRETS_DIR:-/run/secrets}/s3_root_password")
export MINIO_ROOT_USER MINIO_ROOT_PASSWORD
export MINIO_BROWSER=off MINIO_UPDATE=off

exec minio server /data --address :9000 --quiet
