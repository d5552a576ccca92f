"""Differences between the columns of generated and held-out rows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

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
    ``in_units`` maps rows to (N, columns) in float64, categories as indices; ``blocks`` are the columns' numbers of
    categories, 1 for a numeric column.
    """

    def __init__(self, blocks: Sequence[int], in_units: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.blocks = blocks
        self.in_units = in_units

    def compute(self) -> dict[str, Tensor]:
        x, y = map(self.in_units, self.both())
        values: dict[str, Tensor] = {}
        numeric = [i for i, width in enumerate(self.blocks) if width == 1 and y[:, i].min() < y[:, i].max()]
        if numeric:
            values["ks"] = torch.stack([two_sample_ks(x[:, i], y[:, i]) for i in numeric]).max()
        if len(numeric) > 1:
            a, b = (correlations(part[:, numeric]) for part in (x, y))
            values["correlation_error"] = (a - b).fill_diagonal_(0).abs().max()
        categorical = [(i, width) for i, width in enumerate(self.blocks) if width > 1]
        if categorical:
            errors = [_shares(x[:, i], width) - _shares(y[:, i], width) for i, width in categorical]
            values["share_error"] = torch.cat(errors).abs().max()
        return {name: value.float() for name, value in values.items()}


def _shares(categories: Tensor, n: int) -> Tensor:
    return categories.long().bincount(minlength=n).double() / len(categories)
