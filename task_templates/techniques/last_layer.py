"""Last-layer retraining: keep the features, fit the classifier anew on balanced groups; seconds of work after training."""

import torch
import torch.nn.functional as F


def refit_last_layer(features, y, groups, n_classes, l2=1e-2, draws=10, steps=100, seed=0):
    """Return weight (K, D) and bias (K,) of a linear classifier that every group shaped equally.

    features: (N, D), best of cases that did not train the network (hold out some groups). y: (N,) int. groups: (N,) int, e.g. disease x
    drain. Each draw takes as many cases of every group as the smallest has; the results are averaged.
    Source: Kirichenko et al. 2023 (deep feature reweighting), arXiv 2204.02937, section 6; L2 here for their L1.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x = ((features - mean) / deviation).float()
    members = [torch.nonzero(groups.cpu() == group).flatten() for group in groups.unique().cpu()]
    smallest = min(len(rows) for rows in members)
    total = torch.zeros(n_classes, x.shape[1] + 1, device=x.device)
    for _ in range(draws):
        rows = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:smallest]] for rows in members])
        total += _fit(x[rows.to(x.device)], y[rows.to(y.device)], n_classes, l2, steps)
    weight = total[:, :-1] / draws / deviation  # undo the standardisation
    return weight, total[:, -1] / draws - weight @ mean.to(weight)


def _fit(x, y, n_classes, l2, steps):
    """Return (K, D + 1): weights and bias of a multinomial logistic regression."""
    both = torch.zeros(n_classes, x.shape[1] + 1, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([both], max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ both[:, :-1].T + both[:, -1], y) + l2 * both[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return both.detach()
