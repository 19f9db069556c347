"""MCP clients and where each keeps its configuration; this table is the registry."""

from clinloop.clients import claude, codex, cursor, vscode

CLIENTS = {"claude": claude.edits, "codex": codex.edits, "vscode": vscode.edits, "cursor": cursor.edits}
