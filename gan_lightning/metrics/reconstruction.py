"""Reconstruction errors of images, for pixels in [0, 1]."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.pixels import to_bytes

BLOCK = 5000  # training images compared at once


class L1(Metric):
    """E |x - G(y)| over held-out pairs and their pixels."""

    full_state_update = False
    has_floor = False  # another real sample is not a translation of the input
    total: Tensor
    seen: Tensor

    def __init__(self, value_range: tuple[float, float]) -> None:
        super().__init__()
        self.width = value_range[1] - value_range[0]
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("seen", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        self.total += (generated.x - real.x).float().abs().flatten(1).mean(1).sum() / self.width
        self.seen += len(real.x)

    def compute(self) -> Tensor:
        return self.total / self.seen


class Reconstruction(Metric):
    """E |x - G(E(x))|^2 over held-out images and their pixels, and the same for the nearest training images.

    Validation always uses the same images, so the nearest training images are searched only once.
    """

    full_state_update = False
    total: Tensor
    nearest: Tensor
    seen: Tensor

    def __init__(
        self, reconstruct: Callable[[Tensor], Tensor], training: Tensor, value_range: tuple[float, float]
    ) -> None:
        super().__init__()
        self.reconstruct = reconstruct
        self.training_images = training  # uint8
        self.value_range = value_range
        self.found: list[Tensor] = []  # errors of the nearest training images, by batch
        self.batches = 0
        for name in ("total", "nearest"):
            self.add_state(name, default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("seen", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        width = self.value_range[1] - self.value_range[0]
        error = (self.reconstruct(real.x) - real.x).float() / width
        if len(self.found) == self.batches:
            self.found.append(nearest_error(to_bytes(real.x, self.value_range), self.training_images))
        self.total += error.square().flatten(1).mean(1).sum()
        self.nearest += self.found[self.batches].sum()
        self.seen += len(real.x)
        self.batches += 1

    def compute(self) -> dict[str, Tensor]:
        return {
            "reconstruction_error": self.total / self.seen,
            "nearest_error": self.nearest / self.seen,
        }

    def reset(self) -> None:
        super().reset()
        self.batches = 0


def nearest_error(images: Tensor, training: Tensor) -> Tensor:
    """min_t mean (x - t)^2 over training images t, pixels in [0, 1]; uint8 (N, ...) and (M, ...) to (N,)."""
    rows = images.flatten(1).float() / 255
    least = [torch.cdist(rows, block.to(rows.device).flatten(1) / 255).amin(1) for block in training.split(BLOCK)]
    return torch.stack(least).amin(0).square() / rows.shape[1]
