"""The energy distance between two sets of samples, which needs no density."""

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from gan_lightning.batch import Batch
from gan_lightning.metrics.stored import Stored

BLOCK = 500  # rows of a distance matrix computed at once


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| - E|y - y'| of samples (N, ...) and (M, ...) (Szekely & Rizzo 2013).

    Computed in units of the data, in float64, over all pairs including a sample with itself (a V-statistic), so it is
    at least 0. For two sets from the same distribution its mean is E|x - x'| (1/N + 1/M).
    """
    x, y = (samples.flatten(1).double() for samples in (x, y))
    if x.shape[1] == 1:
        return _on_a_line(x.flatten(), y.flatten())
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def _mean_distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([torch.cdist(part, y).sum() for part in x.split(BLOCK)]).sum() / (len(x) * len(y))


def _on_a_line(x: Tensor, y: Tensor) -> Tensor:
    """The equal 2 integral (F(t) - G(t))^2 dt of the two empirical cdfs."""
    points, order = torch.cat([x, y]).sort()
    steps = torch.where(order < len(x), points.new_tensor(1 / len(x)), points.new_tensor(-1 / len(y)))
    return 2 * (steps.cumsum(0)[:-1].square() * points.diff()).sum()


class TwoSamples(Stored):
    """Base of metrics that compare all generated with all held-out samples."""

    generated: list[Tensor]
    real: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.store("generated", "real")

    def update(self, generated: Batch, real: Batch) -> None:
        self.generated.append(generated.x.detach())
        self.real.append(real.x.detach())

    def both(self) -> tuple[Tensor, Tensor]:
        """All generated and all held-out samples, on the CPU."""
        generated, real = (dim_zero_cat(state).cpu() for state in (self.generated, self.real))
        return generated, real


class Energy(TwoSamples):
    """The energy distance between generated and held-out samples; the floor is that between two real sets."""

    def compute(self) -> Tensor:
        return energy_distance(*self.both()).float()
