#!/bin/sh
# Make the base of sandbox images where nothing can be pulled: Debian bookworm with Python 3.11, as clinloop/base:bookworm. Needs root.
# The host's certificates go along, so that a package index behind a proxy of the house is trusted.
set -eu

tag=clinloop/base:bookworm
label=org.clinloop.base
if [ -n "$(docker image ls -q --filter "reference=$tag" --filter "label=$label")" ]; then
  echo "$tag is there."
  exit 0
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" >"$root.log" 2>&1 ||
  { tail -20 "$root.log" >&2; exit 1; }
rm -f "$root.log"
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/doc/* "$root"/usr/share/man/* \
  "$root"/usr/share/locale/*
tar -C "$root" --one-file-system -c . | docker import --change "LABEL $label=bookworm" - "$tag" >/dev/null
echo "$tag is made."
