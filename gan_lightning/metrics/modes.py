"""Coverage of the known modes of a Gaussian mixture by the protocol of PacGAN (Lin et al. 2018, section 4.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.distributions import GaussianMixture
from gan_lightning.metrics.distribution import jensen_shannon
from gan_lightning.streams import own_stream

HIGH_QUALITY_RADIUS = 3.0  # in standard deviations of the mode
DRAWN, BLOCK = 100_000, 10_000  # samples that estimate the true shares, and those at a time


def nearest_mode(samples: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest mode and its index, both (N,), for samples (N, d) and modes (K, d)."""
    distance = torch.cdist(samples, modes, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.min(1)
    return nearest.values, nearest.indices


def true_shares(distribution: GaussianMixture) -> Tensor:
    """P(nearest mode is k, and whether it is within three standard deviations), (2, K), those within first.

    From the weights if the modes are apart, since then a component's samples are nearest to its own mode; otherwise
    from 100,000 samples.
    """
    modes, scales, weights = distribution.modes, distribution.scales, distribution.mixture_distribution.probs
    if are_apart(distribution):
        inside = _within(modes.shape[1]).clamp(min=1e-30).to(weights)  # rounds to 0 from 112 dimensions on
        return weights * torch.stack([inside, 1 - inside])[:, None]
    counts = torch.zeros(2 * len(modes), dtype=torch.long)
    with own_stream(0):
        for _ in range(DRAWN // BLOCK):
            distance, mode = nearest_mode(distribution.sample(torch.Size([BLOCK])).view(BLOCK, -1), modes)
            is_outside = distance >= HIGH_QUALITY_RADIUS * scales[mode]
            counts += torch.bincount(mode + len(modes) * is_outside, minlength=len(counts))
    shares = (counts + 1) / (counts + 1).sum()  # none is 0, though none of the samples may be there
    return shares.view(2, -1).to(weights)


class _PerMode(Metric):
    """Counts, for each mode, the samples nearest to it and the high-quality samples among them."""

    full_state_update = False
    modes: Tensor
    scales: Tensor
    assigned: Tensor
    high_quality: Tensor

    def __init__(self, distribution: GaussianMixture) -> None:
        super().__init__()
        self.register_buffer("modes", distribution.modes.clone(), persistent=False)
        self.register_buffer("scales", distribution.scales.clone(), persistent=False)
        zeros = torch.zeros(len(distribution.modes), dtype=torch.long)
        self.add_state("assigned", default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("high_quality", default=zeros.clone(), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        distance, mode = nearest_mode(generated.x.to(self.modes.dtype), self.modes)
        good = distance < HIGH_QUALITY_RADIUS * self.scales[mode]
        self.assigned += torch.bincount(mode, minlength=len(self.modes))
        self.high_quality += torch.bincount(mode[good], minlength=len(self.modes))


class Modes(_PerMode):
    """The number of modes with at least one high-quality sample."""

    def compute(self) -> Tensor:
        return (self.high_quality > 0).sum().float()


class HighQuality(_PerMode):
    """The share of samples within three standard deviations of their nearest mode; 98.89% for a perfect 2-D sampler."""

    def compute(self) -> Tensor:
        return self.high_quality.sum() / self.assigned.sum()


class _Shares(_PerMode):
    """Compares with ``true_shares``."""

    true: Tensor

    def __init__(self, distribution: GaussianMixture) -> None:
        super().__init__(distribution)
        self.register_buffer("true", true_shares(distribution), persistent=False)


class ReverseKL(_Shares):
    """KL(q | p) of the shares q of samples nearest to each mode and the true p; about (K-1)/2N if perfect.

    p are the mixture's weights if its modes are apart.
    """

    def compute(self) -> Tensor:
        return _kl(self.assigned / self.assigned.sum(), self.true.sum(0))


class ReverseKLHighQuality(_Shares):
    """KL(q | p) over high-quality samples only, as in PacGAN's code; its maximum if there is none."""

    def compute(self) -> Tensor:
        true = self.true[0].cpu().double()
        true = (true / true.sum()).to(self.true)  # equal weights stay what they are
        if not self.high_quality.sum():
            return -true.min().log()
        return _kl(self.high_quality / self.high_quality.sum(), true)


class Width(_PerMode):
    """The ratio of the samples' standard deviation around their modes to the true one, averaged over modes; ideally 1.

    For mode k with n_k high-quality samples in d dimensions, w_k^2 = sum |x - mean_k|^2 / (n_k d c std_k^2). Samples
    between modes would dominate, so only high-quality ones count; c = P(d/2 + 1, 9/2) / P(d/2, 9/2), with the
    regularized gamma function P, is the share of a Gaussian's variance within three standard deviations, .949 in two
    dimensions. Modes without samples are omitted; the result is 0 if no mode has samples.
    """

    squares: Tensor

    def __init__(self, distribution: GaussianMixture) -> None:
        super().__init__(distribution)
        self.add_state("squares", default=torch.zeros(len(self.modes)), dist_reduce_fx="sum")

    def update(self, generated: Batch, real: Batch) -> None:
        super().update(generated, real)
        distance, mode = nearest_mode(generated.x.to(self.modes.dtype), self.modes)
        ratio = distance / self.scales[mode]
        squares = torch.where(ratio < HIGH_QUALITY_RADIUS, ratio.square(), 0.0)
        self.squares = self.squares.index_add(0, mode, squares.to(self.squares))

    def compute(self) -> Tensor:
        found = self.high_quality > 0
        if not found.any():
            return torch.zeros_like(self.squares[0])
        d = self.modes.shape[1]
        variances = self.squares[found] / (self.high_quality[found] * d * variance_within(d))
        return variances.sqrt().mean()


def are_apart(distribution: GaussianMixture) -> bool:
    """Whether high-quality samples belong to one mode only: the centers are six standard deviations apart."""
    if len(distribution.modes) == 1:
        return True
    return bool(torch.pdist(distribution.modes.double()).min() >= 2 * HIGH_QUALITY_RADIUS * distribution.scales.max())


def _kl(share: Tensor, true: Tensor) -> Tensor:
    return torch.special.xlogy(share, share / true).nansum()  # a mode of weight 0 without samples adds nothing


def _within(d: int) -> Tensor:
    """The probability that a normal variable in d dimensions is within three standard deviations."""
    return torch.special.gammainc(torch.tensor(d / 2), torch.tensor(HIGH_QUALITY_RADIUS**2 / 2))


def variance_within(d: int) -> float:
    """P(d/2 + 1, 9/2) / P(d/2, 9/2), a Gaussian's share of variance in d dimensions within three standard deviations.

    P underflows in many dimensions, and its ratio does not: P(a, x) is proportional to
    x^a / Gamma(a + 1) sum_n x^n / ((a + 1) ... (a + n)).
    """
    a, x = d / 2, HIGH_QUALITY_RADIUS**2 / 2
    return x / (a + 1) * _series(a + 1, x) / _series(a, x)


def _series(a: float, x: float) -> float:
    """sum_n x^n / ((a + 1) ... (a + n))"""
    total, term, n = 1.0, 1.0, 0
    while term > 1e-17 * total:
        n += 1
        term *= x / (a + n)
        total += term
    return total


class ByClass(Metric):
    """Whether samples are at the modes that their labels request; empty for samples without labels.

    ``class_accuracy`` is the share whose nearest mode is the requested one, ``class_high_quality`` the share within
    three standard deviations of it, reported with its minimum over modes, and with the share of each mode if
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
        every = {
            f"class_high_quality/{name}": share
            for name, share, asked in zip(self.class_names, shares, self.asked, strict=False)
            if asked
        }
        return {
            "class_accuracy": self.right.sum() / self.asked.sum(),
            "class_high_quality": self.high_quality.sum() / self.asked.sum(),
            "class_high_quality_worst": shares[self.asked > 0].min(),
            **every,
        }


class ModesJensenShannon(_Shares):
    """JSD in nats over the cells {nearest to mode k, high quality or not}, a lower bound on that of the densities."""

    def compute(self) -> Tensor:
        generated = torch.stack([self.high_quality, self.assigned - self.high_quality]) / self.assigned.sum()
        return jensen_shannon(self.true.flatten(), generated.flatten())
