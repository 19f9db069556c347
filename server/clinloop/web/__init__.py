"""The server over HTTP: the six tools at /mcp, and the page for clinicians and custodians."""
