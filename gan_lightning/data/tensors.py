"""Base of data held in one tensor: held-out split, scaling, metrics and pictures."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from gan_lightning import pictures
from gan_lightning.batch import Batch, Rounds, apply
from gan_lightning.cache import digest_of
from gan_lightning.data.fetch import MemoryFetcher, RoundOrder
from gan_lightning.data.images import HeldOut
from gan_lightning.data.loader import Batches, RealData, floor_order
from gan_lightning.data.scaling import Scaling
from gan_lightning.errors import UsageError
from gan_lightning.metrics.points import comparisons
from gan_lightning.pixels import from_bytes
from gan_lightning.streams import stream_seed

SIGNED = (-1.0, 1.0)
VALIDATION_BATCH = 10_000  # rows


class Source(NamedTuple):
    """All samples (N, *sample_shape), in float32 as networks see them or uint8 for images, and their classes (N,)."""

    samples: Batch
    class_names: tuple[str, ...]
    units: dict[str, Any]  # plain containers; they map samples back to the units of the source


class TensorData(RealData):
    """Base of data held in one tensor; ``load`` returns the samples and their ``units``.

    A share of the samples, the same for every seed, is held out and never trained on. Validation compares generated
    samples with its first ``validation_samples``, or with all of it if there are fewer. ``rounds_per_epoch`` only sets
    the interval between validations: samples are reshuffled after each pass over the data.
    """

    def __init__(
        self,
        batch_size: int,
        rounds_per_epoch: int = 500,
        held_out_share: float = 0.1,
        validation_samples: int = 10_000,
        seed: int = 0,
        rounds_per_batch: int = 1,
    ) -> None:
        super().__init__(batch_size, seed, rounds_per_batch)
        self._rounds_per_epoch = rounds_per_epoch
        self.held_out_share = held_out_share
        self.validation_samples = validation_samples if held_out_share else 0
        self.monitor = ("val/energy", "min") if self.validation_samples else None
        self._train: Batch | None = None
        self._held_out: Batch | None = None

    def load(self) -> Source:
        """Return all samples, in the ``units`` of the checkpoint if they are known from one."""
        raise TypeError(f"{type(self).__name__} must define load")

    @cached_property
    def _source(self) -> Source:
        source = self.load()
        if not len(source.samples.x):
            raise UsageError(f"{self.place} has no samples.")
        return source

    @property
    def place(self) -> str:
        """Where the samples come from, for messages."""
        return "The data"

    @cached_property
    def sample_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self._source.samples.x.shape[1:])

    @cached_property
    def class_names(self) -> Sequence[str]:
        return self._source.class_names

    @cached_property
    def units(self) -> dict[str, Any]:  # type: ignore[override]
        return self._source.units

    @property
    def value_range(self) -> tuple[float, float] | None:  # type: ignore[override]
        return SIGNED if len(self.sample_shape) == 3 else None

    @property
    def rounds_per_epoch(self) -> int:
        return self._rounds_per_epoch

    def recall(self, described: Mapping[str, Any]) -> None:
        self.sample_shape = tuple(described["sample_shape"])
        self.class_names = tuple(described["class_names"])
        self.units = described["units"]
        if "_source" in self.__dict__ and self._source.units != self.units:
            del self._source  # read again, in the units of the training run

    def setup(self, stage: str | None = None) -> None:
        """Read the samples and split them."""
        if self._train is not None:
            return
        samples, names, _ = self._source
        self._check_recalled(tuple(samples.x.shape[1:]), names)
        n = len(samples.x)
        held_out = round(self.held_out_share * n)
        if self.validation_samples and not held_out:
            raise UsageError(
                f"data.held_out_share is {self.held_out_share}, less than one of {n} samples: give a larger share, "
                "or 0 for no validation."
            )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed("held-out")))
        self._train = apply(lambda tensor: tensor[order[held_out:]], samples)
        self.validation_samples = min(self.validation_samples, held_out)
        _ = self.sample_shape, self.class_names, self.units  # cached before the source is dropped
        del self._source
        if stage == "validate" and not self.validation_samples:
            raise UsageError(f"data.validation_samples is 0, of {held_out} held-out samples: give a number above 0.")
        if self.validation_samples:
            self._held_out = apply(lambda tensor: tensor[order[: self.validation_samples]], samples)
            self.held_out_digest = digest_of(self._held_out)
            # Lightning validates only if this method is defined
            self.val_dataloader = self._validation_batches  # type: ignore[method-assign]
        else:
            self.monitor = None

    def _check_recalled(self, shape: tuple[int, ...], names: Sequence[str]) -> None:
        if shape != self.sample_shape or tuple(names) != tuple(self.class_names):
            raise UsageError(
                f"{self.place} has samples of shape {shape} and {len(names)} classes, but the run was trained on shape "
                f"{self.sample_shape} and {len(self.class_names)} classes: give data of the same shape and classes."
            )

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """A digest of the training samples and their classes; available after ``setup``."""
        digest = hashlib.sha256()
        for tensor in self._training[:2]:
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().data)
        return f"{len(self._training.x)} samples in memory, digest {digest.hexdigest()[:16]}"

    @property
    def _training(self) -> Batch:
        assert self._train is not None
        return self._train

    def check_size(self) -> None:
        n, needed = len(self._training.x), self.round_shape.samples
        if n < needed:
            raise UsageError(
                f"One training round takes {needed} samples (data.batch_size={self.batch_size} for each update and "
                f"device), but {self.place} has {n} after the held-out split: choose a smaller data.batch_size."
            )

    def fetcher(self) -> Callable[[int, int], Rounds]:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        order = RoundOrder(len(self._training.x), self.round_shape, self.seed, horizontal_flips=False)
        return MemoryFetcher(apply(lambda tensor: tensor.to(device), self._training), order, SIGNED)

    def metrics(self) -> dict[str, Metric]:
        return comparisons(self.sample_shape) if self.validation_samples else {}

    def training_samples(self, n: int, seed: int, y: Tensor | None = None) -> Batch:
        total = len(self._training.x)
        if n > total:
            raise UsageError(f"The floor takes {n} training samples, but there are {total}: give at most {total}.")
        index = floor_order(total, seed, self._training.y, y)[:n]
        return _floats(apply(lambda tensor: tensor[index], self._training))

    def held_out_samples(self, n: int) -> Batch:
        """The first n validation samples, or all of them if there are fewer."""
        if self._held_out is None:
            return self.training_samples(min(n, len(self._training.x)), seed=0)
        return _floats(apply(lambda tensor: tensor[:n], self._held_out))

    def _validation_batches(self) -> Batches:
        shape = self.round_shape
        assert self._held_out is not None
        samples = apply(lambda tensor: tensor[shape.rank :: shape.world_size], self._held_out)
        return Batches(samples, VALIDATION_BATCH) if self.value_range is None else HeldOut(samples, self.value_range)

    def in_units(self, samples: Tensor) -> Tensor:
        return Scaling(**self.units).undo(samples)

    @property
    def units_range(self) -> tuple[float, float] | None:
        limits = self.units.get("limits")
        return None if limits is None else (limits[0], limits[1])

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """A grid of images, or a plot of rows in their own units, over the held-out rows if they have been read."""
        if self.value_range is not None:
            return super().picture(samples, columns)
        held_out = None if self._held_out is None else self.in_units(self._held_out.x).double()
        return pictures.draw(self.in_units(samples.x).double(), labels=samples.y, reference=held_out)


def _floats(samples: Batch) -> Batch:
    return samples._replace(x=from_bytes(samples.x, SIGNED))
