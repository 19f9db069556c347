"""One file per MCP tool."""
