"""Batches of whole training rounds, resumable from one number."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from lightning import LightningDataModule
from torch import Tensor
from torchmetrics import Metric

from gan_lightning import pictures
from gan_lightning.batch import Batch, Rounds, concatenate
from gan_lightning.errors import UsageError
from gan_lightning.labels import in_turn
from gan_lightning.pixels import Depth


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

    def rounds(self, samples: Batch) -> Rounds:
        """This rank's part of whole rounds, x and y alike."""
        return Rounds(self.shard(samples.x), None if samples.y is None else self.shard(samples.y))


class RoundLoader:
    """An endless stream of rounds, cut into batches and epochs.

    It has no state: a batch begins with the round ``trainer.global_step``, and the n-th batch of an epoch ends at round
    ``n * rounds_per_batch`` of it, at the epoch's end or at ``trainer.max_steps``. What that last cut off comes with
    the next batch when a longer run goes on; what was cut off more than once, with the next ones, of at most twice the
    rounds. ``fetch(start, stop)`` makes the rounds [start, stop), and nothing else decides what is in them. With
    ``trainer.overfit_batches`` every epoch has the rounds of the first.
    """

    def __init__(
        self, fetch: Callable[[int, int], Rounds], rounds_per_epoch: int, rounds_per_batch: int, trainer: Any
    ) -> None:
        self.fetch = fetch
        self.rounds_per_epoch = rounds_per_epoch
        self.rounds_per_batch = rounds_per_batch
        self.trainer = trainer

    def __len__(self) -> int:
        """Batches of one epoch."""
        return -(-self.rounds_per_epoch // self.rounds_per_batch)

    def __iter__(self) -> Iterator[Rounds]:
        # Lightning counts an epoch's batches, but asks for one more where a run resumes at the epoch's end
        while self.trainer.fit_loop.batch_idx + 1 < self.trainer.num_training_batches:
            start, stop = self.next_rounds()
            yield self._repeated(start, stop) if self.trainer.overfit_batches else self.fetch(start, stop)

    def next_rounds(self) -> tuple[int, int]:
        """Where the next batch begins and ends."""
        trainer, epoch, rounds = self.trainer, self._epoch(), self.rounds_per_batch
        start = trainer.global_step
        batch = trainer.fit_loop.batch_idx + 2  # of the epoch, from 1: Lightning has counted those before
        stop = trainer.current_epoch * epoch + min(batch * rounds, epoch)
        if not start < stop <= start + epoch + rounds:  # a resumed run whose epochs have another length
            stop = start + rounds
        stop = min(stop, start + 2 * rounds)  # what was cut off more than once comes with several batches
        return start, min(stop, trainer.max_steps) if trainer.max_steps > start else stop

    def _repeated(self, start: int, stop: int) -> Rounds:
        """The rounds of the first epoch that stand where [start, stop) would."""
        epoch, parts = self._epoch(), []
        while start < stop:
            first = start % epoch
            n = min(stop - start, epoch - first)
            parts.append(self.fetch(first, first + n))
            start += n
        return concatenate(parts)

    def state_dict(self) -> dict[str, Any]:
        """Nothing; that there is the method tells Lightning that a resumed run goes on exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, since all follows from the Trainer's counts."""

    def _epoch(self) -> int:
        """Rounds of an epoch, which the Trainer may limit."""
        return min(self.trainer.num_training_batches * self.rounds_per_batch, self.rounds_per_epoch)


class Batches:
    """Samples in order, in batches: unlike a DataLoader, it leaves the global random state alone."""

    def __init__(self, samples: Batch, batch_size: int) -> None:
        x = samples.x.split(batch_size)
        y: Sequence[Tensor | None] = [None] * len(x) if samples.y is None else samples.y.split(batch_size)
        self.batches = [Batch(*pair) for pair in zip(x, y, strict=True)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class RealData(LightningDataModule):
    """Base of the data modules: real samples for training, held-out ones and metrics for validation.

    A subclass says what its samples are: their ``sample_shape``, the ``class_names`` of their y where they have
    classes, the ``value_range`` of images. Networks are built from these, so that they are known without a trainer and
    before ``setup``. It defines ``rounds_per_epoch`` and ``fetcher``; where its truth is known, also ``metrics`` and
    ``val_dataloader``, which gives Batches, and the ``monitor`` by which one checkpoint is better than another.
    """

    sample_shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None  # None for what has no bounds
    depth: Depth = 8  # of images that samples are written as
    monitor: tuple[str, str] | None = None  # a metric's name and "min" or "max"
    features_name: str | None = None  # of the network whose features image metrics compare
    features_accuracy: float | None = None  # of its classes on held-out images
    units: dict[str, Any] | None = None  # plain containers, by which samples go back to the units of their source
    blocks: tuple[int, ...] = ()  # the widths of a table's columns, 1 of a numeric one
    fingerprint: str | None = None  # of the samples that are trained on; None where the options tell all of them
    held_out_digest: str | None = None  # of what validation compares with; None where the options tell all of it
    validation_samples = 0
    evaluation_samples: int | None = None  # of evaluate.py, where the field has a number; None for validation's
    measured_classes: Sequence[str] = ()  # the names of the classes, where metrics by class tell each class's own, too

    def __init__(self, batch_size: int, seed: int = 0, rounds_per_batch: int = 1) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"data.batch_size is {batch_size}: give a whole number, at least 1.")
        self.batch_size = batch_size
        self.seed = seed
        self.rounds_per_batch = rounds_per_batch

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes 0, 1, ... that y counts; empty where samples have none."""
        return ()

    @property
    def classes(self) -> int:
        """How many classes there are, 0 for none."""
        return len(self.class_names)

    @property
    def shown(self) -> int:
        """How many samples a picture takes."""
        return pictures.shown(self.sample_shape)

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """Samples as one picture, uint8 (3, height, width): images as a grid, of so many columns, others as points.

        Where as many samples have each of the labels, a row of images is of one class; points have its colour.
        """
        return pictures.draw(samples.x, self.value_range, columns, labels=samples.y)

    def recall(self, described: Mapping[str, Any]) -> None:
        """Take what a checkpoint tells of the data, so that they need not be read to draw or write samples."""

    def in_units(self, samples: Tensor) -> Tensor:
        """Samples, (N, *sample_shape), in the units and the type of their source."""
        return samples

    def write_csv(self, file: TextIO, samples: Tensor) -> None:
        """Samples as rows in their own units, under the names of their columns; of points these are x_1, x_2, ...

        Raises:
            UsageError: samples are no rows.
        """
        if len(self.sample_shape) != 1:
            raise UsageError("A .csv file is for rows, which these samples are not: end the name in .npz.")
        names = [f"x_{i + 1}" for i in range(self.sample_shape[0])]
        csv.writer(file).writerows([names, *self.in_units(samples).tolist()])

    @property
    def units_range(self) -> tuple[float, float] | None:
        """What values in these units lie in; None for what has no bounds."""
        return self.value_range

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
    def joint_batch(self) -> int:
        """Samples of one update on all devices together."""
        return self.round_shape.samples // self.round_shape.critic_steps

    @property
    def rounds_per_epoch(self) -> int:
        raise TypeError(f"{type(self).__name__} must define rounds_per_epoch")

    def rounds_in_epoch(self) -> int:
        """The rounds of one epoch of the Trainer's, which may limit them."""
        assert self.trainer is not None
        batches = math.ceil(self.rounds_per_epoch / self.rounds_per_batch)
        limit = self.trainer.limit_train_batches
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        return min(batches * self.rounds_per_batch, self.rounds_per_epoch)

    def conditions(self, n: int) -> Tensor | None:
        """The y of n samples to ask a conditional generator for: the classes in turn; None where there are none."""
        return in_turn(range(self.classes), n) if self.classes else None

    def check_size(self) -> None:
        """Raise a UsageError where one round needs more samples than there are."""

    def fetcher(self) -> Callable[[int, int], Rounds]:
        """A function that makes this rank's rounds [start, stop)."""
        raise TypeError(f"{type(self).__name__} must define fetcher")

    def metrics(self) -> dict[str, Metric]:
        """The validation's metrics by name, each updated with the Batches (generated, real)."""
        return {}

    def training_samples(self, n: int, seed: int) -> Batch:
        """n real samples that are none of validation's."""
        raise TypeError(f"{type(self).__name__} must define training_samples")

    def held_out_samples(self, n: int) -> Batch:
        """The first n samples that are not trained on, or, where there are none, n that are."""
        return self.training_samples(n, seed=0)

    def train_dataloader(self) -> RoundLoader:
        return RoundLoader(self.fetcher(), self.rounds_per_epoch, self.rounds_per_batch, self.trainer)
