"""Data of known density: a torch.distributions object, sampled afresh for every update."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeGuard

import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torchmetrics import Metric

from gan_lightning import pictures
from gan_lightning.batch import Batch, Rounds, apply, concatenate
from gan_lightning.data.fetch import RoundOrder
from gan_lightning.data.loader import Batches, RealData
from gan_lightning.distributions import GaussianMixture, has_cumulative
from gan_lightning.errors import UsageError
from gan_lightning.metrics.distribution import JensenShannon, KolmogorovSmirnov, Wasserstein
from gan_lightning.metrics.modes import (
    ByClass,
    HighQuality,
    Modes,
    ModesJensenShannon,
    ReverseKL,
    ReverseKLHighQuality,
    Width,
    are_apart,
)
from gan_lightning.metrics.points import comparisons
from gan_lightning.streams import own_stream, stream_seed

BLOCK = 10  # rounds


class Synthetic(RealData):
    """Samples of any distribution, with metrics that use its density; y is the mode if a mixture has several.

    Gaussian mixtures are evaluated mode by mode, one-dimensional distributions by their cdf if torch implements it, and
    all distributions by the energy distance to held-out samples. ``rounds_per_epoch`` only sets the interval between
    validations: fresh samples never run out. With ``fixed_samples``, that many are drawn once and reshuffled after each
    pass over them.
    """

    def __init__(
        self,
        distribution: Distribution,
        batch_size: int,
        rounds_per_epoch: int,
        validation_samples: int,
        seed: int = 0,
        rounds_per_batch: int = 50,
        fixed_samples: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, rounds_per_batch)
        if validation_samples < 1:
            raise UsageError(f"data.validation_samples is {validation_samples}: give a whole number, at least 1.")
        if distribution.batch_shape:
            raise UsageError(
                f"data.distribution is a batch of distributions, {tuple(distribution.batch_shape)}: combine them by "
                "torch.distributions.Independent or MixtureSameFamily."
            )
        check_finite(distribution)
        self.distribution = distribution
        self.sample_shape = tuple(distribution.event_shape) or (1,)
        self.validation_samples = validation_samples
        self.fixed_samples = fixed_samples
        self.monitor = f"val/{monitor_of(distribution)}", "min"
        self._rounds_per_epoch = rounds_per_epoch

    @property
    def class_names(self) -> Sequence[str]:
        return tuple(map(str, range(len(self.distribution.modes)))) if has_modes(self.distribution) else ()

    @property
    def rounds_per_epoch(self) -> int:
        return self._rounds_per_epoch

    def check_size(self) -> None:
        n = self.round_shape.samples
        if self.fixed_samples is not None and self.fixed_samples < n:
            raise UsageError(
                f"data.fixed_samples is {self.fixed_samples}, but one round takes {n}: give at least {n}, or a smaller "
                "data.batch_size."
            )

    def fetcher(self) -> Callable[[int, int], Rounds]:
        shape = self.round_shape
        if self.fixed_samples is not None:
            return self._fixed(self.fixed_samples)

        @lru_cache(maxsize=1)
        def block(first: int) -> Rounds:
            seed = stream_seed("data", self.seed, first)
            return shape.rounds(sample_from(self.distribution, BLOCK * shape.samples, seed))

        def fetch(start: int, stop: int) -> Rounds:
            # each block of rounds is one draw from its own stream; a request for part of it takes a slice
            def part(first: int) -> Rounds:
                return apply(lambda rounds: rounds[max(start - first, 0) : stop - first], block(first))

            return concatenate([part(first) for first in range(start - start % BLOCK, stop, BLOCK)])

        return fetch

    def _fixed(self, n: int) -> Callable[[int, int], Rounds]:
        """Rounds from n samples drawn once."""
        samples = sample_from(self.distribution, n, stream_seed("fixed", self.seed))
        order = RoundOrder(n, self.round_shape, self.seed, horizontal_flips=False)

        def fetch(start: int, stop: int) -> Rounds:
            index = torch.stack([order.indices(round_) for round_ in range(start, stop)])
            return apply(lambda tensor: tensor[index], Rounds(samples.x, samples.y))

        return fetch

    def metrics(self) -> dict[str, Metric]:
        known = {name: metric(self.distribution) for name, metric in metrics_of(self.distribution).items()}
        if has_modes(self.distribution):
            known["by_class"] = ByClass(self.distribution, self.measured_classes)
        return known | comparisons(self.sample_shape)

    def training_samples(self, n: int, seed: int, y: Tensor | None = None) -> Batch:
        return sample_from(self.distribution, n, stream_seed("floor", seed), y)

    def val_dataloader(self) -> Batches:
        shape = self.round_shape
        samples = sample_from(self.distribution, self.validation_samples, stream_seed("validation", self.seed))
        return Batches(apply(lambda tensor: tensor[shape.rank :: shape.world_size], samples), 10_000)

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """A histogram over the true density, or a scatter over the true modes or samples."""
        return pictures.draw(samples.x, self.value_range, columns, self.distribution, samples.y)


def metrics_of(distribution: Distribution) -> dict[str, Callable[..., Metric]]:
    """The metrics against the exact distribution, by name; empty if it can only be sampled."""
    metrics: dict[str, Callable[..., Metric]] = {}
    if has_cumulative(distribution):
        metrics = {"ks": KolmogorovSmirnov, "wasserstein": Wasserstein, "jsd": JensenShannon}
    elif isinstance(distribution, GaussianMixture):
        metrics = {"jsd": ModesJensenShannon}
    if isinstance(distribution, GaussianMixture) and distribution.modes.numel() > 1:  # no single mode on a line
        metrics |= {"high_quality": HighQuality}
        metrics |= {"width": Width} if are_apart(distribution) else {}
    if has_modes(distribution):
        metrics |= {"modes": Modes, "reverse_kl": ReverseKL, "reverse_kl_high_quality": ReverseKLHighQuality}
    return metrics


def monitor_of(distribution: Distribution) -> str:
    """The metric, lower for better samples, that selects the best checkpoint.

    Several modes have the JSD of their cells, which responds to their shares and to the quality of samples; the reverse
    KL ignores the quality, and the energy distance hardly responds to it. With a single mode the cells show the quality
    alone, and collapsed samples would be best.
    """
    if has_cumulative(distribution):
        return "ks"
    return "jsd" if has_modes(distribution) else "energy"


def check_finite(distribution: Distribution) -> None:
    """Check that float32 can represent the distribution's samples and densities.

    Raises:
        UsageError: it cannot.
    """
    x = sample_from(distribution, 1000, 0).x
    try:
        density = distribution.log_prob(x.view(-1, *distribution.event_shape)).float()
    except NotImplementedError:  # torch does not implement it
        density = x.new_zeros(1)
    # squared distances must be finite too; a density may have a pole at some samples
    if not x.square().isfinite().all() or density.isnan().any() or density.isinf().all():
        raise UsageError(
            f"data.distribution has samples such as {x[0].tolist()} and log-densities such as {density[0].item():g}, "
            "which exceed the range of float32: choose locations up to 1e9 and scales from 1e-9 to 1e9."
        )


def has_modes(distribution: Distribution) -> TypeGuard[GaussianMixture]:
    """Whether the distribution is a mixture of several known modes."""
    return isinstance(distribution, GaussianMixture) and len(distribution.modes) > 1


def sample_from(distribution: Distribution, n: int, seed: int, y: Tensor | None = None) -> Batch:
    """Draw n samples with their modes, or of modes y (n,), from their own stream.

    The global random state is unchanged.
    """
    with own_stream(seed):
        if has_modes(distribution):
            y = distribution.mixture_distribution.sample(Size([n])) if y is None else y
            return Batch(distribution.sample_of(y).float(), y)
        samples = distribution.sample(Size([n]))
    return Batch(samples.view(n, *distribution.event_shape or (1,)).float())
