"""Gradient reversal: features from which an attribute cannot be read; and the fresh probe that shows whether that worked."""

import math

import torch
import torch.nn.functional as F


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient, None


def reverse(x, strength=1.0):
    """Return x; its gradient comes back times -strength.

    Use: `F.binary_cross_entropy_with_logits(drain_head(reverse(features, strength)), drain)` beside the main loss. Balance the four
    disease x attribute cells first (balanced_sampling.py): otherwise it removes the disease signal together with the attribute.
    Source: Ganin and Lempitsky 2015, arXiv 1409.7495, eq. 4-6.
    """
    return _Reverse.apply(x, strength)


def ramp(progress, high=1.0, gamma=10.0):
    """Return a strength that grows from 0 to `high` with progress in [0, 1]. Source: the same, section 5.2.2: 2 / (1 + exp(-10 p)) - 1."""
    return high * (2 / (1 + math.exp(-gamma * progress)) - 1)


def fresh_probe_auc(features, attribute, l2=1e-3, steps=100):
    """Return the AUC with which a NEW linear probe reads a binary attribute from features; .5 = it is gone.

    The head that was trained adversarially proves nothing: it may merely have been beaten. features: (N, D), attribute: (N,) of 0 and 1.
    The probe is fitted on one half of the cases and measured on the other (even and odd rows; shuffle before if rows are sorted).
    """
    x = features.detach().float()
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    y = attribute.to(x)
    weights = torch.zeros(x.shape[1] + 1, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x[::2] @ weights[:-1] + weights[-1], y[::2])
        loss = loss + l2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    scores = (x[1::2] @ weights[:-1]).detach()
    return auc(scores, y[1::2])


def auc(scores, y):
    """Return the area under the ROC curve of scores (N,) for labels (N,) of 0 and 1; ties count half."""
    low, high = scores[y < 0.5], scores[y > 0.5].sort().values
    below = torch.searchsorted(high, low)  # positives under each negative
    upto = torch.searchsorted(high, low, right=True)
    return 1 - float((below + upto).double().sum() / (2 * len(low) * len(high)))
