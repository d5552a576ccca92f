"""Whether categories that a generator has found by itself are the data's classes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.metrics.features import Features
from gan_lightning.pixels import to_bytes


class CategoryMatch(Metric):
    """The share of samples whose category is their class, after the best one-to-one assignment of the two.

    The category is the one-hot beginning of z, the class is the classifier's.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, features: Features, value_range: tuple[float, float], categories: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.value_range = value_range
        self.add_state("counts", default=torch.zeros(categories, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        assert generated.z is not None
        logits = self.features(to_bytes(generated.x, self.value_range))[1]
        categories, classes = self.counts.shape
        cells = generated.z[:, :categories].argmax(1) * classes + logits.argmax(1)
        self.counts += torch.bincount(cells, minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> Tensor:
        return torch.tensor(best_match(self.counts.tolist()) / int(self.counts.sum()))


def best_match(counts: Sequence[Sequence[int]]) -> int:
    """max over one-to-one assignments a of sum_i counts[i][a(i)], some rows or columns left over if not square.

    Exact, by shortest augmenting paths with potentials (Kuhn 1955; Munkres 1957), a row at a time.
    """
    if len(counts) > len(counts[0]):
        counts = list(zip(*counts, strict=True))
    columns = len(counts[0]) + 1  # the first stands for none
    of_row, of_column = [0.0] * (len(counts) + 1), [0.0] * columns  # potentials
    row_of = [0] * columns  # from 1, 0 for none
    for row in range(1, len(counts) + 1):
        row_of[0], column = row, 0
        slack, before, done = [float("inf")] * columns, [0] * columns, [False] * columns
        while row_of[column]:
            done[column] = True
            free = [j for j in range(columns) if not done[j]]
            for j in free:
                cost = -counts[row_of[column] - 1][j - 1] - of_row[row_of[column]] - of_column[j]
                if cost < slack[j]:
                    slack[j], before[j] = cost, column
            column = min(free, key=slack.__getitem__)
            step = slack[column]
            for j in range(columns):
                if done[j]:
                    of_row[row_of[j]] += step
                    of_column[j] -= step
                else:
                    slack[j] -= step
        while column:  # the rows along the path change places
            row_of[column], column = row_of[before[column]], before[column]
    return sum(counts[row_of[j] - 1][j - 1] for j in range(1, columns) if row_of[j])
