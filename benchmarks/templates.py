"""Speed of the templates: images/s of each one's training step through its real data path, against two other ways to feed the same step.

    limit   the same step on one batch that stays where it is: what the data path costs is what is missing to 1
    plain   the same step fed by torchvision's ImageFolder with PIL, one worker process a core: what most code does
    loader  that loader alone, nothing trained
    host    (GPU) the real data path when the pictures do not fit on the GPU and stay in pinned host memory

python benchmarks/templates.py [--device cuda] [--templates classification,segmentation] [--seconds 15] [--json FILE]

Needs torch, torchvision, timm, numpy, Pillow and safetensors, and these folders as they lie in the checkout; draws its own pictures. Each
figure is taken in a process of its own that runs the template's train.py unchanged but for this: its loop ends when it was measured, and
in `limit` and `plain` what it assigns to the batch comes from elsewhere.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = {"cuda": 20, "cpu": 5}


class Plan(NamedTuple):
    """What has to be known of a template to feed its loop."""

    task_type: str
    image: str
    """Name in the training loop of the images as the network gets them, (B, 3, px, px)."""
    others: tuple[str, ...] = ()
    """Names in the loop that belong to the batch too: masks, boxes, …"""
    masks: bool = False
    """True when the training cases have masks."""
    sizes: tuple[tuple[int, int], ...] = ((600, 450), (1024, 1024))
    """Width and height of the pictures in turn; the default is that of ISIC 2019's two large sources."""


PLANS = {
    "classification": Plan("classification", "x"),
    "confounded_classification": Plan("classification", "x", ("masks",), True, ((1024, 1024),)),
    "detection": Plan("detection", "x", ("boxes",), False, ((720, 1200), (800, 1180))),
    "mixed_detection": Plan("detection", "x", ("boxes",), False, ((720, 1200), (800, 1180))),
    "segmentation": Plan("segmentation", "x", ("y",), True, ((1024, 1024),)),
}


class _Measured(Exception):
    """Ends train.py from inside its loop."""


class Bench:
    """Counts the steps of a training loop and hands it batches; lives in the measuring process only."""

    def __init__(
        self, mode: str, seconds: float, warm_up: int, plain: Callable[[], Iterator[Any]], wait: Callable[[], None]
    ) -> None:
        self.mode, self._seconds, self._warm_up, self._plain, self._wait = mode, seconds, warm_up, plain, wait
        self._batches: Iterator[Any] | None = None
        self._born = time.perf_counter()
        self._begun = self._begun_cpu = self.first_step_s = self.measured_s = self.measured_cpu_s = 0.0
        self.steps = self.batch = 0

    @property
    def is_fed(self) -> bool:
        """True when the loop already has a batch and shall not draw one itself."""
        return self.mode in ("limit", "plain") and self.steps > 0

    def feed(self, before: Any) -> Any:
        """Return the images of the next step in place of those before."""
        if self.mode == "limit":
            return before
        self._batches = self._batches or self._plain()
        return next(self._batches)

    def tick(self, images: Any) -> None:
        """Count one step; raises _Measured when it was enough. The device is waited for at both ends only."""
        self.steps += 1
        now = time.perf_counter()
        if self.steps == 1:
            self.first_step_s = now - self._born
        if self.steps == self._warm_up:
            self._wait()
            self._begun, self._begun_cpu = time.perf_counter(), time.process_time()
        elif self.steps > self._warm_up and now - self._begun > self._seconds:
            self._wait()
            self.measured_s, self.batch = time.perf_counter() - self._begun, len(images)
            self.measured_cpu_s = time.process_time() - self._begun_cpu
            raise _Measured


def instrumented(source: str, plan: Plan) -> ast.Module:
    """Return train.py with the training loop's batch fed by `_bench` and its steps counted.

    Raises:
        ValueError: there is no loop that assigns the images.
    """
    tree = ast.parse(source)
    names = {plan.image, *plan.others}
    for loop in tree.body:
        lines = loop.body if isinstance(loop, ast.While | ast.For) else []
        if any(_assigns(line, names) and plan.image in _targets(line) for line in lines):
            lines[:] = [_fed(line, plan) if _assigns(line, names) else line for line in lines]
            lines += ast.parse(f"_bench.tick({plan.image})").body
            return ast.fix_missing_locations(tree)
    raise ValueError(f"no loop of this train.py assigns {plan.image}: correct its line in PLANS")


def _targets(line: ast.stmt) -> set[str]:
    """Return the names that a plain assignment gives a value."""
    targets = line.targets if isinstance(line, ast.Assign) else []
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def _assigns(line: ast.stmt, names: set[str]) -> bool:
    """True for a statement of the loop that assigns parts of the batch and nothing else."""
    return bool(_targets(line)) and _targets(line) <= names


