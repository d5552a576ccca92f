"""Batches of whole training rounds, resumable from one number."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import torch
from lightning import LightningDataModule
from torch import Tensor
from torchmetrics import Metric

from gan_lightning import pictures
from gan_lightning.batch import Batch, Rounds, concatenate
from gan_lightning.errors import UsageError
from gan_lightning.labels import in_turn, of_classes
from gan_lightning.pixels import Depth
from gan_lightning.streams import stream_seed


@dataclass(frozen=True)
class RoundShape:
    """How the real samples of one round are divided among updates, micro-batches and ranks."""

    critic_steps: int
    accumulate_grad_batches: int
    world_size: int
    rank: int
    batch_size: int

    @property
    def samples(self) -> int:
        """Samples per round over all ranks."""
        return self.critic_steps * self.accumulate_grad_batches * self.world_size * self.batch_size

    def shard(self, samples: Tensor) -> Tensor:
        """This rank's shard of whole rounds, (rounds * samples, ...) to (rounds, critic_steps, accumulate, N, ...)."""
        shape = (-1, self.critic_steps, self.accumulate_grad_batches, self.world_size, self.batch_size)
        return samples.view(*shape, *samples.shape[1:])[:, :, :, self.rank]

    def rounds(self, samples: Batch) -> Rounds:
        """This rank's shard of whole rounds, for both x and y."""
        return Rounds(self.shard(samples.x), None if samples.y is None else self.shard(samples.y))


