"""Batches of whole training rounds, resumable from one number."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lightning import LightningDataModule
from torch import Tensor
from torchmetrics import Metric


def stream_seed(*key: object) -> int:
    """A 32-bit seed for the random stream of that name, such as ("order", seed, epoch)."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest())


@contextmanager
def own_stream(seed: int) -> Iterator[None]:
    """The CPU's random numbers inside follow from the seed; the global random state is as before after it."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@dataclass(frozen=True)
class RoundShape:
    """How the real samples of one round divide among updates, micro-batches and ranks."""

    critic_steps: int
    accumulate_grad_batches: int
    world_size: int
    rank: int
    batch_size: int

    @property
    def samples(self) -> int:
        """Samples of one round on all ranks together."""
        return self.critic_steps * self.accumulate_grad_batches * self.world_size * self.batch_size

    def shard(self, samples: Tensor) -> Tensor:
        """This rank's part of whole rounds, (rounds * samples, ...) to (rounds, critic_steps, accumulate, N, ...)."""
        shape = (-1, self.critic_steps, self.accumulate_grad_batches, self.world_size, self.batch_size)
        return samples.view(*shape, *samples.shape[1:])[:, :, :, self.rank]


class RoundLoader:
    """An endless stream of rounds, cut into batches and epochs; ``position``, the rounds served, is its whole state.

    ``fetch(start, stop)`` makes the rounds [start, stop) and nothing else decides what is in them, so that a loader
    set to a position goes on exactly. Batches end at multiples of ``rounds_per_batch`` within an epoch, at the epoch's
    end and at ``last_round``; what that cut off a batch comes with the next one when a longer run goes on, so that the
    n-th batch ends where it would have ended.
    """

    def __init__(
        self,
        fetch: Callable[[int, int], Tensor],
        rounds_per_epoch: int,
        rounds_per_batch: int = 1,
        last_round: int | None = None,
    ) -> None:
        self.fetch = fetch
        self.rounds_per_epoch = rounds_per_epoch
        self.rounds_per_batch = rounds_per_batch
        self.last_round = last_round
        self.position = 0
        self.ahead = 0  # how many batches more were served than reach to the position, because some were cut

    def __len__(self) -> int:
        """Batches of one epoch."""
        return -(-self.rounds_per_epoch // self.rounds_per_batch)

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(len(self)):
            start = self.position
            number = self._batches(start) + self.ahead + 1
            stop = self._end(number)
            if self.last_round is not None and start < self.last_round:
                stop = min(stop, self.last_round)
            self.position, self.ahead = stop, number - self._batches(stop)
            yield self.fetch(start, stop)

    def _end(self, batches: int) -> int:
        """The round that so many batches end with, where none is cut."""
        epochs, within = divmod(batches, len(self))
        return epochs * self.rounds_per_epoch + within * self.rounds_per_batch

    def _batches(self, rounds: int) -> int:
        """The batches that so many rounds fill, or begin to fill."""
        epochs, within = divmod(rounds, self.rounds_per_epoch)
        return epochs * len(self) + -(-within // self.rounds_per_batch)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "ahead": self.ahead}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self.ahead = state["position"], state.get("ahead", 0)


class Batches:
    """Samples in order, in batches: unlike a DataLoader, it leaves the global random state alone."""

    def __init__(self, samples: Tensor, batch_size: int) -> None:
        self.batches = samples.split(batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


class RealData(LightningDataModule):
    """Base of the data modules: real samples for training, held-out ones and metrics for validation.

    A subclass has ``sample_shape`` and defines ``rounds_per_epoch`` and ``fetcher``; where its truth is known, also
    ``metrics`` and ``val_dataloader``, and the ``monitor`` by which one checkpoint is better than another.
    """

    sample_shape: tuple[int, ...]
    value_range = (-1.0, 1.0)  # of images
    monitor: tuple[str, str] | None = None  # a metric's name and "min" or "max"
    features_name: str | None = None  # of the network whose features image metrics compare
    features_accuracy: float | None = None  # of its classes on held-out images
    validation_samples = 0

    def __init__(self, batch_size: int, seed: int = 0, rounds_per_batch: int = 1) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size is {batch_size}: give a whole number, at least 1.")
        self.batch_size = batch_size
        self.seed = seed
        self.rounds_per_batch = rounds_per_batch

    @property
    def round_shape(self) -> RoundShape:
        trainer = self.trainer
        assert trainer is not None
        gan = trainer.lightning_module
        return RoundShape(
            critic_steps=getattr(gan, "critic_steps", 1),
            accumulate_grad_batches=getattr(gan, "accumulate_grad_batches", 1),
            world_size=trainer.world_size,
            rank=trainer.global_rank,
            batch_size=self.batch_size,
        )

    @property
    def rounds_per_epoch(self) -> int:
        raise TypeError(f"{type(self).__name__} must define rounds_per_epoch")

    def check_size(self) -> None:
        """Raise a ValueError where one round needs more samples than there are."""

    def fetcher(self) -> Callable[[int, int], Tensor]:
        """A function that makes this rank's rounds [start, stop)."""
        raise TypeError(f"{type(self).__name__} must define fetcher")

    def metrics(self) -> dict[str, Metric]:
        """The validation's metrics by name, each updated with (generated, real)."""
        return {}

    def training_samples(self, n: int, seed: int) -> Tensor:
        """n real samples, (n, *sample_shape), that are none of validation's."""
        raise TypeError(f"{type(self).__name__} must define training_samples")

    def train_dataloader(self) -> RoundLoader:
        assert self.trainer is not None
        last_round = self.trainer.max_steps if self.trainer.max_steps >= 0 else None
        loader = RoundLoader(self.fetcher(), self.rounds_per_epoch, self.rounds_per_batch, last_round)
        loader.position = self.trainer.global_step  # a run may load its data again
        return loader
