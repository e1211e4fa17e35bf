#!/bin/bash
# Exit 0 when the proxy answers.
set -euo pipefail

exec 3<>/dev/tcp/127.0.0.1/3128
printf 'GET /healthz HTTP/1.1\r\nHost: egress\r\nConnection: close\r\n\r\n' >&3
read -r -t 3 _ status _ <&3
[ "$status" = 200 ]