class RoundLoader:
    """An endless stream of rounds, cut into batches and epochs.

    The loader is stateless. A batch starts at round ``trainer.global_step``; the n-th batch of an epoch ends at its
    round ``n * rounds_per_batch``, at the end of the epoch, or at ``trainer.max_steps``, whichever is first. If
    ``max_steps`` cut a batch short, the next batch of a longer run includes the missing rounds; if it did so several
    times, the next batches do, each with at most twice the usual rounds. The rounds [start, stop) depend only on
    ``fetch(start, stop)``. With ``trainer.overfit_batches``, every epoch repeats the rounds of the first.
    """

    def __init__(
        self, fetch: Callable[[int, int], Rounds], rounds_per_epoch: int, rounds_per_batch: int, trainer: Any
    ) -> None:
        self.fetch = fetch
        self.rounds_per_epoch = rounds_per_epoch
        self.rounds_per_batch = rounds_per_batch
        self.trainer = trainer

    def __len__(self) -> int:
        """The number of batches per epoch."""
        return -(-self.rounds_per_epoch // self.rounds_per_batch)

    def __iter__(self) -> Iterator[Rounds]:
        # Lightning counts an epoch's batches, but asks for one more if a run resumes at the end of an epoch
        while self.trainer.fit_loop.batch_idx + 1 < self.trainer.num_training_batches:
            start, stop = self.next_rounds()
            yield self._repeated(start, stop) if self.trainer.overfit_batches else self.fetch(start, stop)

    def next_rounds(self) -> tuple[int, int]:
        """The first round of the next batch, and the end of its range."""
        trainer, epoch, rounds = self.trainer, self._epoch(), self.rounds_per_batch
        start = trainer.global_step
        batch = trainer.fit_loop.batch_idx + 2  # counted from 1 in the epoch; Lightning's is the index of the last one
        stop = trainer.current_epoch * epoch + min(batch * rounds, epoch)
        if not start < stop <= start + epoch + rounds:  # the run was resumed with epochs of a different length
            stop = start + rounds
        stop = min(stop, start + 2 * rounds)  # rounds missing after several cuts are spread over several batches
        return start, min(stop, trainer.max_steps) if trainer.max_steps > start else stop

    def _repeated(self, start: int, stop: int) -> Rounds:
        """The rounds of the first epoch at the positions of [start, stop)."""
        epoch, parts = self._epoch(), []
        while start < stop:
            first = start % epoch
            n = min(stop - start, epoch - first)
            parts.append(self.fetch(first, first + n))
            start += n
        return concatenate(parts)

    def state_dict(self) -> dict[str, Any]:
        """Empty; because this method exists, Lightning treats the loader as resumable."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the position follows from the Trainer's counters."""

    def _epoch(self) -> int:
        """Rounds per epoch, within the Trainer's limits."""
        return min(self.trainer.num_training_batches * self.rounds_per_batch, self.rounds_per_epoch)


class Batches:
    """Batches of samples in order; unlike a DataLoader, it does not touch the global random state."""

    def __init__(self, samples: Batch, batch_size: int) -> None:
        x = samples.x.split(batch_size)
        y: Sequence[Tensor | None] = [None] * len(x) if samples.y is None else samples.y.split(batch_size)
        self.batches = [Batch(*pair) for pair in zip(x, y, strict=True)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def floor_order(total: int, seed: int, labels: Tensor | None, y: Tensor | None = None) -> Tensor:
    """Training samples' indices in random order; with classes y (n,), those of n samples, one of each class.

    Raises:
        UsageError: a class has too few samples.
    """
    order = torch.randperm(total, generator=torch.Generator().manual_seed(stream_seed("floor", seed)))
    return order if y is None or labels is None else order[of_classes(labels[order], y)]


class RealData(LightningDataModule):
    """Base of the data modules: real samples for training, held-out ones and metrics for validation.

    A subclass describes its samples: their ``sample_shape``, the ``class_names`` if they have classes, and the
    ``value_range`` of images. Networks are built from these, so they must be available without a trainer and before
    ``setup``. A subclass defines ``rounds_per_epoch`` and ``fetcher``. To support validation, it also defines
    ``metrics``, ``val_dataloader``, which yields Batches, and ``monitor``, the metric that selects the best checkpoint.
    """

    sample_shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None  # None if unbounded
    depth: Depth = 8  # of the images that samples are written as
    monitor: tuple[str, str] | None = None  # a metric's name and "min" or "max"
    features_name: str | None = None  # the network whose features image metrics compare
    features_accuracy: float | None = None  # its accuracy on held-out images
    units: dict[str, Any] | None = None  # plain containers; they map samples back to the units of their source
    blocks: tuple[int, ...] = ()  # the widths of a table's columns, 1 for a numeric column
    fingerprint: str | None = None  # of the training samples; None if the options determine them
    held_out_digest: str | None = None  # of the validation samples; None if the options determine them
    validation_samples = 0
    evaluation_samples: int | None = None  # for evaluate.py, by convention of the field; None for validation's number
    measured_classes: Sequence[str] = ()  # class names, if metrics by class also report each class

    def __init__(self, batch_size: int, seed: int = 0, rounds_per_batch: int = 1) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"data.batch_size is {batch_size}: give a whole number, at least 1.")
        self.batch_size = batch_size
        self.seed = seed
        self.rounds_per_batch = rounds_per_batch

    @property
    def class_names(self) -> Sequence[str]:
        """The names of classes 0, 1, ...; empty if samples have no classes."""
        return ()

    @property
    def classes(self) -> int:
        """The number of classes, 0 for none."""
        return len(self.class_names)

    @property
    def shown(self) -> int:
        """The number of samples in a picture."""
        return pictures.shown(self.sample_shape)

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """Draw samples as one picture, uint8 (3, height, width): images as a grid with ``columns``, others as points.

        If all labels occur equally often, each row of images shows one class. Points are colored by class.
        """
        return pictures.draw(samples.x, self.value_range, columns, labels=samples.y)

    def recall(self, described: Mapping[str, Any]) -> None:
        """Restore the data's description from a checkpoint, so that samples can be drawn without reading the data."""

    def in_units(self, samples: Tensor) -> Tensor:
        """Convert samples (N, *sample_shape) to the units and the type of their source."""
        return samples

    def write_csv(self, file: TextIO, samples: Tensor, classes: Sequence[str] | None = None) -> None:
        """Write samples as rows in their own units under their column names, x_1, x_2, ... for points.

        The last column, ``class``, has the samples' classes, if they are given.

        Raises:
            UsageError: samples are not rows.
        """
        if len(self.sample_shape) != 1:
            raise UsageError("A .csv file is for rows, but these samples are not rows: end the name in .npz.")
        names = [f"x_{i + 1}" for i in range(self.sample_shape[0])]
        rows = self.in_units(samples).tolist()
        if classes is not None:
            names, rows = [*names, "class"], [[*row, name] for row, name in zip(rows, classes, strict=True)]
        csv.writer(file).writerows([names, *rows])

    @property
    def units_range(self) -> tuple[float, float] | None:
        """The range of values in these units; None if unbounded."""
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
        """Samples per update over all devices."""
        return self.round_shape.samples // self.round_shape.critic_steps

    @property
    def rounds_per_epoch(self) -> int:
        raise TypeError(f"{type(self).__name__} must define rounds_per_epoch")

    def rounds_in_epoch(self) -> int:
        """Rounds per epoch of the Trainer, within its limits."""
        assert self.trainer is not None
        batches = math.ceil(self.rounds_per_epoch / self.rounds_per_batch)
        limit = self.trainer.limit_train_batches
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        return min(batches * self.rounds_per_batch, self.rounds_per_epoch)

    def conditions(self, n: int) -> Tensor | None:
        """Conditions y for n samples of a conditional generator: the classes in turn; None if there are none."""
        return in_turn(range(self.classes), n) if self.classes else None

    def check_size(self) -> None:
        """Raise a UsageError if one round needs more samples than there are."""

    def fetcher(self) -> Callable[[int, int], Rounds]:
        """Return a function that maps (start, stop) to this rank's rounds [start, stop)."""
        raise TypeError(f"{type(self).__name__} must define fetcher")

    def metrics(self) -> dict[str, Metric]:
        """The validation metrics by name, each updated with the Batches (generated, real)."""
        return {}

    def training_samples(self, n: int, seed: int, y: Tensor | None = None) -> Batch:
        """n real samples that validation does not use; with classes y (n,), one of each.

        Raises:
            UsageError: there are fewer.
        """
        raise TypeError(f"{type(self).__name__} must define training_samples")

    def held_out_samples(self, n: int) -> Batch:
        """The first n held-out samples, or n training samples if none are held out."""
        return self.training_samples(n, seed=0)

    def train_dataloader(self) -> RoundLoader:
        self.check_size()
        return RoundLoader(self.fetcher(), self.rounds_per_epoch, self.rounds_per_batch, self.trainer)
