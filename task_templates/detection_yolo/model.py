"""The network and everything that train.py and predict.py must do alike: letterbox, predict, save, load."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

# Read by ultralytics at import; its sandbox image sets them too: no look-ups, no telemetry, no downloads, no installing.
os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
os.environ.setdefault("YOLO_CONFIG_DIR", "/tmp")

import numpy as np
import torch
from clinloop_runtime import MAX_DETECTIONS
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.ops import batched_nms, box_convert
from ultralytics.nn.tasks import DetectionModel, load_checkpoint

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
CONFIDENCE = 0.001  # boxes below are not worth ranking
IOU = 0.7  # of two boxes of one target, above which the weaker one goes


def build(arch, n_targets, weights=None):
    """Return the network of an ultralytics architecture; with `weights`, a folder that holds a file named after it, it starts from that."""
    net = DetectionModel(f"{arch}.yaml", nc=n_targets, verbose=False)
    files = sorted(path for path in weights.glob(f"{arch}*") if path.is_file()) if weights and weights.is_dir() else []
    if files:  # a .pt is a pickle: it is read here, in the sandbox, and nowhere else
        given = load_file(files[0]) if files[0].suffix == ".safetensors" else load_checkpoint(files[0])[0].state_dict()
        own = net.state_dict()  # the last layer has another number of targets: leave it out
        net.load_state_dict({k: v for k, v in given.items() if k in own and own[k].shape == v.shape}, strict=False)
    return net.to(DEVICE), files[0].name if files else "random initialisation"


def letterbox(path, px):
    """Return an image as (px, px, 3) uint8 in grey borders, and how it lies there: (scale, left, top, width, height of the file)."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    left, top = (px - width) // 2, (px - height) // 2
    canvas = np.full((px, px, 3), 114, dtype=np.uint8)  # 114: the border that ultralytics trains with
    canvas[top : top + height, left : left + width] = image.resize((width, height), Image.Resampling.BILINEAR)
    return canvas, (scale, left, top, *image.size)


def letterbox_all(paths, px):
    """Return images as (N, px, px, 3) uint8, and how each lies there."""
    with ThreadPoolExecutor() as pool:
        images, places = zip(*pool.map(lambda path: letterbox(path, px), paths), strict=True)
    return np.stack(images), list(places)


@torch.inference_mode()
def predict(net, images, places, batch=32):
    """Return detections per image, (target, x, y, width, height, score) in pixels of the file, for uint8 images (N, px, px, 3)."""
    net.eval()
    found = []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(DEVICE)
        x = pixels.permute(0, 3, 1, 2).float() / 255  # (B, 3, px, px), RGB in [0, 1] as ultralytics trains
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            out = net(x)
        out = (out[0] if isinstance(out, tuple) else out).float()  # (B, 4 + n_targets, A): centre, size, scores
        found += [_boxes(one, place) for one, place in zip(out, places[start : start + batch], strict=True)]
    return found


def _boxes(out, place):
    """Return the detections of one image from the network's output (4 + n_targets, A)."""
    scale, left, top, width, height = place
    scores, targets = out[4:].max(dim=0)  # (A,), (A,)
    kept = scores > CONFIDENCE
    boxes = box_convert(out[:4, kept].T, "cxcywh", "xyxy")  # (K, 4) in pixels of the square
    scores, targets = scores[kept], targets[kept]
    best = batched_nms(boxes, scores, targets, IOU)[:MAX_DETECTIONS]
    corner = torch.tensor([left, top, left, top], device=boxes.device)
    most = torch.tensor([width, height, width, height], device=boxes.device)
    boxes = box_convert(((boxes[best] - corner) / scale).clamp(min=0).minimum(most), "xyxy", "xywh")  # of the file
    rows = torch.cat([targets[best, None].float(), boxes, scores[best, None].clamp(0, 1)], dim=1).tolist()
    return [row for row in rows if row[3] > 0 and row[4] > 0]


def save(path, net, about):
    """Write weights and what predict.py must know about them into one file; it appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, partial, {"about": json.dumps(about)})
    partial.replace(path)


def load(path):
    """Return the network and the facts of a file that `save` wrote."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    net, _ = build(about["arch"], len(about["targets"]))
    net.load_state_dict(tensors)
    return net, about
