"""Repeating a network's pass with the same random numbers and buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gan_lightning.streams import Mark

Buffers = dict[str, Tensor | None]


class Replay:
    """Created before a network's pass, it repeats the pass on other inputs with all else equal.

    Augmentation and dropout draw the same numbers, and spectral normalization divides by the same singular values.
    Changes to buffers by the second pass, such as BatchNorm's running statistics, are discarded: samples count once.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.mark = Mark(device)
        self.buffers = [(module, _copied(module._buffers)) for module in network.modules() if module._buffers]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Run passes inside the context from the state before the first pass, and restore the state on exit."""
        now = [dict(module._buffers) for module, _ in self.buffers]
        for module, buffers in self.buffers:
            module._buffers.update(_copied(buffers))
        try:
            with self.mark.again():
                yield
        finally:
            for (module, _), buffers in zip(self.buffers, now, strict=True):
                module._buffers.update(buffers)


def _copied(buffers: Buffers) -> Buffers:
    return {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
