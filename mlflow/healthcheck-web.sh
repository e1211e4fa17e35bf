#!/bin/bash
# Exit 0 when the web application answers.
set -euo pipefail

exec 3<>/dev/tcp/127.0.0.1/5000
printf 'GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
