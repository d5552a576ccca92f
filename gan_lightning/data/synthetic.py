"""Data of known density: a torch.distributions object, sampled afresh for every update."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchmetrics import Metric

from gan_lightning.data.loader import Batches, RealData, own_stream, stream_seed
from gan_lightning.distributions import GaussianMixture
from gan_lightning.metrics.distribution import JensenShannon, KolmogorovSmirnov, Wasserstein
from gan_lightning.metrics.modes import HighQuality, Modes, ModesJensenShannon, ReverseKL

BLOCK = 10  # rounds


class Synthetic(RealData):
    """Samples of a known distribution over one or two dimensions, with the metrics that know it.

    ``rounds_per_epoch`` is only the distance between two validations, since there is no end of fresh data.
    """

    def __init__(
        self,
        distribution: Distribution,
        batch_size: int,
        rounds_per_epoch: int,
        validation_samples: int,
        seed: int = 0,
        rounds_per_batch: int = 50,
    ) -> None:
        super().__init__(batch_size, seed, rounds_per_batch)
        if validation_samples < 1:
            raise ValueError(f"data.validation_samples is {validation_samples}: give a whole number, at least 1.")
        self.distribution = distribution
        self.sample_shape = tuple(distribution.event_shape)
        self.validation_samples = validation_samples
        self.monitor = ("val/ks", "min") if self.sample_shape == (1,) else ("val/reverse_kl", "min")
        self._rounds_per_epoch = rounds_per_epoch

    @property
    def rounds_per_epoch(self) -> int:
        return self._rounds_per_epoch

    def fetcher(self) -> Callable[[int, int], Tensor]:
        shape = self.round_shape

        @lru_cache(maxsize=1)
        def block(first: int) -> Tensor:
            seed = stream_seed("data", self.seed, first)
            return shape.shard(sample_from(self.distribution, BLOCK * shape.samples, seed))

        def fetch(start: int, stop: int) -> Tensor:
            # a block of rounds is one draw from a stream of its own, and a part of it is a slice
            firsts = range(start - start % BLOCK, stop, BLOCK)
            return torch.cat([block(first)[max(start - first, 0) : stop - first] for first in firsts])

        return fetch

    def metrics(self) -> dict[str, Metric]:
        truth = self.distribution
        assert isinstance(truth, GaussianMixture)
        metrics: dict[str, Metric] = {}
        if self.sample_shape == (1,):
            metrics |= {"ks": KolmogorovSmirnov(truth), "wasserstein": Wasserstein(truth), "jsd": JensenShannon(truth)}
        else:
            metrics |= {"jsd": ModesJensenShannon(truth)}
        if len(truth.modes) > 1:
            metrics |= {"modes": Modes(truth), "high_quality": HighQuality(truth), "reverse_kl": ReverseKL(truth)}
        return metrics

    def training_samples(self, n: int, seed: int) -> Tensor:
        return sample_from(self.distribution, n, stream_seed("floor", seed))

    def val_dataloader(self) -> Batches:
        shape = self.round_shape
        samples = sample_from(self.distribution, self.validation_samples, stream_seed("validation", self.seed))
        return Batches(samples[shape.rank :: shape.world_size], 10_000)


def sample_from(distribution: Distribution, n: int, seed: int) -> Tensor:
    """n samples, (n, *event_shape), from a stream of their own: the global random state is as before."""
    with own_stream(seed):
        return distribution.sample((n,))
