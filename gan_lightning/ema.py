"""The generator's exponential moving average."""

from copy import deepcopy

import torch
from torch import nn


class MovingAverage(nn.Module):
    """a <- d a + (1 - d) w over the weights and the floating-point buffers of a network (Yazici et al. 2019).

    With warm-up the decay of update n, from 0, is min(decay, (1 + n) / (10 + n)), so that the first, random weights are
    soon forgotten. BatchNorm's running statistics are averaged with the same decay, its counters are copied.
    """

    def __init__(self, network: nn.Module, decay: float, warmup: bool = True) -> None:
        super().__init__()
        if not 0.0 < decay < 1.0:
            raise ValueError(f"model.ema_decay is {decay}: give a number between 0 and 1, such as 0.999.")
        self.network = deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.warmup = warmup

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the network after its update number ``step``, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        old, new = self._floating(self.network), self._floating(network)
        torch._foreach_lerp_(old, new, 1.0 - decay)
        for old_counter, new_counter in zip(self.network.buffers(), network.buffers(), strict=True):
            if not old_counter.is_floating_point():
                old_counter.copy_(new_counter)

    @staticmethod
    def _floating(network: nn.Module) -> list[torch.Tensor]:
        return [p.data for p in network.parameters()] + [b for b in network.buffers() if b.is_floating_point()]