def _fed(line: ast.stmt, plan: Plan) -> ast.stmt:
    """Return the statement, with another one instead while the loop is fed."""
    instead = f"{plan.image} = _bench.feed({plan.image})" if plan.image in _targets(line) else "pass"
    either = ast.parse(f"if _bench.is_fed:\n    {instead}\nelse:\n    pass").body[0]
    assert isinstance(either, ast.If)
    either.orelse = [line]
    return either


def constants(source: str, on_gpu: bool) -> dict[str, Any]:
    """Return the constants on top of a train.py as they are on that device."""
    found: dict[str, Any] = {"ON_GPU": on_gpu}
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign) and (name := ast.unparse(line.targets[0])).isupper() and name != "ON_GPU":
            try:
                found[name] = eval(ast.unparse(line.value), {}, found)  # our own file, arithmetic on literals
            except NameError:  # made of what the file imports
                continue
    return found


def input_size(known: dict[str, Any]) -> tuple[int, int]:
    """Return height and width of the network's input."""
    return tuple(known["SIZE"]) if "SIZE" in known else (known["PX"], known["PX"])


def draw(folder: Path, plan: Plan, px: int, images: int) -> None:
    """Write a dataset as a run sees it: pictures, cases.csv, masks, boxes, the server's decoded cache; and the same as class folders."""
    for name in ("data/images", "data/masks", "plain/no", "plain/yes", "session/answers", "out", "weights"):
        (folder / name).mkdir(parents=True)
    cache = np.empty((images if plan.task_type == "classification" else 0, px, px, 3), dtype=np.uint8)
    boxes: list[tuple[int, int, int, int]] = [(0, 0, 1, 1)] * images

    def one(index: int) -> None:
        rng = np.random.default_rng(index)
        width, height = plan.sizes[index % len(plan.sizes)]
        coarse = Image.fromarray(rng.integers(60, 200, (9, 12, 3)).astype(np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = pixels + rng.integers(-5, 6, (height, width, 1), dtype=np.int16)
        w, h = width // 4, height // 4
        left, top = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        pixels[top : top + h, left : left + w] -= 50 * (index % 2)
        boxes[index] = (left, top, w, h)
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        name = f"case{index:06d}"
        picture.save(folder / f"data/images/{name}.jpg", quality=90)
        (folder / "plain" / ("yes" if index % 2 else "no") / f"{name}.jpg").symlink_to(
            folder / f"data/images/{name}.jpg"
        )
        if plan.task_type == "classification":
            side = min(width, height)
            corner = ((width - side) // 2, (height - side) // 2)
            box = (*corner, corner[0] + side, corner[1] + side)
            cache[index] = np.asarray(picture.resize((px, px), Image.Resampling.BICUBIC, box=box))
        if plan.masks:
            mask = np.zeros((height, width), dtype=bool)
            mask[top : top + h, left : left + w] = index % 2
            Image.fromarray(mask).save(folder / f"data/masks/{name}.png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(images)))
    names = [f"case{index:06d}" for index in range(images)]
    if plan.task_type == "classification":  # the other templates look at the whole picture, not at its central square
        np.save(folder / f"data/cache_{px}.npy", cache)
        (folder / f"data/cache_{px}.json").write_text(json.dumps({"case_ids": names}), encoding="utf-8")
    n_val = max(16, images // 16)
    supervision = "mask" if plan.masks else "box" if plan.task_type == "detection" else "image"
    with (folder / "data/cases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case_id", "split", "group", "label", "supervision", "drain"))
        for index, name in enumerate(names):
            known = index >= n_val
            label = ("yes" if index % 2 else "no") if known else ""
            writer.writerow(
                (name, "train" if known else "val", name, label, supervision if known else "", index // 2 % 2)
            )
    if plan.task_type == "detection":
        trained = range(n_val, images)
        table = {
            "images": [{"id": names[i], "file_name": f"{names[i]}.jpg"} for i in trained],
            "categories": [{"id": 1, "name": "finding"}],
            "annotations": [
                {"id": i, "image_id": names[i], "category_id": 1, "bbox": list(boxes[i])} for i in trained if i % 2
            ],
        }
        (folder / "data/boxes.json").write_text(json.dumps(table), encoding="utf-8")


def plain_batches(folder: Path, size: tuple[int, int], batch: int, device: Any) -> Iterator[Any]:
    """Yield images (B, 3, height, width) from files, as torchvision's own reference training does, for as long as anyone asks."""
    import torch
    from torchvision import datasets, transforms

    steps = [transforms.Resize(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pictures = datasets.ImageFolder(str(folder / "plain"), transforms.Compose(steps))
    endless = torch.utils.data.RandomSampler(pictures, replacement=True, num_samples=10**7)  # no pause between epochs
    loader = torch.utils.data.DataLoader(
        pictures,
        batch_size=batch,
        sampler=endless,
        num_workers=os.cpu_count() or 1,
        pin_memory=device.type == "cuda",
    )
    for x, _ in loader:
        yield x.to(device, non_blocking=True, memory_format=torch.channels_last)


def measure(name: str, mode: str, folder: Path, seconds: float) -> dict[str, float]:
    """Run a template's train.py in this process until it was measured; needs the environment that `_environment` makes."""
    import torch

    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    template = ROOT / "task_templates" / name
    source = (template / "train.py").read_text(encoding="utf-8")
    known = constants(source, device.type == "cuda")
    sys.path[:0] = [str(template), str(ROOT / "sandbox_images" / "runtime")]
    if mode == "host":
        torch.cuda.mem_get_info = lambda *_: (0, 0)  # nothing fits any more
    warm_up = WARM_UP_STEPS[device.type]
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    feed = partial(plain_batches, folder, input_size(known), known["BATCH"], device)
    bench = Bench(mode, seconds, warm_up, feed, wait)
    with contextlib.suppress(_Measured):
        if mode == "loader":
            for x in feed():
                bench.tick(x)
        code = compile(instrumented(source, PLANS[name]), str(template / "train.py"), "exec")
        exec(code, {"__name__": "__main__", "_bench": bench})
    steps = bench.steps - warm_up
    return {
        "images_per_s": round(steps * bench.batch / bench.measured_s, 1),
        "ms_per_step": round(1000 * bench.measured_s / steps, 2),
        "cpu_ms_per_step": round(1000 * bench.measured_cpu_s / steps, 2),
        "first_step_s": round(bench.first_step_s, 2),
        "gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else 0,
    }


def _environment(folder: Path, plan: Plan, device: str) -> dict[str, str]:
    """Write the session of a run that has an hour left, and return the variables that lead to it."""
    classes = ["no", "yes"]
    facts = {
        "mode": "full",
        "phase": "train",
        "task_type": plan.task_type,
        "classes": classes,
        "targets": [] if plan.task_type == "classification" else ["finding"],
        "seed": 0,
        "deadline_unix": time.time() + 3600,
        "primary_metric": "",
        "validations_cap": 0,
        "gpus": int(device == "cuda"),
        "cpus": os.cpu_count(),
    }
    (folder / "session/session.json").write_text(json.dumps(facts), encoding="utf-8")
    moved = {f"CLINLOOP_{part.upper()}": str(folder / part) for part in ("data", "out", "session", "weights")}
    hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **moved, **hidden, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def figures(name: str, *, device: str, seconds: float, images: int, modes: list[str]) -> dict[str, Any]:
    """Return the figures of one template."""
    plan = PLANS[name]
    known = constants((ROOT / "task_templates" / name / "train.py").read_text(encoding="utf-8"), device == "cuda")
    size = input_size(known)
    found: dict[str, Any] = {"arch": known.get("ARCH", ""), "input": size, "batch": known["BATCH"], "images": images}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder, plan, size[0], images)
        for mode in modes:
            argv = [sys.executable, __file__, "--measure", name, mode, str(folder), str(seconds)]
            environment = _environment(folder, plan, device)
            ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240, check=False)
            found[mode] = {"problem": ended.stderr.strip()[-1500:]}
            if ended.returncode == 0:
                found[mode] = json.loads(ended.stdout.strip().splitlines()[-1])
            print(f"{name} {mode}: {found[mode]}", file=sys.stderr, flush=True)
    return found | ratios(found)


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Return how the real data path compares: to the limit (goal 0.95) and to the plain loader (goal 2)."""
    rate = {mode: one["images_per_s"] for mode, one in found.items() if isinstance(one, dict) and "images_per_s" in one}
    wanted = {"of_limit": ("real", "limit"), "host_of_limit": ("host", "limit"), "of_plain": ("real", "plain")}
    return {
        name: round(rate[above] / rate[below], 3)
        for name, (above, below) in wanted.items()
        if above in rate and below in rate
    }


def machine(device: str) -> str:
    """Return what the figures were taken on."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    return f"{name}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Measure and print JSON."""
    if sys.argv[1:2] == ["--measure"]:
        name, mode, folder, seconds = sys.argv[2:]
        print("\n" + json.dumps(measure(name, mode, Path(folder), float(seconds))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--templates", default=",".join(PLANS))
    parser.add_argument("--modes", default="limit,real,host,plain,loader", help="host is left out on a CPU")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement, after its warm-up")
    parser.add_argument("--images", type=int, default=0, help="pictures to draw; default 1024 on a GPU, 256 on a CPU")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    modes = [mode for mode in arguments.modes.split(",") if mode != "host" or arguments.device == "cuda"]
    images = arguments.images or (1024 if arguments.device == "cuda" else 256)
    found: dict[str, Any] = {"machine": machine(arguments.device)}
    for name in arguments.templates.split(","):
        found[name] = figures(name, device=arguments.device, seconds=arguments.seconds, images=images, modes=modes)
        if arguments.json:  # after each template: a machine that is taken away keeps what there is
            arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
