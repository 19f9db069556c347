"""Test-time augmentation: the mean over flips and quarter turns of the input. Put it into model.predict, so that train.py and predict.py agree."""

import torch

FLIP = ((0, False), (0, True))
"""As it is, and mirrored left-right: for pictures with an up and a down."""
DIHEDRAL = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))
"""All eight: for pictures without an up, e.g. dermoscopy."""


def turn(x, turns, mirrored):
    """Return images or masks (..., H, W) mirrored left-right (or not), then turned by quarter turns."""
    return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))


def turn_back(x, turns, mirrored):
    """Undo `turn`."""
    x = torch.rot90(x, -turns, (-2, -1))
    return x.flip(-1) if mirrored else x


def mean_probabilities(net, x, views=FLIP):
    """Return class probabilities (B, K) of images (B, C, H, W): the mean of softmax over the views."""
    return torch.stack([net(turn(x, *view)).float().softmax(1) for view in views]).mean(0)


def mean_masks(net, x, views=FLIP):
    """Return mask probabilities (B, T, H, W) of images (B, C, H, W): each view is turned back before the mean of sigmoid."""
    return torch.stack([turn_back(net(turn(x, *view)).float().sigmoid(), *view) for view in views]).mean(0)
