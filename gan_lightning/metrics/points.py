"""Comparison with held-out samples, for points in more than two dimensions without a known density."""

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.metrics.energy import BLOCK, Energy, TwoSamples

DIRECTIONS = 500
LARGEST = 2500  # samples of each kind that are classified, since all pairs are compared


def comparisons(sample_shape: tuple[int, ...]) -> dict[str, Metric]:
    """The metrics against held-out samples by name: the energy distance and, above two dimensions, two more."""
    found: dict[str, Metric] = {"energy": Energy()}
    if len(sample_shape) == 1 and sample_shape[0] > 2:
        found |= {"sliced_wasserstein": SlicedWasserstein(), "c2st": ClassifierTwoSample()}
    return found


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = DIRECTIONS) -> Tensor:
    """SW_2 = (E_theta W_2^2(<theta, x>, <theta, y>))^(1/2), theta uniform on the sphere (Bonneel et al. 2015, eq. 8).

    For two sets of N samples (N, ...), in units of the data and in float64, over fixed directions. For N(0, I) and
    N(m, I) in d dimensions it is |m|/sqrt(d).
    """
    x, y = (samples.flatten(1).double() for samples in (x, y))
    stream = torch.Generator().manual_seed(0)
    theta = torch.randn(x.shape[1], directions, dtype=torch.double, generator=stream)
    theta = (theta / theta.norm(dim=0)).to(x.device)
    # by quantiles: on a line, the best transport keeps the order
    squares = [((x @ part).sort(0).values - (y @ part).sort(0).values).square().mean(0) for part in theta.split(100, 1)]
    return torch.cat(squares).mean().sqrt()


def two_sample_accuracy(x: Tensor, y: Tensor) -> Tensor:
    """The test accuracy of a classifier two-sample test (C2ST).

    Half of the pooled samples (N, ...) and (M, ...) are held out at random, always in the same way. They are classified
    by majority vote of the floor(sqrt(n)) nearest neighbors among the other n, one fewer if that is even (Lopez-Paz &
    Oquab 2017, section 3, C2ST-KNN). Equal distributions give about 1/2, with few samples a little less (.48 on average
    with 100 of each); 1 means that samples are always told apart.
    """
    x, y = (samples.flatten(1).double() for samples in (x, y))
    order = torch.randperm(len(x) + len(y), generator=torch.Generator().manual_seed(0)).to(x.device)
    pooled = torch.cat([x, y])[order]
    is_x = order < len(x)
    n = len(pooled) // 2
    k = max(1, int(n**0.5) - (int(n**0.5) + 1) % 2)
    nearest = [torch.cdist(part, pooled[:n]).topk(k, largest=False).indices for part in pooled[n:].split(BLOCK)]
    votes = is_x[:n][torch.cat(nearest)].sum(1)
    return ((votes > k // 2) == is_x[n:]).double().mean()


class SlicedWasserstein(TwoSamples):
    """The sliced Wasserstein distance between generated and held-out samples."""

    def compute(self) -> Tensor:
        return sliced_wasserstein(*self.both()).float()


class ClassifierTwoSample(TwoSamples):
    """The C2ST accuracy between generated and held-out samples, on the first 2,500 of each."""

    def compute(self) -> Tensor:
        generated, real = self.both()
        return two_sample_accuracy(generated[:LARGEST], real[:LARGEST]).float()
