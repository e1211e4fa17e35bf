#!/bin/bash
# Starts SeaweedFS and lets through S3 on port 9000, and nothing else: its master, volume server, filer and the S3 server's
# second port ask nobody for a password, so all of it listens on loopback.
#   /run/secrets/s3_root_user, s3_root_password    the account that may do everything
#   /run/secrets/s3_access_key, s3_secret_key      MLflow's, for the bucket S3_BUCKET alone; may be missing
set -euo pipefail

secrets=${SECRETS_DIR:-/run/secrets}
bucket=${S3_BUCKET:-mlflow}

# What a key of ours and a bucket's name are made of; anything else would break out of the JSON below.
account() { # name user-file password-file actions
  local user password
  user=$(<"$secrets/$2")
  password=$(<"$secrets/$3")
  [[ $user$password$bucket =~ ^[A-Za-z0-9._/+=-]+$ ]] || {
    echo "seaweedfs: expected keys and a bucket of letters, digits and ._/+=-, found others; change S3_BUCKET or the keys" >&2
    exit 1
  }
  printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [%s]}' "$1" "$user" \
    "$password" "$4"
}

umask 077
{
  printf '{"identities": ['
  account root s3_root_user s3_root_password '"Admin", "Read", "Write", "List", "Tagging"'
  if [ -s "$secrets/s3_access_key" ]; then
    printf ', '
    account mlflow s3_access_key s3_secret_key "\"Read:$bucket\", \"Write:$bucket\", \"List:$bucket\""
  fi
  printf ']}\n'
} >/tmp/s3.json

# A volume file of 1 GB and as many as the disk takes; no statistics to the project, no table catalogues.
weed -logtostderr=true server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
  -master.volumeSizeLimitMB=1024 -volume.max=0 -volume.preStopSeconds=1 -filer -s3 -s3.config=/tmp/s3.json \
  -s3.port=8333 -s3.ip.bind=127.0.0.1 -s3.port.iceberg=0 -s3.port.lance=0 -s3.autoCreateBucket=false &
store=$!
# The S3 server opens a second port wherever it listens, on which anybody may add accounts. Only the first is passed on.
socat TCP-LISTEN:9000,fork,reuseaddr,max-children=200 TCP:127.0.0.1:8333 &
door=$!

trap 'kill -TERM "$store" "$door" 2>/dev/null || true' TERM INT
# Neither is of use without the other.
status=0
wait -n "$store" "$door" || status=$?
kill -TERM "$store" "$door" 2>/dev/null || true
wait "$store" || status=$?
exit "$status"
