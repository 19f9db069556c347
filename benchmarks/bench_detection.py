"""Time the interval of an average precision against a pycocotools loop in the same run, and the reading and matching of boxes.

    python benchmarks/bench_detection.py [--coco-resamples 5]

Prints one JSON object; ours is the best of three. The loop is measured on a few resamples and scaled to all. The memory is the peak of this
process before pycocotools does anything, the boxes and their file included.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clinloop.scoring import service
from clinloop.scoring.bootstrap import bootstrap, draw_counts
from clinloop.scoring.detection import match
from clinloop.scoring.parse_json import parse_detections
from clinloop.scoring.service import Detected, TruthBox

# About the size of the test part of GRAZPEDWRI-DX, with as many boxes of low score as a detector leaves.
IMAGES, GROUPS, RESAMPLES = 4065, 1218, 1000
SCHEME = service.Scheme(("no fracture", "fracture"), task_type="detection", targets=("fracture",))
SIZES = ["ap50_95_small", "ap50_95_medium", "ap50_95_large"]
Truth = list[tuple[TruthBox, ...]]
Found = list[tuple[Detected, ...]]


def make_images() -> tuple[Truth, Found]:
    """Return the boxes of images, nine of ten of them found, among 20 to 32 false ones."""
    random = np.random.default_rng(0)
    truth: Truth = []
    found: Found = []
    for _ in range(IMAGES):
        boxes = [
            TruthBox(0, *random.uniform(0, 600, 2).tolist(), *random.uniform(20, 120, 2).tolist())
            for _ in range(random.choice(3, p=[0.33, 0.45, 0.22]))
        ]
        seen = [
            Detected(0, *np.maximum(np.array(box[1:]) + random.normal(0, 4, 4), 1).tolist(), random.beta(4, 2))
            for box in boxes
            if random.random() < 0.9
        ]
        seen += [
            Detected(0, *random.uniform(0, 600, 2).tolist(), *random.uniform(10, 90, 2).tolist(), random.beta(1, 12))
            for _ in range(random.integers(20, 33))
        ]
        truth.append(tuple(boxes))
        found.append(tuple(seen))
    return truth, found


def coco(truth: Truth, found: Found, rows: Sequence[int]) -> tuple[float, float]:
    """Return AP50 and AP50:95 of physically repeated images, by pycocotools."""
    annotations = [
        {"image_id": image, "category_id": 1, "bbox": list(box[1:]), "area": box.width * box.height, "iscrowd": 0}
        for image, row in enumerate(rows)
        for box in truth[row]
    ]
    oracle = COCO()
    oracle.dataset = {
        "images": [{"id": image} for image in range(len(rows))],
        "categories": [{"id": 1}],
        "annotations": [{"id": number, **item} for number, item in enumerate(annotations, start=1)],
    }
    results = [
        {"image_id": image, "category_id": 1, "bbox": list(box[1:5]), "score": box.score}
        for image, row in enumerate(rows)
        for box in found[row]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        oracle.createIndex()
        run = COCOeval(oracle, oracle.loadRes(results), "bbox")
        run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = [[0, 1e10]], ["all"], [100]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0, 0, 0]
    return float(precision[0].mean()), float(precision.mean())


def best_of(call: Callable[[], object], repeats: int = 3) -> float:
    """Return the seconds of the fastest of several calls."""
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco-resamples", type=int, default=5, help="resamples of the pycocotools loop")
    few = parser.parse_args().coco_resamples
    truth, found = make_images()
    ids = [f"{image:012x}" for image in range(IMAGES)]
    groups = np.arange(IMAGES) % GROUPS
    data = service.predictions_bytes(dict(zip(ids, found, strict=True)), SCHEME)

    def matched() -> object:
        return match(truth, found, case_ids=ids, n_targets=1, groups=groups, n_groups=GROUPS, threshold=0.5)

    cases = match(truth, found, case_ids=ids, n_targets=1, groups=groups, n_groups=GROUPS, threshold=0.5)

    def ours(names: list[str], resamples: int = RESAMPLES) -> np.ndarray:
        return bootstrap(names, SCHEME, [cases], resamples=resamples, seed=0)[0]

    seconds_ours = best_of(lambda: ours(["ap50", "ap50_95"]))
    more = {
        "ap50_s": round(best_of(lambda: ours(["ap50"])), 2),
        "ap50_95_by_size_s": round(best_of(lambda: ours(SIZES)), 2),
        "froc_s": round(best_of(lambda: ours(["froc"])), 2),
    }
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    drawn = [
        np.repeat(np.arange(IMAGES), counts[groups, 0].astype(int)).tolist()
        for counts in draw_counts(GROUPS, few, seed=0, chunk=1)
    ]
    started = time.perf_counter()
    expected = np.array([coco(truth, found, rows) for rows in drawn]).T
    seconds_coco = (time.perf_counter() - started) * RESAMPLES / few
    result = {
        "images": IMAGES,
        "boxes": sum(map(len, truth)),
        "detections": sum(map(len, found)),
        "groups": GROUPS,
        "resamples": RESAMPLES,
        "ap50_and_ap50_95_s": round(seconds_ours, 2),
        **more,
        "peak_memory_mib": peak_mib,
        "pycocotools_loop_s": round(seconds_coco, 1),
        "pycocotools_resamples_measured": few,
        "ratio": round(seconds_coco / seconds_ours, 1),
        "largest_difference": float(np.abs(ours(["ap50", "ap50_95"], few) - expected).max()),
        "read_strictly_s": round(best_of(lambda: parse_detections(data, SCHEME.targets, ids)), 2),
        "match_s": round(best_of(matched), 2),
        "file_mib": round(len(data) / 2**20, 1),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
