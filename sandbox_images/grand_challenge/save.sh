#!/usr/bin/env bash
# Write the container image, and the model by itself, as the archives that are uploaded to grand-challenge.org.
set -euo pipefail
cd "$(dirname "$0")"
docker build --platform linux/amd64 --tag @TAG@ .
docker save @TAG@ | gzip -c > @TAG@.tar.gz
tar --create --gzip --file model.tar.gz --directory model .
