"""Losses for rare classes: focal, LDAM, class-balanced weights, logit adjustment; and Dice for masks."""

import torch
import torch.nn.functional as F


def focal_loss(logits, y, gamma=2.0, weight=None):
    """Return the mean focal loss of logits (B, K) and labels (B,): easy cases count (1 - p)^gamma.

    weight: (K,) factor per class. gamma = 0 is cross-entropy. Source: Lin et al. 2017, arXiv 1708.02002, eq. 4.
    """
    loss = F.cross_entropy(logits, y, reduction="none")  # (B,) = -log p of the true class
    factor = 1.0 if weight is None else weight[y]
    return ((1 - torch.exp(-loss)) ** gamma * loss * factor).mean()


def ldam_loss(logits, y, counts, max_margin=0.5, scale=30.0, weight=None):
    """Return the LDAM loss: the rarer a class, the larger the margin its logit must win by.

    logits: (B, K), of a normalised last layer (cosines); for a plain last layer use scale=1. counts: (K,) training cases per class.
    Switch `weight` on (e.g. `class_balanced_weights`) only in the last fifth of training. Source: Cao et al. 2019, arXiv 1906.07413, eq. 13.
    """
    margins = counts.to(logits) ** -0.25
    margins = margins * (max_margin / margins.max())  # (K,)
    shifted = logits - F.one_hot(y, logits.shape[1]) * margins
    return F.cross_entropy(scale * shifted, y, weight=weight)


def class_balanced_weights(counts, beta=0.999):
    """Return weights (K,) with mean 1 by the effective number of cases. Source: Cui et al. 2019, arXiv 1901.05555, eq. 4."""
    weights = (1 - beta) / (1 - beta ** counts.double())
    return (weights / weights.mean()).float()


def logit_adjusted_loss(logits, y, counts, tau=1.0):
    """Return cross-entropy of logits + tau log prior: balanced accuracy without resampling. Source: Menon et al. 2021, arXiv 2007.07314, eq. 10."""
    prior = counts.to(logits) / counts.sum()
    return F.cross_entropy(logits + tau * prior.log(), y)


def dice_loss(logits, masks, smooth=1.0):
    """Return 1 - soft Dice of mask logits (B, T, H, W) and masks (B, T, H, W) in {0, 1}, over the batch: empty masks are then no problem.

    Source: Milletari et al. 2016 (V-Net), arXiv 1606.04797, with sums over the batch as nnU-Net's batch_dice.
    """
    p = logits.float().sigmoid()
    both = (p * masks).sum((0, 2, 3))  # (T,)
    return 1 - ((2 * both + smooth) / (p.sum((0, 2, 3)) + masks.sum((0, 2, 3)) + smooth)).mean()
