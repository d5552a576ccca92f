"""Coverage of the known modes of a Gaussian mixture, by the protocol of PacGAN (Lin et al. 2018, section 4.1)."""

from collections.abc import Sequence

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


class ReverseKLHighQuality(_PerMode):
    """KL(q | w) of the samples of high quality alone, as PacGAN's code counts; the largest there is where none is."""

    def compute(self) -> Tensor:
        if not self.high_quality.sum():
            return -self.weights.min().log()
        share = self.high_quality / self.high_quality.sum()
        return torch.special.xlogy(share, share / self.weights).sum()


class ByClass(Metric):
    """Whether samples that carry labels, the modes that were asked for, are there; nothing for samples without.

    ``class_accuracy`` is the share whose nearest mode is the one asked for, ``class_high_quality`` the share within
    three standard deviations of it, beside the least of these shares by mode; and each mode's own, where
    ``class_names`` are given.
    """

    full_state_update = False
    modes: Tensor
    scales: Tensor
    asked: Tensor
    right: Tensor
    high_quality: Tensor

    def __init__(self, distribution: GaussianMixture, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.register_buffer("modes", distribution.modes.clone(), persistent=False)
        self.register_buffer("scales", distribution.scales.clone(), persistent=False)
        self.class_names = class_names
        for name in ("asked", "right", "high_quality"):
            counts = torch.zeros(len(distribution.modes), dtype=torch.long)
            self.add_state(name, default=counts, dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        if generated.y is None:
            return
        samples, y = generated.x.to(self.modes.dtype), generated.y
        distance = (samples - self.modes[y]).norm(dim=1)
        chosen = {
            "asked": torch.ones_like(y, dtype=torch.bool),
            "right": nearest_mode(samples, self.modes)[1] == y,
            "high_quality": distance < HIGH_QUALITY_RADIUS * self.scales[y],
        }
        for name, which in chosen.items():
            setattr(self, name, getattr(self, name) + torch.bincount(y[which], minlength=len(self.modes)))

    def compute(self) -> dict[str, Tensor]:
        if not self.asked.sum():
            return {}
        shares = self.high_quality / self.asked
        every = {f"class_high_quality/{name}": share for name, share in zip(self.class_names, shares, strict=False)}
        return {
            "class_accuracy": self.right.sum() / self.asked.sum(),
            "class_high_quality": self.high_quality.sum() / self.asked.sum(),
            "class_high_quality_worst": shares[self.asked > 0].min(),
            **every,
        }


class ModesJensenShannon(_PerMode):
    """JSD in nats over the cells {nearest to mode k, of high quality or not}: a lower bound of the densities' own."""

    def compute(self) -> Tensor:
        # a normal variable in d dimensions is within r standard deviations with probability P(d/2, r^2/2)
        half_dimension = torch.tensor(self.modes.shape[1] / 2)
        inside = torch.special.gammainc(half_dimension, torch.tensor(HIGH_QUALITY_RADIUS**2 / 2)).to(self.weights)
        true = torch.cat([inside * self.weights, (1 - inside) * self.weights])
        generated = torch.cat([self.high_quality, self.assigned - self.high_quality]) / self.assigned.sum()
        return jensen_shannon(true, generated)
