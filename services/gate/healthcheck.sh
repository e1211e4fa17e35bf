#!/bin/bash
# Exit 0 when Caddy answers on the given port (8080).
set -euo pipefail

exec 3<>"/dev/tcp/127.0.0.1/${1:-8080}"
printf 'GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
