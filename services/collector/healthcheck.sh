#!/bin/bash
# Exit 0 when the pipeline runs and the receiver answers.
set -euo pipefail

status() { # port path
  local status
  exec 3<>"/dev/tcp/127.0.0.1/$1"
  printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3
  read -r _ status _ <&3
  exec 3>&-
  printf '%s' "$status"
}

[ "$(status 13133 /)" = 200 ]
# Spans come by POST: a receiver that listens says so.
[ "$(status 4318 /v1/traces)" = 405 ]
