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
from torch import nn

RANK = int(os.environ.get("LOCAL_RANK", "0"))  # with several GPUs: which of the processes, each has one
DEVICE = torch.device("cuda", RANK) if torch.cuda.is_available() else torch.device("cpu")
MASK_STRIDE = 4  # the mask head answers at a quarter of the input size
WIDTH = 32  # channels of the mask head


class Net(nn.Module):
    """A timm network whose features also say where the disease is: a mask head that adds up the scales, coarse to fine."""

    def __init__(self, arch, n_classes):
        super().__init__()
        self.body = timm.create_model(arch, num_classes=n_classes)
        scales = [(i, f["num_chs"]) for i, f in enumerate(self.body.feature_info) if f["reduction"] >= MASK_STRIDE]
        self.scales = [i for i, _ in scales]
        self.lateral = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for _, channels in scales)
        self.mask = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GELU(), nn.Conv2d(WIDTH, 1, 1))

    def forward(self, x):  # (B, 3, px, px)
        last, scales = self.body.forward_intermediates(x, indices=self.scales)
        up = None
        for lateral, scale in zip(reversed(self.lateral), reversed(scales), strict=True):  # coarse to fine
            here = lateral(scale)  # (B, WIDTH, h, w)
            up = here if up is None else here + F.interpolate(up, size=here.shape[-2:], mode="nearest")
        features = self.body.forward_head(last, pre_logits=True)  # (B, n_features)
        # (B, n_classes), (B, 1, px / MASK_STRIDE, px / MASK_STRIDE), (B, n_features)
        return self.body.forward_head(last), self.mask(up), features


def build(arch, n_classes, weights=None):
    """Return a network; with `weights`, a folder that holds a file named after `arch`, its body starts from that file."""
    net = Net(arch, n_classes)
    files = sorted(path for path in weights.glob(f"{arch}*") if path.is_file()) if weights and weights.is_dir() else []
    if files:
        given = load_file(files[0]) if files[0].suffix == ".safetensors" else torch.load(files[0], weights_only=True)
        own = net.body.state_dict()  # the classifier has another number of classes: leave it out
        net.body.load_state_dict({k: v for k, v in given.items() if k in own and own[k].shape == v.shape}, strict=False)
    net = net.to(DEVICE, memory_format=torch.channels_last)  # the fast layout of convolutions, on CPU too
    return net, files[0].name if files else "random initialisation"


def centre(path, mode, px, how):
    """Return the centre square of an image file as px x px pixels, as the server builds its cache."""
    with Image.open(path) as file:
        image = file.convert(mode)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.resize((px, px), how, box=(left, top, left + side, top + side)))


def decode_all(paths, px):
    """Return images as (N, px, px, 3) uint8."""
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda path: centre(path, "RGB", px, Image.Resampling.BICUBIC), paths)))


def decode_masks(paths, px):
    """Return masks as (N, 1, px / MASK_STRIDE, px / MASK_STRIDE) uint8, 255 = all of it, and which were drawn, (N,) bool.

    A path that is None, no mask, gives zeros that must not be learned from.
    """
    small, how = px // MASK_STRIDE, Image.Resampling.BOX
    with ThreadPoolExecutor() as pool:
        found = pool.map(
            lambda path: np.zeros((small, small), np.uint8) if path is None else centre(path, "L", small, how), paths
        )
        masks = np.stack(list(found))[:, None]
    return masks, np.array([path is not None for path in paths])


def place(images):
    """Return images (N, px, px, 3) uint8 as a tensor where batches cost least: on the GPU, when half of what is free there holds them."""
    images = torch.from_numpy(images)
    fits = DEVICE.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(DEVICE)[0] / 2
    return images.to(DEVICE) if fits else images


def take(images, rows):
    """Return rows (B,) of placed images on the device, (B, px, px, 3) uint8; the host never waits for the GPU here."""
    rows = torch.from_numpy(rows)
    if DEVICE.type == "cpu":
        return images.index_select(0, rows)  # ten times as fast as images[rows]
    if images.is_cuda:
        return images[rows.pin_memory().to(DEVICE, non_blocking=True)]
    batch = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype, pin_memory=True)
    return torch.index_select(images, 0, rows, out=batch).to(DEVICE, non_blocking=True)


def prepare(images, mean, std):
    """Turn uint8 images (B, px, px, 3) into network input (B, 3, px, px)."""
    x = torch.as_tensor(images).to(DEVICE).permute(0, 3, 1, 2).float().div_(255)  # (B, 3, px, px), channels last
    mean, std = torch.tensor(mean, device=DEVICE), torch.tensor(std, device=DEVICE)
    return (x - mean[:, None, None]) / std[:, None, None]


def autocast():
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


@torch.inference_mode()
def outputs(net, images, mean, std, batch=256):
    """Return class probabilities (N, n_classes) and features (N, n_features) of uint8 images (N, px, px, 3)."""
    net.eval()
    rows, features = [], []
    for start in range(0, len(images), batch):
        x = prepare(np.ascontiguousarray(images[start : start + batch]), mean, std)  # (B, 3, px, px)
        with autocast():
            logits, _, pooled = net(x)
        rows.append(logits.float().softmax(dim=1).cpu())
        features.append(pooled.float().cpu())
    return torch.cat(rows).numpy(), torch.cat(features).numpy()


def predict(net, images, mean, std):
    """Return class probabilities (N, n_classes) of uint8 images (N, px, px, 3)."""
    return outputs(net, images, mean, std)[0]


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
    net, _ = build(about["arch"], len(about["classes"]))
    net.load_state_dict(tensors)
    return net, about
