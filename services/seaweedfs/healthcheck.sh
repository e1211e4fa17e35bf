#!/bin/bash
# Exit 0 when SeaweedFS' S3 server says that it can serve.
set -euo pipefail

exec 3<>/dev/tcp/127.0.0.1/9000
printf 'GET /healthz HTTP/1.0\r\nHost: seaweedfs\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
