"""Teacher and student: what a trained network is sure of becomes training data, checked by what is known of the whole image."""

import math

import torch


def confident(probabilities, threshold=0.9):
    """Return (rows, labels): the cases (N, K) whose most likely class has at least this probability, and that class."""
    best, labels = probabilities.max(1)
    rows = torch.nonzero(best >= threshold).flatten()
    return rows, labels[rows]


def sharpen(probabilities, temperature=0.5):
    """Return soft pseudo-labels (N, K) nearer to one class. Source: Berthelot et al. 2019 (MixMatch), arXiv 1905.02249, eq. 7."""
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)


def gate_boxes(detections, is_positive, threshold=0.5, floor=0.05):
    """Return pseudo-boxes of one image that agree with its image-level label; None: leave the image out.

    detections: (target, x, y, width, height, score) each. An image labelled negative has no box, whatever the teacher says: a clean
    background. A positive one keeps what is above the threshold, at least its best box; where even that is below the floor the
    teacher has not seen the finding, and training on the image would teach it to miss. Source: arXiv 2306.13301, and paper task 4.
    """
    if not is_positive:
        return []
    ranked = sorted(detections, key=lambda found: -found[5])
    kept = [found for found in ranked if found[5] >= threshold]
    if kept:
        return kept
    return ranked[:1] if ranked and ranked[0][5] >= floor else None


def best_threshold(scores, is_true, n_truths, beta=1.0):
    """Return the score above which pseudo-labels have the best F-beta on cases whose truth is known (hold some out of the teacher's training).

    scores: (N,) of all predictions, is_true: (N,) whether each matched a truth, n_truths: how many truths there were. beta < 1 prefers
    precision: false pseudo-labels hurt more than missing ones. Source: arXiv 2210.10221.
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    best, threshold, hits = 0.0, math.inf, 0
    for n, i in enumerate(order, start=1):
        hits += bool(is_true[i])
        last_of_ties = n == len(order) or scores[order[n]] < scores[i]
        value = (1 + beta**2) * hits / (n + beta**2 * n_truths)
        if last_of_ties and value > best:
            best, threshold = value, float(scores[i])
    return threshold
