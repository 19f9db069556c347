"""Group DRO: minimise the loss of the worst group instead of the mean."""

import torch


class GroupDro:
    """Turns losses per case into one loss in which groups with high loss weigh more and more.

    `loss = dro(losses, groups)` with losses (B,) not yet averaged and groups (B,) int. step: how fast weights move. Use it with strong
    weight decay or early stopping, otherwise every group is fitted and nothing differs from the mean; draw groups equally often.
    Source: Sagawa et al. 2020, arXiv 1911.08731, algorithm 1; step 0.01 as in SubpopBench.
    """

    def __init__(self, n_groups, step=0.01):
        self.weights = torch.full((n_groups,), 1.0 / n_groups)
        self._step = step

    def __call__(self, losses, groups):
        self.weights = self.weights.to(losses.device)
        n = torch.bincount(groups, minlength=len(self.weights)).to(losses)  # cases of each group in this batch
        sums = torch.zeros_like(self.weights, dtype=losses.dtype).index_add(0, groups, losses)
        means = sums / n.clamp(min=1)  # (n_groups,)
        seen = n > 0
        self.weights = self.weights * torch.where(seen, torch.exp(self._step * means.detach()), 1.0)
        self.weights = self.weights / self.weights.sum()
        used = self.weights * seen
        return (used / used.sum() * means).sum()
