"""Generated integers against the uniform distribution over the even ones."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch


class _Counts(Metric):
    """How often each integer below ``max_int`` was generated."""

    full_state_update = False
    counts: Tensor

    def __init__(self, max_int: int, to_integers: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.to_integers = to_integers
        self.add_state("counts", default=torch.zeros(max_int, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        self.counts += torch.bincount(self.to_integers(generated.x), minlength=len(self.counts))


class EvenShare(_Counts):
    """The share of even samples."""

    def compute(self) -> Tensor:
        return self.counts[::2].sum() / self.counts.sum()


class Distinct(_Counts):
    """The number of distinct even integers generated, out of max_int / 2."""

    def compute(self) -> Tensor:
        return (self.counts[::2] > 0).sum().float()


class TotalVariation(_Counts):
    """sum_i |q_i - p_i| / 2 of the generated shares q against the uniform p over even integers."""

    def compute(self) -> Tensor:
        true = torch.zeros_like(self.counts, dtype=torch.float32)
        true[::2] = 2 / len(true)
        return 0.5 * (self.counts / self.counts.sum() - true).abs().sum()
