"""Speed of the templates: images/s of each one's training step through its real data path, against two other ways to feed the same step.

    limit   the same step on one batch that stays where it is: what the data path costs is what is missing to 1
    plain   the same step fed by torchvision's ImageFolder with PIL, one worker process a core: what most code does
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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 20


class Plan(NamedTuple):
    """What has to be known of a template to feed its loop."""

    task_type: str
    image: str
    """Name in the training loop of the images as the network gets them, (B, 3, px, px)."""
    others: tuple[str, ...] = ()
    """Names in the loop that belong to the batch too: masks, boxes, …"""
    sizes: tuple[tuple[int, int], ...] = ((600, 450), (1024, 1024))
    """Width and height of the pictures in turn; the default is that of ISIC 2019's two large sources."""


PLANS = {
    "classification": Plan("classification", "x"),
    "segmentation": Plan("segmentation", "x", ("y",), ((1024, 1024),)),
}


class _Measured(Exception):
    """Ends train.py from inside its loop."""


class Bench:
    """Counts the steps of a training loop and hands it batches; lives in the measuring process only."""

    def __init__(self, mode: str, seconds: float, plain: Callable[[], Iterator[Any]]) -> None:
        self.mode, self._seconds, self._plain = mode, seconds, plain
        self._batches: Iterator[Any] | None = None
        self._born = time.perf_counter()
        self._begun = self.first_step_s = self.measured_s = 0.0
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
        if self.steps == WARM_UP_STEPS:
            self._wait()
            self._begun = time.perf_counter()
        elif self.steps > WARM_UP_STEPS and now - self._begun > self._seconds:
            self._wait()
            self.measured_s, self.batch = time.perf_counter() - self._begun, len(images)
            raise _Measured

    def _wait(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def instrumented(source: str, plan: Plan) -> ast.Module:
    """Return train.py with the training loop's batch fed by `_bench` and its steps counted.

    Raises:
        ValueError: there is no loop that assigns the images.
    """
    tree = ast.parse(source)
    names = {plan.image, *plan.others}
    for loop in tree.body:
        if isinstance(loop, ast.While | ast.For):
            body, fed = [_fed(line, plan) if _assigns(line, names) else line for line in loop.body], 0
            fed = sum(_assigns(line, {plan.image}) for line in loop.body)
            if fed:
                loop.body = [*body, *ast.parse(f"_bench.tick({plan.image})").body]
                return ast.fix_missing_locations(tree)
    raise ValueError(f"no loop of this train.py assigns {plan.image}: correct its line in PLANS")


def _assigns(line: ast.stmt, names: set[str]) -> bool:
    """True for a statement of the loop that assigns nothing but parts of the batch."""
    if not isinstance(line, ast.Assign):
        return False
    found = {node.id for target in line.targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return bool(found & names) and found <= names


def _fed(line: ast.stmt, plan: Plan) -> ast.stmt:
    """Return the statement with another one instead when the loop is fed."""
    assert isinstance(line, ast.Assign)
    takes_image = _assigns(line, {plan.image, *plan.others}) and any(
        isinstance(node, ast.Name) and node.id == plan.image for target in line.targets for node in ast.walk(target)
    )
    instead = f"{plan.image} = _bench.feed({plan.image})" if takes_image else "pass"
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


def draw(folder: Path, plan: Plan, px: int, images: int) -> None:
    """Write a dataset as a run sees it: pictures, cases.csv, masks, boxes, the server's decoded cache; and the same as class folders."""
    for name in ("data/images", "data/masks", "plain/no", "plain/yes", "session/answers", "out", "weights"):
        (folder / name).mkdir(parents=True)
    cache = np.empty((images, px, px, 3), dtype=np.uint8)
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
        side = min(width, height)
        corner = ((width - side) // 2, (height - side) // 2)
        square = picture.resize((px, px), Image.Resampling.BICUBIC, box=(*corner, corner[0] + side, corner[1] + side))
        cache[index] = np.asarray(square)
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + h, left : left + w] = index % 2
        Image.fromarray(mask).save(folder / f"data/masks/{name}.png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(images)))
    names = [f"case{index:06d}" for index in range(images)]
    np.save(folder / f"data/cache_{px}.npy", cache)
    (folder / f"data/cache_{px}.json").write_text(json.dumps({"case_ids": names}), encoding="utf-8")
    n_val = max(16, images // 16)
    supervision = {"classification": "image", "detection": "box", "segmentation": "mask"}[plan.task_type]
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


def plain_batches(folder: Path, px: int, batch: int, device: Any) -> Iterator[Any]:
    """Yield images (B, 3, px, px) from files for ever, as torchvision's own reference training does."""
    import torch
    from torchvision import datasets, transforms

    steps = [transforms.Resize((px, px)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(str(folder / "plain"), transforms.Compose(steps)),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    while True:
        for x, _ in loader:
            yield x.to(device, non_blocking=True, memory_format=torch.channels_last)


def measure(name: str, mode: str, folder: Path, seconds: float, px: int, batch: int) -> dict[str, float]:
    """Run a template's train.py in this process until it was measured; needs the environment that `_environment` makes."""
    import torch

    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    template = ROOT / "task_templates" / name
    sys.path[:0] = [str(template), str(ROOT / "sandbox_images" / "runtime")]
    if mode == "host":
        torch.cuda.mem_get_info = lambda *_: (0, 0)  # nothing fits any more
    bench = Bench(mode, seconds, lambda: plain_batches(folder, px, batch, device))
    if mode == "loader":
        batches = plain_batches(folder, px, batch, device)
        while True:
            try:
                bench.tick(next(batches))
            except _Measured:
                break
    else:
        tree = instrumented((template / "train.py").read_text(encoding="utf-8"), PLANS[name])
        with contextlib.suppress(_Measured):
            exec(compile(tree, str(template / "train.py"), "exec"), {"__name__": "__main__", "_bench": bench})
    steps = bench.steps - WARM_UP_STEPS
    return {
        "images_per_s": round(steps * bench.batch / bench.measured_s, 1),
        "ms_per_step": round(1000 * bench.measured_s / steps, 2),
        "first_step_s": round(bench.first_step_s, 2),
        "gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else 0,
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


def figures(name: str, *, device: str, seconds: float, images: int) -> dict[str, Any]:
    """Return the figures of one template."""
    plan = PLANS[name]
    known = constants((ROOT / "task_templates" / name / "train.py").read_text(encoding="utf-8"), device == "cuda")
    px, batch = known["PX"], known["BATCH"]
    found: dict[str, Any] = {"arch": known.get("ARCH", ""), "px": px, "batch": batch, "images": images}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder, plan, px, images)
        modes = ["limit", "real", "plain", "loader", *(["host"] if device == "cuda" else [])]
        for mode in modes:
            argv = [sys.executable, __file__, "--measure", name, mode, str(folder), str(seconds), str(px), str(batch)]
            ended = subprocess.run(
                argv, env=_environment(folder, plan, device), capture_output=True, text=True, timeout=600, check=False
            )
            if ended.returncode != 0:
                found[mode] = {"problem": ended.stderr.strip()[-800:]}
                continue
            found[mode] = json.loads(ended.stdout.strip().splitlines()[-1])
            print(f"{name} {mode}: {found[mode]}", file=sys.stderr, flush=True)
    rate = {mode: found[mode].get("images_per_s") for mode in modes}
    for ratio, (above, below) in {
        "of_limit": ("real", "limit"),
        "host_of_limit": ("host", "limit"),
        "of_plain": ("real", "plain"),
    }.items():
        if rate.get(above) and rate.get(below):
            found[ratio] = round(rate[above] / rate[below], 3)
    return found


def machine(device: str) -> str:
    """Return what the figures were taken on."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    return f"{name}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Measure and print JSON."""
    if sys.argv[1:2] == ["--measure"]:
        name, mode, folder, seconds, px, batch = sys.argv[2:]
        result = measure(name, mode, Path(folder), float(seconds), int(px), int(batch))
        print("\n" + json.dumps(result))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--templates", default=",".join(PLANS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--images", type=int, default=0, help="pictures to draw; default 2048 on a GPU, 512 on a CPU")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = arguments.images or (2048 if arguments.device == "cuda" else 512)
    found: dict[str, Any] = {"machine": machine(arguments.device)}
    for name in arguments.templates.split(","):
        found[name] = figures(name, device=arguments.device, seconds=arguments.seconds, images=images)
        text = json.dumps(found, indent=1)
        if arguments.json:  # after each template: a machine that is taken away keeps what there is
            arguments.json.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
