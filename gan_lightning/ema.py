"""The generator's exponential moving average."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

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
        if any(isinstance(weight, UninitializedParameter) for weight in network.parameters()):
            raise UsageError("An average needs weights, but the generator has lazy layers: call it on latents first.")
        self.network = deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.warmup = warmup

    def follow(self, network: nn.Module) -> None:
        """Set the network to follow, after both networks are on the training device."""
        self._weights = [
            [_real(weight) for weight in part.parameters() if weight.is_floating_point() or weight.is_complex()]
            for part in (self.network, network)
        ]
        self._averaged, self._copied = (
            [_places(part, is_floating) for part in (self.network, network)] for is_floating in (True, False)
        )

    @torch.no_grad()
    def update(self, step: int, images: int = 1) -> None:
        """Update the average after the network's update ``step``, from 0, which used ``images`` images."""
        decay = self.decay(images) if isinstance(self.decay, HalfLife) else self.decay
        decay = min(decay, (1 + step) / (10 + step)) if self.warmup else decay
        # buffers by their places, since a network may assign another tensor
        averages, values = (
            [*weights, *(buffers[name] for buffers, name in places)]
            for weights, places in zip(self._weights, self._averaged, strict=True)
        )
        torch._foreach_lerp_(averages, values, 1.0 - decay)
        if self._copied[0]:
            copies, copied = ([buffers[name] for buffers, name in places] for places in self._copied)
            torch._foreach_copy_(copies, copied)


def _real(weight: Tensor) -> Tensor:
    """The weight, or a view of the real and imaginary parts of a complex one."""
    return torch.view_as_real(weight.detach()) if weight.is_complex() else weight


def _places(network: nn.Module, is_floating: bool) -> list[tuple[dict[str, Any], str]]:
    """Where the buffers are that have a floating-point type, or those that do not, each once."""
    found = {
        id(buffer): (module._buffers, name)
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.is_floating_point() == is_floating
    }
    return list(found.values())
