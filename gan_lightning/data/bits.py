"""Even integers as bits: every sample can be checked at a glance."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent
from torchmetrics import Metric

from gan_lightning import pictures
from gan_lightning.batch import Batch
from gan_lightning.data.synthetic import Synthetic
from gan_lightning.errors import UsageError
from gan_lightning.metrics.integers import Distinct, EvenShare, TotalVariation


def to_integers(bits: Tensor) -> Tensor:
    """Convert bits (N, width), highest first, to integers (N,); values of at least 1/2 count as 1."""
    powers = 2 ** torch.arange(bits.shape[1] - 1, -1, -1, device=bits.device)
    return ((bits >= 0.5) * powers).sum(1)


class EvenIntegers(Synthetic):
    """Uniform even integers from 0 up to but not including ``max_int``, as log2(max_int) bits, highest first."""

    def __init__(self, max_int: int, batch_size: int, **options: int) -> None:
        width = max_int.bit_length() - 1
        if max_int < 4 or 2**width != max_int:
            raise UsageError(f"data.max_int is {max_int}: give a power of two, at least 4, such as 128.")
        fair = torch.full((width,), 0.5)
        fair[-1] = 0.0  # the lowest bit of an even number
        super().__init__(Independent(Bernoulli(fair), 1), batch_size, **options)
        self.max_int = max_int
        self.monitor = ("val/total_variation", "min")

    def decode(self, samples: Tensor) -> Tensor:
        """The integers (N,) that samples (N, width) encode."""
        return to_integers(samples)

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """A bar chart of how often each integer was generated, even and odd in two colors."""
        return pictures.integer_shares(self.decode(samples.x), self.max_int)

    def metrics(self) -> dict[str, Metric]:
        return {
            "even": EvenShare(self.max_int, to_integers),
            "distinct": Distinct(self.max_int, to_integers),
            "total_variation": TotalVariation(self.max_int, to_integers),
        }
