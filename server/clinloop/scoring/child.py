"""The scoring process: one JSON job on standard input, one JSON reply on standard output, under caps that it sets on itself.

Run as `python -I -m clinloop.scoring.child MEMORY_BYTES CPU_SECONDS`. Reply: {"result": …} or {"refused": class name, "text": …}.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from typing import cast


def main() -> None:
    """Cap this process, do the job, reply."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from clinloop.errors import BadInput, BadPredictions
    from clinloop.scoring import compute  # numpy loads under the caps

    job = cast("compute.Job", json.loads(sys.stdin.buffer.read()))
    reply: dict[str, object]
    try:
        match job["action"]:
            case "rows":
                reply = {"result": compute.read_rows(job)}
            case "score":
                reply = {"result": asdict(compute.score(job))}
            case "paired":
                reply = {"result": [asdict(metric) for metric in compute.paired(job)]}
            case "analyse":
                reply = {"result": asdict(compute.analyse(job))}
            case "shortcuts":
                from clinloop.scoring import following  # late: no other job needs it

                reply = {"result": asdict(following.shortcuts(cast("following.ShortcutJob", job)))}
    except (BadPredictions, BadInput) as refusal:
        reply = {"refused": type(refusal).__name__, "text": str(refusal)}
    except MemoryError:
        reply = {"refused": "MemoryError", "text": ""}
    sys.stdout.buffer.write(json.dumps(reply, allow_nan=False).encode())


if __name__ == "__main__":
    main()
