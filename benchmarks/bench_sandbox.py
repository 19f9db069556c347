"""What a sandbox costs: start to exit of an empty Python, with and without /out, against a bare process, and an import inside.

python benchmarks/bench_sandbox.py [--backend bubblewrap] [--repeat 20] [--image cpu --cache ~/.cache/clinloop]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from clinloop.sandbox.backends import BACKENDS, load_backend
from clinloop.sandbox.base import Job
from clinloop.sandbox.checks.bench import Bench
from clinloop.settings import Limits, Settings


def main() -> None:
    """Print one JSON object; times in milliseconds, medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=list(BACKENDS), default="bubblewrap")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--image", default="cpu")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/clinloop"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache = Path(scratch), given.cache.expanduser()
        bench = Bench(load_backend(given.backend, Settings(state=folder / "state", cache=cache)), folder)
        python = bench.job().argv[0]
        probe = bench.sandbox.probe()
        result: dict[str, object] = {"backend": given.backend, "tiers": dict(probe.tiers), "problem": probe.problem}
        result["bare process"] = _median(
            lambda: subprocess.run([python, "-I", "-S", "-c", "pass"], check=True), given.repeat
        )
        result["job with /out of 2 GiB"] = _median(lambda: bench.run("pass", limits=Limits(cpus=2)), given.repeat)
        plain = [_without_out(bench.job("pass")) for _ in range(given.repeat)]
        result["job without /out"] = _median(lambda: _run(bench, plain.pop()), given.repeat)
        environment = bench.sandbox.find_environment(given.image)
        if environment:
            argv = (
                environment.python,
                "-c",
                "import time; t = time.perf_counter(); import timm; print(time.perf_counter() - t)",
            )
            seen = {mount.target for mount in bench.job().mounts}
            mounts = tuple(mount for mount in environment.mounts if mount.target not in seen)
            logs = [bench.run(argv=argv, mounts=mounts, limits=Limits(cpus=2)).log for _ in range(3)]
            result["import timm inside, s"] = [round(float(log.split()[-1]), 2) for log in logs]
        print(json.dumps(result, indent=1))


def _without_out(job: Job) -> Job:
    return Job(**{**job.__dict__, "mounts": job.mounts[:-1], "workdir": "/"})


def _run(bench: Bench, job: Job) -> None:
    bench.sandbox.start(job)
    bench.sandbox.wait(job.name, 30)
    bench.sandbox.stop(job.name)


def _median(act: Callable[[], object], repeat: int) -> float:
    times: list[float] = []
    for _ in range(repeat):
        began = time.perf_counter()
        act()
        times.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(times), 1)


if __name__ == "__main__":
    main()
