#!/usr/bin/env bash
# Exit 0 when the server answers /healthz with 200. Bash's own /dev/tcp, so that the image needs no HTTP client and a
# check costs no Python start.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${DEMO_LISTEN_PORT:-8000}"
printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
IFS= read -r -t 5 status <&3
[[ "$status" == "HTTP/1.1 200"* ]]
