"""Ingest rate: N drawn 600 x 450 JPEGs as class folders, from the first byte read to the dataset in place.

python benchmarks/bench_ingest.py [--images 2000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from clinloop.datasets.dataset import Dataset
from clinloop.datasets.ingest import IngestOptions, ingest
from clinloop.datasets.workers import n_workers

CLASSES = 8


def draw(root: Path, index: int) -> None:
    """Write one smooth, noisy picture that no other index draws."""
    random = np.random.default_rng(index)
    smooth = Image.fromarray(random.integers(40, 220, (9, 12, 3)).astype(np.uint8)).resize(
        (600, 450), Image.Resampling.BICUBIC
    )
    noise = random.integers(-12, 13, (450, 600, 1))
    pixels = np.clip(np.asarray(smooth, dtype=np.int16) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(root / str(index % CLASSES) / f"{index}.jpg", quality=90)


def measure(images: int) -> dict[str, object]:
    """Return the figures of one ingest."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        for name in range(CLASSES):
            (root / str(name)).mkdir(parents=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(draw, root), range(images), chunksize=50))
        phases: dict[str, float] = {}
        begun = time.perf_counter()

        def progress(phase: str, done: int, total: int) -> None:
            phases.setdefault(phase, round(time.perf_counter() - begun, 2))

        state = Path(folder) / "state"
        ingest(root, "bench", state=state, key=bytes(32), options=IngestOptions(), progress=progress)
        seconds = time.perf_counter() - begun
        return {
            "images": images,
            "seconds": round(seconds, 2),
            "images_per_s": round(images / seconds, 1),
            "phase_started_s": phases,
            "workers": n_workers(),
            "load_before": round(os.getloadavg()[0], 1),
            "cache_px": Dataset.load(state, "bench").cache_px,
            "peak_parent_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "peak_worker_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.images), indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
