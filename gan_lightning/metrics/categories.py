"""Agreement of the categories that a generator has discovered with the classes of the data."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.metrics.features import Features
from gan_lightning.pixels import to_bytes


class CategoryMatch(Metric):
    """The share of samples whose category matches their class, under the best one-to-one assignment.

    The category is the one-hot vector at the start of z; the class is the classifier's prediction.
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
        rows, columns = linear_sum_assignment(self.counts.cpu(), maximize=True)
        return self.counts[rows, columns].sum() / self.counts.sum()
