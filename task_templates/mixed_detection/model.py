"""The detector and everything that train.py and predict.py must do alike: decode, prepare, find boxes, save, load.

One box = one peak of a heat map at a quarter of the input's size; there, four numbers say how far its sides are away.
Sources: heat map and peaks, CenterNet (arXiv 1904.07850); distances to the sides, FCOS (arXiv 1904.01355).
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.ops import batched_nms

RANK = int(os.environ.get("LOCAL_RANK", "0"))  # with several GPUs: which of the processes, each has one
DEVICE = torch.device("cuda", RANK) if torch.cuda.is_available() else torch.device("cpu")
STRIDE = 4  # input pixels per cell of the heat map
PEAKS = 50  # most boxes of one image
OVERLAP = 0.5  # of two boxes with more IoU than this, the one with the lower score goes
PRIOR = 0.01  # score of every cell before training, so that the many empty cells do not drown the first steps


class Detector(nn.Module):
    """A timm network, a top-down neck, and two heads on the finest level."""

    def __init__(self, arch, n_targets, width):
        super().__init__()
        self.body = timm.create_model(arch, features_only=True)
        channels, strides = self.body.feature_info.channels(), self.body.feature_info.reduction()
        self.levels = [i for i, stride in enumerate(strides) if stride >= STRIDE]  # 4, 8, 16, 32
        self.across = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in self.levels)
        self.smooth = nn.ModuleList(_block(width) for _ in self.levels[1:])
        self.last = _block(width)
        self.heat = nn.Conv2d(width, n_targets, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.heat.bias, float(np.log(PRIOR / (1 - PRIOR))))
        nn.init.constant_(self.sides.bias, 1.0)

    def forward(self, x):  # (B, 3, height, width)
        found = self.body(x)
        maps = [conv(found[i]) for conv, i in zip(self.across, self.levels, strict=True)]
        top = maps[-1]
        for below, smooth in zip(maps[-2::-1], self.smooth, strict=True):
            top = smooth(below + F.interpolate(top, size=below.shape[2:], mode="nearest"))
        top = self.last(top)
        # heat: logits (B, n_targets, height / 4, width / 4); sides: left, top, right, bottom of a cell's centre, in input pixels
        return self.heat(top), STRIDE * F.softplus(self.sides(top).float())


def _block(width):
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def build(arch, n_targets, width, weights=None):
    """Return a detector; with `weights`, a folder that holds a file named after `arch`, its body starts from that file."""
    net = Detector(arch, n_targets, width)
    files = sorted(path for path in weights.glob(f"{arch}*") if path.is_file()) if weights and weights.is_dir() else []
    if files:
        given = load_file(files[0]) if files[0].suffix == ".safetensors" else torch.load(files[0], weights_only=True)
        own = net.body.state_dict()
        named = {
            key: key.replace("stem.", "stem_").replace("stages.", "stages_") for key in given
        }  # as features_only names
        fitting = {n: given[k] for k, n in named.items() if n in own and own[n].shape == given[k].shape}
        fitting |= {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
        net.body.load_state_dict(fitting, strict=False)
    net = net.to(DEVICE, memory_format=torch.channels_last)  # the fast layout of convolutions, on CPU too
    return net, files[0].name if files else "random initialisation"


def decode(path, size):
    """Return an image as grey (height, width) uint8, shrunk to fit into the upper left corner, and how much it was scaled."""
    height, width = size
    with Image.open(path) as file:
        image = file.convert("L")
    scale = min(height / image.height, width / image.width)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BILINEAR
    )
    sheet = np.zeros(size, np.uint8)
    sheet[: small.height, : small.width] = np.asarray(small)[:height, :width]
    return sheet, scale, image.size


def decode_all(paths, size):
    """Return images (N, height, width) uint8, their scales (N,) and original sizes (N, 2) as width and height."""
    with ThreadPoolExecutor() as pool:
        sheets, scales, sizes = zip(*pool.map(lambda path: decode(path, size), paths), strict=True)
    return np.stack(sheets), np.array(scales, np.float32), np.array(sizes, np.float32)


def upload(images):
    """Return an array (B, ...) as a tensor on the device; out of pinned memory, so that the host does not wait for the GPU."""
    images = torch.as_tensor(images)
    return images.pin_memory().to(DEVICE, non_blocking=True) if DEVICE.type == "cuda" else images


def prepare(images, mean, std):
    """Turn uint8 images (B, height, width) into network input (B, 3, height, width)."""
    x = upload(images).float().div(255).sub(mean).div(std)
    return x[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def autocast():
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


def centres(height, width, device):
    """Return the centres of the cells in input pixels: x (1, width), y (height, 1)."""
    steps = [(torch.arange(n, device=device) + 0.5) * STRIDE for n in (width, height)]
    return steps[0][None, :], steps[1][:, None]


def corners(sides):
    """Turn distances to the sides (B, 4, h, w) into boxes (B, 4, h, w): left, top, right, bottom in input pixels."""
    x, y = centres(*sides.shape[2:], sides.device)
    left, top, right, bottom = sides.unbind(1)
    return torch.stack([x - left, y - top, x + right, y + bottom], 1)


def outputs(net, x):
    """Return scores (B, n_targets, h, w) and boxes (B, 4, h, w) of network input; put test-time augmentation here."""
    heat, sides = net(x)
    return heat.float().sigmoid(), corners(sides)


@torch.inference_mode()
def predict(net, images, scales, sizes, mean, std, batch=32):
    """Return the boxes of images as `decode_all` gives them: per image a list of (target, x, y, width, height, score), in
    pixels of the image file, the highest score first."""
    net.eval()
    found = []
    for start in range(0, len(images), batch):
        x = prepare(np.ascontiguousarray(images[start : start + batch]), mean, std)  # (B, 3, height, width)
        with autocast():
            scores, boxes = outputs(net, x)
        is_peak = scores == F.max_pool2d(scores, 3, stride=1, padding=1)
        values, index = (scores * is_peak).flatten(1).topk(min(PEAKS, scores[0].numel()))  # (B, PEAKS)
        cells = scores.shape[2] * scores.shape[3]
        targets = index // cells  # (B, PEAKS)
        picked = boxes.flatten(2).gather(2, (index % cells)[:, None].expand(-1, 4, -1)).transpose(1, 2)  # (B, PEAKS, 4)
        for row in range(len(x)):
            found.append(_in_pixels(picked[row], values[row], targets[row], scales[start + row], sizes[start + row]))
    return found


def _in_pixels(boxes, scores, targets, scale, size):
    """Return boxes (PEAKS, 4) of one image as a list in pixels of its file, without those that overlap better ones."""
    kept = batched_nms(boxes, scores, targets, OVERLAP)
    width, height = (float(side) for side in size)
    found = []
    for target, score, box in zip(targets[kept].tolist(), scores[kept].tolist(), boxes[kept].tolist(), strict=True):
        left, top = max(0.0, box[0] / scale), max(0.0, box[1] / scale)
        right, bottom = min(width, box[2] / scale), min(height, box[3] / scale)
        if right - left > 1 and bottom - top > 1 and score > 1e-4:
            found.append((target, float(left), float(top), float(right - left), float(bottom - top), score))
    return found


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
    net, _ = build(about["arch"], len(about["targets"]), about["width"])
    net.load_state_dict(tensors)
    return net, about
