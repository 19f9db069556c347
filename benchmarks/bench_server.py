"""Server start to the first tools/list reply against an empty server of the SDK, latency per tool, and overhead of a run."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from PIL import Image

from clinloop import ingestion
from clinloop.services import Services
from clinloop.settings import load_settings

EMPTY = "from mcp.server import MCPServer; MCPServer('empty').run('stdio')"
STARTS, CALLS = 9, 40


def _server(state: Path) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-I", "-m", "clinloop", "serve", "--stdio", "--state", str(state)]
    )


async def _start(parameters: StdioServerParameters) -> float:
    begun = time.perf_counter()
    async with Client(stdio_client(parameters)) as client:
        await client.list_tools()
        return time.perf_counter() - begun


async def _latency(client: Client, tool: str, arguments: list[dict[str, Any]]) -> float:
    times: list[float] = []
    for values in arguments:
        begun = time.perf_counter()
        result = await client.call_tool(tool, values)
        times.append(time.perf_counter() - begun)
        assert not result.is_error, result.content
    return statistics.median(times)


async def _wait(client: Client, task: str, run: str) -> dict[str, Any]:
    while True:
        seen = (await client.call_tool("read_validation", {"task_id": task, "run": run, "wait": 20})).structured_content
        if seen["run"]["status"] not in ("queued", "training", "predicting", "scoring"):
            return seen


async def measure(state: Path) -> dict[str, Any]:
    """Return all figures; ratios are of medians taken alternately in this run."""
    ours, empty = [], []
    for _ in range(STARTS):
        empty.append(await _start(StdioServerParameters(command=sys.executable, args=["-I", "-c", EMPTY])))
        ours.append(await _start(_server(state)))
    figures: dict[str, Any] = {
        "start_s": round(statistics.median(ours), 3),
        "start_of_empty_sdk_server_s": round(statistics.median(empty), 3),
        "start_ratio": round(statistics.median(ours) / statistics.median(empty), 3),
    }
    async with Client(stdio_client(_server(state))) as client:
        contract = {
            "dataset": "bench",
            "request": "Tell these images apart.",
            "spec": {"objective": "Tell images apart.", "budget": "demo"},
            "template": "linear",
        }
        task = (await client.call_tool("init_task", contract)).structured_content["task_id"]
        edits = [
            {"task_id": task, "operation": "create", "path": "note.txt", "text": f"{n}\n", "overwrite": True}
            for n in range(CALLS)
        ]
        latency = {
            "inspect_dataset": await _latency(client, "inspect_dataset", [{"dataset": "bench"}] * CALLS),
            "init_task (repeated)": await _latency(client, "init_task", [contract] * CALLS),
            "edit_workspace view": await _latency(
                client, "edit_workspace", [{"task_id": task, "operation": "view", "path": "train.py"}] * CALLS
            ),
            "edit_workspace create": await _latency(client, "edit_workspace", edits),
            "read_validation runs": await _latency(
                client, "read_validation", [{"task_id": task, "view": "runs"}] * CALLS
            ),
        }
        figures["latency_ms"] = {name: round(1000 * value, 1) for name, value in latency.items()}
        begun = time.perf_counter()
        run = (await client.call_tool("run_training", {"task_id": task})).structured_content["run"]["run"]
        figures["run_training_call_ms"] = round(1000 * (time.perf_counter() - begun), 1)
        seen = await _wait(client, task, run)
        wall = time.perf_counter() - begun
        assert seen["run"]["status"] == "succeeded", seen
    trained = Services(load_settings(state)).store.run(task, run).facts["train_seconds"]
    figures["run_wall_s"], figures["run_train_s"], figures["run_overhead_s"] = (
        round(wall, 2),
        trained,
        round(wall - trained, 2),
    )
    return figures


def main() -> None:
    """Print the figures as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        root, generator = Path(folder), np.random.default_rng(0)
        for name, colour in {"a": 100, "b": 130, "c": 160}.items():
            (root / "images" / name).mkdir(parents=True)
            for index in range(100):
                pixels = np.clip(generator.normal(colour, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / "images" / name / f"{index}.png")
        state = root / "state"
        ingestion.add(Services(load_settings(state)), root / "images", "bench", cache_px=(32,))
        print(json.dumps(asyncio.run(measure(state)), indent=1))


if __name__ == "__main__":
    main()
