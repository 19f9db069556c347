"""The network and everything that train.py and predict.py must do alike: decode, prepare, predict, save, load."""

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

RANK = int(os.environ.get("LOCAL_RANK", "0"))  # with several GPUs: which of the processes, each has one
DEVICE = torch.device("cuda", RANK) if torch.cuda.is_available() else torch.device("cpu")
WIDTH = 32, 256  # least and most channels of a decoder block; between them, as many as the encoder has at that scale


class Unet(torch.nn.Module):
    """A timm encoder and a decoder that merges its feature maps from coarse to fine; one logit per pixel."""

    def __init__(self, arch):
        super().__init__()
        self.encoder = timm.create_model(arch, num_classes=0)
        channels = [stage["num_chs"] for stage in self.encoder.feature_info]  # fine to coarse
        self.encoder.prune_intermediate_layers(len(channels), prune_norm=True, prune_head=True)
        blocks, below = [], channels[-1]
        for skip in reversed(channels[:-1]):
            width = min(max(skip, WIDTH[0]), WIDTH[1])
            blocks.append(torch.nn.Sequential(*conv(below + skip, width), *conv(width, width)))
            below = width
        self.blocks = torch.nn.ModuleList(blocks)
        self.head = torch.nn.Conv2d(below, 1, 1)

    def forward(self, x):  # (B, 3, px, px)
        *skips, y = self.encoder.forward_intermediates(x, intermediates_only=True)  # coarsest last
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            y = F.interpolate(y, size=skip.shape[2:], mode="nearest")
            y = block(torch.cat([y, skip], dim=1))  # (B, width, h, w)
        return F.interpolate(self.head(y), size=x.shape[2:], mode="bilinear")  # (B, 1, px, px)


def conv(before, after):
    """Return the layers of a 3 x 3 convolution with its normalisation."""
    return [torch.nn.Conv2d(before, after, 3, padding=1, bias=False), torch.nn.BatchNorm2d(after), torch.nn.ReLU(True)]


def build(arch, weights=None):
    """Return the network; with `weights`, a folder that holds a file named after `arch`, the encoder starts from that file."""
    net = Unet(arch)
    files = sorted(path for path in weights.glob(f"{arch}*") if path.is_file()) if weights and weights.is_dir() else []
    if files:
        given = load_file(files[0]) if files[0].suffix == ".safetensors" else torch.load(files[0], weights_only=True)
        own = net.encoder.state_dict()
        net.encoder.load_state_dict(
            {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}, strict=False
        )
    net = net.to(DEVICE, memory_format=torch.channels_last)  # the fast layout of convolutions, on CPU too
    return net, files[0].name if files else "random initialisation"


def decode(path, px):
    """Return an image as (px, px, 3) uint8, the whole of it stretched to a square, and its height and width."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    return np.asarray(image.resize((px, px), Image.Resampling.BICUBIC)), (image.height, image.width)


def decode_mask(path, px):
    """Return a mask as (px, px) uint8: 255 times the share of each pixel that it covers."""
    with Image.open(path) as file:
        return np.asarray(file.convert("L").resize((px, px), Image.Resampling.BOX))


def decode_all(paths, px):
    """Return images as (N, px, px, 3) uint8, and the height and width of each file."""
    with ThreadPoolExecutor() as pool:
        images, sizes = zip(*pool.map(lambda path: decode(path, px), paths), strict=True)
    return np.stack(images), list(sizes)


def place(images):
    """Return an array (N, ...) uint8 as a tensor where batches cost least: on the GPU, when half of what is free there holds it."""
    images = torch.from_numpy(images)
    fits = DEVICE.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(DEVICE)[0] / 2
    return images.to(DEVICE) if fits else images


def take(images, rows):
    """Return rows (B,) of what was placed on the device, (B, ...) uint8; the host never waits for the GPU here."""
    rows = torch.from_numpy(rows)
    if DEVICE.type == "cpu":
        return images.index_select(0, rows)  # ten times as fast as images[rows]
    if images.is_cuda:
        return images[rows.pin_memory().to(DEVICE, non_blocking=True)]
    batch = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype, pin_memory=True)
    return torch.index_select(images, 0, rows, out=batch).to(DEVICE, non_blocking=True)


def prepare(images, mean, std):
    """Turn uint8 images (B, px, px, 3), array or tensor, into network input (B, 3, px, px)."""
    x = torch.as_tensor(images).to(DEVICE).permute(0, 3, 1, 2).float().div_(255)  # (B, 3, px, px), channels last
    mean, std = torch.tensor(mean, device=DEVICE), torch.tensor(std, device=DEVICE)
    return (x - mean[:, None, None]) / std[:, None, None]


def autocast():
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


@torch.inference_mode()
def predict(net, images, sizes, mean, std, threshold, batch=64):
    """Return masks, bool arrays (height, width) of the files' sizes, for uint8 images (N, px, px, 3)."""
    net.eval()
    masks = []
    for start in range(0, len(images), batch):
        x = prepare(np.ascontiguousarray(images[start : start + batch]), mean, std)  # (B, 3, px, px)
        with autocast():
            logits = net(x)  # (B, 1, px, px)
        probabilities = logits.float().sigmoid()
        for i, size in enumerate(sizes[start : start + batch]):
            at_size = F.interpolate(probabilities[i : i + 1], size=size, mode="bilinear")  # (1, 1, height, width)
            masks.append((at_size[0, 0] >= threshold).cpu().numpy())
    return masks


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
    net, _ = build(about["arch"])
    net.load_state_dict(tensors)
    return net, about
