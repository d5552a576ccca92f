"""A network's pass once more, by the same random numbers and from the same buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gan_lightning.streams import Mark

Buffers = dict[str, Tensor | None]


class Replay:
    """Made before a pass of a network, it lets one on other inputs differ from that pass by the inputs alone.

    Augmentation and dropout draw the same, and spectral normalization divides by the same singular values. What the
    second pass would leave behind, as in BatchNorm's running statistics, is dropped: samples count once.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.mark = Mark(device)
        self.buffers = [(module, _copied(module._buffers)) for module in network.modules() if module._buffers]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Passes inside begin where the first one began; afterwards all is as before."""
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
