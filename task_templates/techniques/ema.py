"""Exponential moving average of weights: a smoother network to validate, to save, and to teach with."""

import copy

import torch


class Ema:
    """Keeps `ema.net`, the average of a network over the last steps; call `update(net)` after every optimizer step.

    half_life: in steps; a tenth of the steps of a short run is a good start. The first steps count fully (a bias-corrected average), so
    that the average is useful from the beginning. Buffers (batch-norm statistics) are averaged too; integers are copied.
    Source: Tarvainen and Valpola 2017 (mean teacher), arXiv 1703.01780; warm-up of the decay as in timm's ModelEmaV3.
    """

    def __init__(self, net, half_life=100.0):
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self._decay = 0.5 ** (1.0 / half_life)
        self._steps = 0

    @torch.no_grad()
    def update(self, net):
        """Move the average towards the network."""
        self._steps += 1
        share = max(1 - self._decay, 1 / self._steps)  # of the new weights
        own, new = self.net.state_dict(), net.state_dict()
        floats = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [own[name] for name in floats], [new[name] for name in floats], share
        )  # one kernel for all
        for name in own.keys() - set(floats):
            own[name].copy_(new[name])
