"""Run every benchmark and write the figures to benchmarks/figures.json; ratios are taken within one run, so a busy machine shifts both sides."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = [
    "bench_server.py",
    "bench_scoring.py",
    "bench_detection.py",
    "bench_ingest.py",
    "bench_sandbox.py",
    "bench_http.py",
]


def main() -> None:
    """Run the scripts one after another; each prints one JSON object."""
    figures: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    }
    for script in SCRIPTS:
        print(f"{script} …", file=sys.stderr, flush=True)
        ended = subprocess.run([sys.executable, str(HERE / script)], capture_output=True, text=True, check=True)
        figures[script.removeprefix("bench_").removesuffix(".py")] = json.loads(ended.stdout)
    text = json.dumps(figures, indent=1)
    (HERE / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
