"""The generator's exponential moving average."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gan_lightning.checks import is_number
from gan_lightning.errors import UsageError
from gan_lightning.schedules import HalfLife

STATISTICS = ("running_mean", "running_var")  # buffers of torch's normalization layers


class MovingAverage(nn.Module):
    """a <- d a + (1 - d) w over the weights of a network and the running statistics of its layers (Yazici et al. 2019).

    With warm-up, the decay at update n, from 0, is min(decay, (1 + n) / (10 + n)), so that the initial weights are
    forgotten quickly. Other buffers are copied: averaged counters, masks, or singular vectors of spectral normalization
    would be meaningless. The decay may be a ``HalfLife`` in images.
    """

    def __init__(self, network: nn.Module, decay: float | HalfLife, warmup: bool = True) -> None:
        super().__init__()
        if not isinstance(decay, HalfLife) and not (is_number(decay) and 0.0 < decay < 1.0):
            raise UsageError(f"ema_decay is {decay!r}: give a number between 0 and 1, such as 0.999.")
        if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
            raise UsageError("An average needs weights, but the generator has lazy layers: call it on latents first.")
        self.network = deepcopy(network).requires_grad_(False)
        for buffers, name in _places(self.network).values():
            buffers[name] = buffers[name].contiguous()  # an expanded one cannot be updated in place
        self._averaged, self._copied = (
            [name for name, (_, key) in _places(self.network).items() if (key in STATISTICS) == is_averaged]
            for is_averaged in (True, False)
        )
        self.decay = decay
        self.warmup = warmup

    def follow(self, network: nn.Module) -> None:
        """Set the network to follow, after both networks are on the training device.

        Raises:
            UsageError: its weights have 16 bits, which cannot hold an average's small changes.
        """
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        if small := {weight.dtype for weight in trained if weight.dtype.itemsize < 4}:
            raise UsageError(
                f"The generator's weights are {', '.join(map(str, small))}, too coarse for an average: keep them in "
                "float32, as with precision=bf16-mixed, or give ema_decay=0."
            )
        parts = self.network, network
        self._weights = [
            [_real(weight) for weight in part.parameters() if weight.is_floating_point() or weight.is_complex()]
            for part in parts
        ]
        self._places = [_places(part) for part in parts]

    @torch.no_grad()
    def update(self, step: int, images: int = 1) -> None:
        """Update the average after the network's update ``step``, from 0, which used ``images`` images."""
        decay = self.decay(images) if isinstance(self.decay, HalfLife) else self.decay
        decay = min(decay, (1 + step) / (10 + step)) if self.warmup else decay
        for name in self._averaged + self._copied:
            self._follow_shape(name)
        averages, values = (
            [*weights, *(_at(places[name]) for name in self._averaged)]
            for weights, places in zip(self._weights, self._places, strict=True)
        )
        if averages:
            torch._foreach_lerp_(averages, values, 1.0 - decay)
        if self._copied:
            copies, copied = ([_at(places[name]) for name in self._copied] for places in self._places)
            torch._foreach_copy_(copies, copied)

    def _follow_shape(self, name: str) -> None:
        """Start again from a buffer that has another shape or type now, as caches of positions have."""
        (buffers, key), place = (places[name] for places in self._places)
        if (buffers[key].shape, buffers[key].dtype) != (_at(place).shape, _at(place).dtype):
            buffers[key] = _at(place).clone()


def _real(weight: Tensor) -> Tensor:
    """The weight, or a view of the real and imaginary parts of a complex one."""
    return torch.view_as_real(weight.detach()) if weight.is_complex() else weight


def _places(network: nn.Module) -> dict[str, tuple[dict[str, Any], str]]:
    """Where each buffer is, by its name without torch.compile's part, since a network may assign another tensor."""
    found, seen = {}, set()
    for prefix, module in network.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in seen:  # averaged once, if it has several names
                seen.add(id(buffer))
                found[f"{prefix}.{name}".replace("_orig_mod.", "")] = module._buffers, name
    return found


def _at(place: tuple[dict[str, Any], str]) -> Tensor:
    buffers, name = place
    return buffers[name]
