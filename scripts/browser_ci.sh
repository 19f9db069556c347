#!/usr/bin/env sh
# Put Chromium from Debian's packages on a bare CI machine, for the tests of the page; does nothing where there is one.
set -eu
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" != 0 ]; then
  echo "The tests of the page need Chromium: apt-get install chromium" >&2
  exit 1
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends chromium fonts-dejavu-core
