#!/usr/bin/env bash
# Build the container and run it as the platform does, on test/input: no network, no rights, read-only but for /output and /tmp.
set -euo pipefail
cd "$(dirname "$0")"
docker build --platform linux/amd64 --tag @TAG@ .
mkdir -p test/output && chmod 777 test/output
docker run --rm --platform linux/amd64 --network none --cap-drop ALL --security-opt no-new-privileges --shm-size 1g --pids-limit 512 \
  --read-only --tmpfs /tmp --volume "$PWD/test/input:/input:ro" --volume "$PWD/test/output:/output" @TAG@
ls -l test/output
