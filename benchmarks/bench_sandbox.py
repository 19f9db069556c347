"""What a sandbox costs, against a bare process in the same run: start to first line, training throughput, kill to dead.

python benchmarks/bench_sandbox.py [--repeat 15] [--image cpu] [--seconds 12] [--rounds 3] [--cache ~/.cache/clinloop]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from clinloop.sandbox.backends import load_backend
from clinloop.sandbox.base import Job, Sandbox, basic_environment
from clinloop.sandbox.checks.bench import Bench, find_processes
from clinloop.settings import Limits, Settings

BACKENDS = ["bubblewrap", "docker"]
LIMITS = Limits(memory_bytes=6 << 30, cpus=2)
HELLO = "import sys; sys.stdout.write('first\\n'); sys.stdout.flush()"
FAMILY = """
import os, sys, time
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "while True: pass", WORD])
time.sleep(1)
print("ready", flush=True)
time.sleep(600)
"""
TRAIN = """
import sys, time, torch, timm
torch.manual_seed(0)
model = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=8).train()
optimizer = torch.optim.AdamW(model.parameters())
images, labels = torch.randn(32, 3, 64, 64), torch.randint(0, 8, (32,))
def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
for _ in range(5): step()
began, steps = time.perf_counter(), 0
while time.perf_counter() - began < SECONDS:
    step()
    steps += 1
print(32 * steps / (time.perf_counter() - began), flush=True)
"""


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--image", default="cpu")
    parser.add_argument("--seconds", type=float, default=12, help="length of one training measurement")
    parser.add_argument("--rounds", type=int, default=3, help="training measurements of each, interleaved")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/clinloop"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = Settings(state=folder / "state", cache=given.cache.expanduser())
        benches: dict[str, Bench] = {}
        problems: dict[str, str] = {}
        for name in BACKENDS:
            probe = (sandbox := load_backend(name, settings)).probe()
            if probe.usable:
                benches[name] = Bench(sandbox, folder)
            else:
                problems[name] = probe.problem
        result = {
            "unusable": problems,
            "start to first line, ms": _first_line(benches, given.repeat),
            "kill of 9 busy processes to dead, ms": _kill(benches, max(3, given.repeat // 3)),
            "training, images per second": _training(benches, given.image, given.seconds, given.rounds),
        }
        print(json.dumps(result, indent=1))


def _first_line(benches: dict[str, Bench], repeat: int) -> dict[str, float]:
    """Return medians: from the call to the first byte of output, of Python without site, one after the other in each repetition."""
    acts: dict[str, Callable[[], float]] = {"bare process": _bare_first_line}
    for name, bench in benches.items():
        acts[name] = lambda bench=bench: _sandboxed_first_line(bench)
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(repeat):
        for name, act in acts.items():
            times[name].append(act() * 1000)
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


def _bare_first_line() -> float:
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", HELLO], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.perf_counter() - began


def _sandboxed_first_line(bench: Bench) -> float:
    job = bench.job(HELLO, limits=LIMITS)
    began = time.perf_counter()
    bench.sandbox.start(job)
    try:
        while not job.log.exists() or not job.log.stat().st_size:
            bench.sandbox.wait(job.name, 0.001)
        return time.perf_counter() - began
    finally:
        bench.sandbox.stop(job.name)


def _kill(benches: dict[str, Bench], repeat: int) -> dict[str, dict[str, float]]:
    """Return medians per backend: until no process is left, and until `stop` has put everything away."""
    found: dict[str, dict[str, float]] = {}
    for name, bench in benches.items():
        dead: list[float] = []
        settled: list[float] = []
        for _ in range(repeat):
            word = f"word-{secrets.token_hex(6)}"
            job = bench.job(f"WORD = {word!r}\n{FAMILY}", limits=LIMITS)
            bench.sandbox.start(job)
            bench.wait_for_log(job, "ready")
            watcher = subprocess.Popen(
                [sys.executable, __file__, "--watch", word], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
            )
            with watcher:
                assert watcher.stdout is not None and watcher.stdin is not None
                watcher.stdout.readline()
                began = time.time()
                bench.sandbox.stop(job.name)
                settled.append((time.time() - began) * 1000)
                dead.append((float(watcher.stdout.readline()) - began) * 1000)
        found[name] = {"dead": round(statistics.median(dead), 1), "put away": round(statistics.median(settled), 1)}
    return found


def watch(word: str) -> None:
    """Print once that processes with a word live, then the time at which the last one is gone."""
    live = [pid for pid in find_processes(word) if pid != os.getpid()]
    print(len(live), flush=True)
    while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in live):
        time.sleep(0.001)
    print(time.time(), flush=True)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True


def _training(benches: dict[str, Bench], image: str, seconds: float, rounds: int) -> dict[str, object]:
    """Return median throughput of a training loop, and the ratio of each sandbox to the bare process, taken round by round."""
    code = TRAIN.replace("SECONDS", str(seconds))
    bare = next((bench.sandbox for name, bench in benches.items() if name == "bubblewrap"), None)
    if bare is None:
        return {"skipped": "the bare process takes the environment of the bubblewrap backend, which cannot run here"}
    rates: dict[str, list[float]] = {"bare process": [], **{name: [] for name in benches}}
    for _ in range(rounds):
        rates["bare process"].append(_bare_rate(bare, image, code))
        for name, bench in benches.items():
            rates[name].append(_sandboxed_rate(bench, image, code))
    ratios = {
        f"{name} : bare": round(
            statistics.median(rate / base for rate, base in zip(rates[name], rates["bare process"], strict=True)), 3
        )
        for name in benches
    }
    return {name: round(statistics.median(values), 1) for name, values in rates.items()} | ratios


def _bare_rate(sandbox: Sandbox, image: str, code: str) -> float:
    environment = sandbox.environment(image, report=lambda _: None)
    job = Job(
        name="bare",
        argv=(environment.python,),
        workdir="/",
        mounts=(),
        limits=LIMITS,
        wall_seconds=0,
        log=Path("/dev/null"),
    )
    variables = basic_environment(job, home="/tmp")
    ended = subprocess.run(
        [environment.python, "-I", "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    return float(ended.stdout.split()[-1])


def _sandboxed_rate(bench: Bench, image: str, code: str) -> float:
    environment = bench.sandbox.environment(image, report=lambda _: None)
    job = bench.job(argv=(environment.python, "-I", "-c", code), limits=LIMITS)
    job = Job(
        **{
            **job.__dict__,
            "mounts": (*environment.mounts, job.mounts[-1]),
            "image": environment.image,
            "wall_seconds": 300,
        }
    )
    bench.sandbox.start(job)
    try:
        while bench.sandbox.wait(job.name, 1.0) is None:
            pass
    finally:
        bench.sandbox.stop(job.name)
    return float(job.log.read_text(encoding="utf-8").split()[-1])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] == ["--watch"]:
        watch(sys.argv[2])
    else:
        main()
