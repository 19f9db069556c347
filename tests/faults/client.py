"""An MCP client for tests that kill it: starts the server as a child, calls one tool, prints its structured content, then stays or goes.

python client.py STATE stay|close TOOL '{"argument": …}'
"""

from __future__ import annotations

import json
import sys

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


async def main(state: str, end: str, tool: str, arguments: str) -> None:
    """Call one tool of a server on this state folder."""
    command = [
        "-I",
        "-m",
        "clinloop",
        "serve",
        "--stdio",
        "--state",
        state,
        "--sandbox",
        "none",
        "--i-accept-no-isolation",
    ]
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command))) as client:
        result = await client.call_tool(tool, json.loads(arguments))
        print(json.dumps(result.structured_content), flush=True)
        if end == "stay":
            await anyio.sleep(600)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
