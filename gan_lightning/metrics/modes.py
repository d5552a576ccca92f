"""Coverage of the known modes of a Gaussian mixture, by the protocol of PacGAN (Lin et al. 2018, section 4.1)."""

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.distributions import GaussianMixture
from gan_lightning.metrics.distribution import jensen_shannon

HIGH_QUALITY_RADIUS = 3.0  # in standard deviations of the mode


def nearest_mode(samples: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest mode and its index, both (N,), for samples (N, d) and modes (K, d)."""
    distance = torch.cdist(samples, modes, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.min(1)
    return nearest.values, nearest.indices


class _PerMode(Metric):
    """Counts, for each mode, the samples nearest to it and those of high quality among them."""

    full_state_update = False
    modes: Tensor
    scales: Tensor
    weights: Tensor
    assigned: Tensor
    high_quality: Tensor

    def __init__(self, distribution: GaussianMixture) -> None:
        super().__init__()
        self.register_buffer("modes", distribution.modes.clone(), persistent=False)
        self.register_buffer("scales", distribution.scales.clone(), persistent=False)
        self.register_buffer("weights", distribution.mixture_distribution.probs.clone(), persistent=False)
        zeros = torch.zeros(len(distribution.modes), dtype=torch.long)
        self.add_state("assigned", default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("high_quality", default=zeros.clone(), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        distance, mode = nearest_mode(generated.x.to(self.modes.dtype), self.modes)
        good = distance < HIGH_QUALITY_RADIUS * self.scales[mode]
        self.assigned += torch.bincount(mode, minlength=len(self.modes))
        self.high_quality += torch.bincount(mode[good], minlength=len(self.modes))


class Modes(_PerMode):
    """How many modes have at least one sample of high quality."""

    def compute(self) -> Tensor:
        return (self.high_quality > 0).sum().float()


class HighQuality(_PerMode):
    """The share of samples within three standard deviations of their nearest mode; 98.89 % in a perfect 2-D sampler."""

    def compute(self) -> Tensor:
        return self.high_quality.sum() / self.assigned.sum()


class ReverseKL(_PerMode):
    """KL(q | w) of the shares q of samples nearest to each mode from its weights w; about (K-1)/2N if perfect."""

    def compute(self) -> Tensor:
        share = self.assigned / self.assigned.sum()
        return torch.special.xlogy(share, share / self.weights).sum()


class ModesJensenShannon(_PerMode):
    """JSD in nats over the cells {nearest to mode k, of high quality or not}: a lower bound of the densities' own."""

    def compute(self) -> Tensor:
        # a normal variable in d dimensions is within r standard deviations with probability P(d/2, r^2/2)
        half_dimension = torch.tensor(self.modes.shape[1] / 2)
        inside = torch.special.gammainc(half_dimension, torch.tensor(HIGH_QUALITY_RADIUS**2 / 2)).to(self.weights)
        true = torch.cat([inside * self.weights, (1 - inside) * self.weights])
        generated = torch.cat([self.high_quality, self.assigned - self.high_quality]) / self.assigned.sum()
        return jensen_shannon(true, generated)
