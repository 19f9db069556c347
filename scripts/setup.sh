#!/bin/sh
# Set up everything that clinloop needs on a bare machine: uv in .tools/, bubblewrap from the system, the Python environment in .venv/.
set -eu
cd "$(dirname "$0")/.."

have() { command -v "$1" >/dev/null 2>&1; }

have python3 || { echo "clinloop needs python3 (3.11 or newer): apt-get install python3" >&2; exit 1; }

# bubblewrap isolates the code that agents submit; e2fsprogs and util-linux give it a hard disk limit when run by root.
if ! have bwrap || ! have mkfs.ext4; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bubblewrap e2fsprogs >/dev/null
  elif ! have bwrap; then
    echo "clinloop runs submitted code in bubblewrap, which is missing; install it once: sudo apt-get install bubblewrap" >&2
    exit 1
  fi
fi

# uv: the one on PATH, else a private copy.
if have uv; then
  uv=$(command -v uv)
else
  uv="$PWD/.tools/bin/uv"
  [ -x "$uv" ] || python3 scripts/fetch_uv.py "$PWD/.tools"
fi
mkdir -p .tools
printf '%s\n' "$uv" >.tools/uv-path

"$uv" sync --quiet --frozen --compile-bytecode
