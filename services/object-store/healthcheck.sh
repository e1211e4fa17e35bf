#!/bin/bash
# Exit 0 when MinIO says that it can serve. HTTP/1.0 without a Host header is answered with 400, hence the header.
set -euo pipefail

exec 3<>/dev/tcp/127.0.0.1/9000
printf 'GET /minio/health/ready HTTP/1.0\r\nHost: minio\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
