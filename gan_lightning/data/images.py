"""Base of the image data modules: selected classes, held-out images, feature networks and validation."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchmetrics import Metric

from gan_lightning.batch import Batch, Rounds, apply
from gan_lightning.cache import cache_folder, digest_of
from gan_lightning.data.fetch import MemoryFetcher, RoundOrder, WorkerFetcher
from gan_lightning.data.loader import Batches, RealData, floor_order
from gan_lightning.errors import UsageError
from gan_lightning.metrics.features import Features, inception_features, own_features
from gan_lightning.metrics.images import ImageMetrics
from gan_lightning.pixels import as_bytes, from_bytes
from gan_lightning.streams import stream_seed

RANGES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0)}
FEWEST_HELD_OUT = 10  # density uses five nearest neighbors
VALIDATION_BATCH = 500


class HeldOut(Batches):
    """Batches of uint8 images in order, as floats in the range."""

    def __init__(self, samples: Batch, value_range: tuple[float, float]) -> None:
        super().__init__(samples, VALIDATION_BATCH)
        self.value_range = value_range

    def __iter__(self) -> Iterator[Batch]:
        return (batch._replace(x=from_bytes(batch.x, self.value_range)) for batch in self.batches)


class ImageData(RealData):
    """Base of the image data modules: ``read`` returns images and classes; batches are floats in ``value_range``.

    A tensor of images is moved to the training device, where a batch is one indexing operation; a dataset that reads
    (image, class) items one by one is read by ``workers`` processes. Selected classes are numbered from 0 in the order
    of ``class_names``. ``subset`` limits the number of training images; they are drawn at random from the selected
    classes, the same for every seed, and smaller subsets are contained in larger ones. Validation compares generated
    images with ``validation_samples`` held-out images by the features of Inception or of a classifier trained on all
    training images of this dataset.
    """

    images: Tensor | Dataset[tuple[Tensor, int]]  # uint8, uint16 or floats in the range, (images, *sample_shape)
    labels: Tensor | None = None  # of the images in memory
    value_range: tuple[float, float]

    def __init__(
        self,
        root: str,
        batch_size: int,
        classes: Sequence[int | str] | None = None,
        subset: int | None = None,
        horizontal_flips: bool = False,
        range: Literal["signed", "unit"] = "signed",
        seed: int = 0,
        rounds_per_batch: int = 1,
        workers: int = 2,
        validation_samples: int = 0,
        features: Literal["own", "inception"] = "own",
        inception_weights: str | None = None,
        cache: str = "~/.cache/gan_lightning",
    ) -> None:
        super().__init__(batch_size, seed, rounds_per_batch)
        if range not in RANGES:
            raise UsageError(f"data.range is {range!r}: choose signed, for [-1, 1], or unit, for [0, 1].")
        if 0 < validation_samples < FEWEST_HELD_OUT:
            raise UsageError(
                f"data.validation_samples is {validation_samples}: give at least {FEWEST_HELD_OUT}, or 0 for no image "
                "metrics while training."
            )
        is_list = isinstance(classes, Sequence) and not isinstance(classes, str)
        if classes is not None and not (is_list and classes and all(type(name) in (int, str) for name in classes)):
            raise UsageError(
                f"data.classes is {classes!r}: give a list of names or numbers, one or more, or null for all."
            )
        self.range, self.value_range = range, RANGES[range]
        if not str(root):
            raise UsageError("data.root is empty: give a folder.")
        self.root = Path(root).expanduser()
        self.chosen = classes
        self.subset = subset
        self.horizontal_flips = horizontal_flips
        self.workers = workers
        self.validation_samples = validation_samples
        self.monitor = ("val/fid", "min") if validation_samples else None
        self.features = features
        self.inception_weights = inception_weights
        self.cache = cache

    @property
    def all_class_names(self) -> Sequence[str]:
        """The names of all classes of ``read``, selected or not; empty if there are none."""
        return ()

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return all images of the training or the held-out set, (n, *sample_shape), and their classes, (n,).

        A class of -1 is not in ``all_class_names``.
        """
        raise TypeError(f"{type(self).__name__} must define read")

    def setup(self, stage: str | None = None) -> None:
        """Read the images, and the held-out images and the feature network if validation needs them."""
        if self.validation_samples and self.features == "own":
            cache_folder(self.cache)  # fails before anything is read
        if not hasattr(self, "images"):
            self.images, self.labels, *_ = self._of_chosen_classes(*self.read(train=True))
        self._take_subset()
        if self.validation_samples and not hasattr(self, "_metric"):
            self._held_out = self._validation_images()
            self.held_out_digest = digest_of(self._held_out)
            check_enough(self._held_out)
            features = self._feature_network()
            self.features_name, self.features_accuracy = features.name, features.accuracy
            self._metric = ImageMetrics(features, self.value_range, self._chosen_classes())
            # Lightning validates only if this method is defined, and warns about an empty loader
            self.val_dataloader = self._validation_batches  # type: ignore[method-assign]

    def _take_subset(self) -> None:
        """Reduce the images to the subset, unless this is done already.

        Raises:
            UsageError: there are fewer images.
        """
        if self.subset is None or self.subset == (total := len(self.images)):  # type: ignore[arg-type]
            return
        if total < self.subset:
            raise UsageError(
                f"data.subset is {self.subset}, but there are {total} training images: give at most that number, or "
                "null for all."
            )
        index = torch.randperm(total, generator=torch.Generator().manual_seed(stream_seed("subset")))[: self.subset]
        if isinstance(self.images, Tensor):
            self.images = self.images[index]
        else:
            self.images = Subset(self.images, index.tolist())
        self.labels = None if self.labels is None else self.labels[index]

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """A digest of the training images and their classes, independent of paths; available after ``setup``."""
        assert isinstance(self.images, Tensor)
        digest = hashlib.sha256(self.images.contiguous().numpy().data)
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().data)
        return f"{len(self.images)} images in memory, digest {digest.hexdigest()[:16]}"

    def held_out_images(self) -> Batch:
        """The held-out images of the selected classes, (n, *sample_shape), in the same order for all runs."""
        images = self._of_chosen_classes(*self.read(train=False))
        stream = torch.Generator().manual_seed(stream_seed("held-out"))
        order = torch.randperm(len(images.x), generator=stream)
        return apply(lambda tensor: tensor[order], images)

    def held_out_samples(self, n: int) -> Batch:
        """The first n held-out images, in validation's order."""
        images = apply(lambda tensor: tensor[:n], self.held_out_images())
        return images._replace(x=from_bytes(images.x, self.value_range))

    def _validation_images(self) -> Batch:
        images = self.held_out_images()
        n = len(images.x)
        if n < self.validation_samples:
            raise UsageError(
                f"data.validation_samples is {self.validation_samples}, but there are {n} held-out images: "
                "give at most that number."
            )
        return apply(lambda tensor: tensor[: self.validation_samples], images)

    def _feature_network(self) -> Features:
        if self.features == "inception":
            return inception_features(self.inception_weights)
        assert self.trainer is not None
        device, cache, kind = self.trainer.strategy.root_device, cache_folder(self.cache), type(self).__name__.lower()
        (train, labels), (held_out, its_labels) = self.read(train=True), self.read(train=False)
        train, held_out = as_bytes(train, self.value_range), as_bytes(held_out, self.value_range)
        return own_features(kind, (train, labels), (held_out, its_labels), len(self.all_class_names), cache, device)

    def _of_chosen_classes(self, images: Tensor, labels: Tensor) -> Batch:
        """The images of the selected classes and their indices in ``class_names``; None if an image has no class."""
        chosen = self._chosen_classes()
        if chosen is not None:
            is_chosen = torch.isin(labels, torch.tensor(chosen))
            images, labels = images[is_chosen], torch.searchsorted(torch.tensor(chosen), labels[is_chosen])
        has_classes = self.classes > 0 and bool((labels >= 0).all())
        return Batch(images, labels.long() if has_classes else None)

    @cached_property
    def class_names(self) -> Sequence[str]:
        chosen = self._chosen_classes()
        return self.all_class_names if chosen is None else [self.all_class_names[index] for index in chosen]

    def _chosen_classes(self) -> list[int] | None:
        """The sorted indices of the selected classes; None for all."""
        return None if self.chosen is None else sorted({self._class_index(name) for name in self.chosen})

    def _class_index(self, name: int | str) -> int:
        raise TypeError(f"{type(self).__name__} must define _class_index")

    def metrics(self) -> dict[str, Metric]:
        if not self.validation_samples:
            return {}
        self._metric.class_names = self.measured_classes
        return {"images": self._metric}

    def _validation_batches(self) -> HeldOut:
        shape = self.round_shape
        return HeldOut(apply(lambda tensor: tensor[shape.rank :: shape.world_size], self._held_out), self.value_range)

    def training_samples(self, n: int, seed: int, y: Tensor | None = None) -> Batch:
        total = len(self.images)  # type: ignore[arg-type]
        if n > total:
            raise UsageError(f"The floor takes {n} training images, but there are {total}: give at most that number.")
        index = floor_order(total, seed, self.labels, y)[:n]
        if isinstance(self.images, Tensor):
            images = self.images[index]
        else:
            images = torch.stack([self.images[i][0] for i in index.tolist()])
        return Batch(from_bytes(images, self.value_range), None if self.labels is None else self.labels[index])

    def check_size(self) -> None:
        """Raise a UsageError if one round needs more images than there are."""
        n, needed = len(self.images), self.round_shape.samples  # type: ignore[arg-type]
        if n < needed:
            raise UsageError(
                f"One training round takes {needed} images (data.batch_size={self.batch_size} for each update and "
                f"device), but {self.root} has {n}: choose a smaller data.batch_size."
            )

    @property
    def rounds_per_epoch(self) -> int:
        return self._order().rounds_per_epoch

    def _order(self) -> RoundOrder:
        return RoundOrder(len(self.images), self.round_shape, self.seed, self.horizontal_flips)  # type: ignore[arg-type]

    def fetcher(self) -> Callable[[int, int], Rounds]:
        order = self._order()
        if isinstance(self.images, Tensor):
            assert self.trainer is not None
            device = self.trainer.strategy.root_device
            samples = apply(lambda tensor: tensor.to(device), Batch(self.images, self.labels))
            return MemoryFetcher(samples, order, self.value_range)
        return WorkerFetcher(self.images, order, self.value_range, self.classes > 0, self.workers)


def check_enough(held_out: Batch) -> None:
    """Check that image metrics can compare with so few held-out images.

    Raises:
        UsageError: they cannot.
    """
    if (n := len(held_out.x)) < FEWEST_HELD_OUT:
        raise UsageError(f"There are {n} held-out images: image metrics need at least {FEWEST_HELD_OUT}.")
