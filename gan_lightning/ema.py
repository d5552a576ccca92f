"""The generator's exponential moving average."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from gan_lightning.errors import UsageError
from gan_lightning.schedules import HalfLife


class MovingAverage(nn.Module):
    """a <- d a + (1 - d) w over the weights and the floating-point buffers of a network (Yazici et al. 2019).

    With warm-up, the decay at update n, from 0, is min(decay, (1 + n) / (10 + n)), so that the initial weights are
    forgotten quickly. BatchNorm's running statistics are averaged with the same decay; its counters are copied. The
    decay may be a ``HalfLife`` in images.
    """

    def __init__(self, network: nn.Module, decay: float | HalfLife, warmup: bool = True) -> None:
        super().__init__()
        if not isinstance(decay, HalfLife) and not 0.0 < decay < 1.0:
            raise UsageError(f"model.ema_decay is {decay}: give a number between 0 and 1, such as 0.999.")
        self.network = deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.warmup = warmup

    def follow(self, network: nn.Module) -> None:
        """Set the network to follow, after both networks are on the training device."""
        self._averages, self._averaged = _state(self.network, True), _state(network, True)
        self._copies, self._copied = _state(self.network, False), _state(network, False)

    @torch.no_grad()
    def update(self, step: int, images: int = 1) -> None:
        """Update the average after the network's update ``step``, from 0, which used ``images`` images."""
        decay = self.decay(images) if isinstance(self.decay, HalfLife) else self.decay
        decay = min(decay, (1 + step) / (10 + step)) if self.warmup else decay
        torch._foreach_lerp_(self._averages, self._averaged, 1.0 - decay)
        if self._copies:
            torch._foreach_copy_(self._copies, self._copied)


def _state(network: nn.Module, is_floating: bool) -> list[Tensor]:
    """The weights and buffers that have a floating-point type, or those that do not."""
    return [t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point() == is_floating]
