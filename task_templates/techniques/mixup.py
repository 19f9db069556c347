"""Mixup and CutMix: train on blends of two images and of their labels."""

import torch


def mixup(x, targets, alpha=0.2, groups=None):
    """Return a blend of a batch with itself in another order, one weight per image.

    x: (B, ...) float. targets: (B, K) float, one-hot or soft. groups: (B,) int: blend only within a group, so that no picture shows
    half a confounder. Loss of soft targets: `F.cross_entropy(logits, targets)`.
    Source: Zhang et al. 2018, arXiv 1710.09412, eq. 1; weights per image as in timm.
    """
    order = _partners(len(x), x.device, groups)
    weight = torch.distributions.Beta(alpha, alpha).sample((len(x),)).to(x)  # (B,)
    weight = torch.maximum(weight, 1 - weight)  # an image stays mostly itself
    blend = weight.view(-1, *[1] * (x.ndim - 1))
    return x * blend + x[order] * (1 - blend), targets * weight[:, None] + targets[order] * (1 - weight[:, None])


def cutmix(x, targets, alpha=1.0, groups=None):
    """Return a batch in which a rectangle of each image comes from another one; targets are blended by area.

    x: (B, C, H, W) float. targets: (B, K) float. The rectangle is the same for the whole batch.
    Source: Yun et al. 2019, arXiv 1905.04899, algorithm A1.
    """
    order = _partners(len(x), x.device, groups)
    height, width = x.shape[2:]
    side = float(torch.distributions.Beta(alpha, alpha).sample()) ** 0.5
    h, w = round(height * side), round(width * side)
    top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
    mixed = x.clone()
    mixed[:, :, top : top + h, left : left + w] = x[order, :, top : top + h, left : left + w]
    share = h * w / (height * width)
    return mixed, targets * (1 - share) + targets[order] * share


def _partners(n, device, groups):
    """Return a random order (n,); with groups every image is paired with one of its own group."""
    order = torch.randperm(n, device=device)
    if groups is None:
        return order
    partners = torch.arange(n, device=device)
    for group in groups.unique():
        rows = order[groups[order] == group]  # the rows of the group, shuffled
        partners[rows] = rows.roll(1)
    return partners
