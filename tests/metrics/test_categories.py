"""The match of categories and classes, against all assignments."""

from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gan_lightning.batch import Batch
from gan_lightning.metrics.categories import CategoryMatch
from gan_lightning.metrics.features import Features


class ByBrightness(nn.Module):
    """The class is the first pixel."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.flatten(1).float(), one_hot(images[:, 0, 0, 0].long(), 5).float()


def test_the_share_is_of_all_samples_of_a_validation() -> None:
    metric = CategoryMatch(Features("brightness", ByBrightness(), 1.0), (0.0, 1.0), categories=3, classes=5)
    categories = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    classes = torch.tensor([2, 2, 1, 0, 0, 1, 1, 0])  # 0 is 2, 1 is 0, 2 is 1: six of eight
    images = (classes / 255).view(-1, 1, 1, 1)
    z = torch.cat([one_hot(categories, 3), torch.full((8, 2), 9)], 1).float()
    for part in (slice(0, 5), slice(5, 8)):
        metric.update(Batch(images[part], None, z[part]), Batch(images[part]))
    assert metric.compute() == 6 / 8


def test_the_assignment_is_the_best_of_all() -> None:
    noise = torch.Generator().manual_seed(0)
    for most in (2, 5, 1000):  # with many ties, and few
        metric = CategoryMatch(Features("brightness", ByBrightness(), 1.0), (0.0, 1.0), categories=5, classes=5)
        counts = torch.randint(0, most, (5, 5), generator=noise)
        cells = torch.arange(25).repeat_interleave(counts.flatten())
        images = (cells % 5 / 255).view(-1, 1, 1, 1)
        metric.update(Batch(images, None, one_hot(cells // 5, 5).float()), Batch(images))
        best = max(sum(int(counts[i, k]) for i, k in enumerate(order)) for order in permutations(range(5)))
        assert metric.compute() == torch.tensor(best) / counts.sum()
