"""Differences between the columns of generated and held-out rows."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gan_lightning.metrics.energy import TwoSamples


def two_sample_ks(x: Tensor, y: Tensor) -> Tensor:
    """sup_t |F(t) - G(t)| of the empirical cdfs of samples (N,) and (M,) (Kolmogorov 1933, Smirnov 1939)."""
    points = torch.cat([x, y])
    f, g = (torch.searchsorted(part.sort().values, points, right=True).double() / len(part) for part in (x, y))
    return (f - g).abs().max()


def correlations(x: Tensor) -> Tensor:
    """Pearson correlations (d, d) of the columns of x (N, d); 0 with constant columns."""
    x = x - x.mean(0)
    norm = x.norm(dim=0)
    x = x / norm.where(norm > 0, torch.ones_like(norm))
    return x.T @ x


class TableMetrics(TwoSamples):
    """``ks``, ``share_error`` and ``correlation_error``, each for the worst column, category or pair of columns.

    These are the largest KS distance of a numeric column, and the largest absolute differences of a category's share
    and of the correlation of two numeric columns; columns that are constant in the held-out rows are left out.
    ``blocks`` are the columns' widths, 1 for a numeric column; in a wider block the argmax is the category.
    """

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        self.blocks = list(blocks)

    def compute(self) -> dict[str, Tensor]:
        x, y = (part.double().split(self.blocks, 1) for part in self.both())
        values: dict[str, Tensor] = {}
        numeric = [i for i, width in enumerate(self.blocks) if width == 1 and y[i].min() < y[i].max()]
        if numeric:
            values["ks"] = torch.stack([two_sample_ks(x[i][:, 0], y[i][:, 0]) for i in numeric]).max()
        if len(numeric) > 1:
            a, b = (correlations(torch.cat([part[i] for i in numeric], 1)) for part in (x, y))
            values["correlation_error"] = (a - b).fill_diagonal_(0).abs().max()
        errors = [(_shares(x[i]) - _shares(y[i])).abs().max() for i, width in enumerate(self.blocks) if width > 1]
        if errors:
            values["share_error"] = torch.stack(errors).max()
        return {name: value.float() for name, value in values.items()}


def _shares(part: Tensor) -> Tensor:
    return one_hot(part.argmax(1), part.shape[1]).double().mean(0)
