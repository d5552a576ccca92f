"""Paired images for image-to-image translation: two folders, or MNIST's digits and their edges."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchmetrics import Metric

from gan_lightning.batch import Batch, Rounds, apply
from gan_lightning.cache import digest_of
from gan_lightning.data.decode import SKIP, Fit, upright_size
from gan_lightning.data.folder import INCEPTION, ImageFolder, check_apart, sides
from gan_lightning.data.images import HeldOut, ImageData, check_enough
from gan_lightning.data.torchvision import MNIST
from gan_lightning.errors import UsageError
from gan_lightning.metrics.features import Features
from gan_lightning.metrics.images import ImageMetrics
from gan_lightning.metrics.reconstruction import L1
from gan_lightning.pixels import Depth, from_bytes

B = TypeVar("B", Batch, Rounds)


def split(joined: B) -> B:
    """Split x, (..., 2 channels, height, width), into the input y, the first channels, and the target x."""
    y, x = joined.x.chunk(2, dim=-3)
    return joined._replace(x=x, y=y)


class _HeldOutPairs(HeldOut):
    def __iter__(self) -> Iterator[Batch]:
        return map(split, super().__iter__())


class Pairs(ImageData):
    """Base of paired images: x is the target and y the input, with the same shape and range.

    ``read`` returns each pair concatenated along the channels, the input first, so that a flip mirrors both. Validation
    compares G(y) with x on held-out pairs, also by the features of a network if there is one.
    """

    fit: Fit = "crop"  # for input images given to G by the user

    def setup(self, stage: str | None = None) -> None:
        if not hasattr(self, "images"):
            self.images, self.labels = self.read(train=True)[0], None
        self._take_subset()
        if self.validation_samples and not hasattr(self, "_held_out"):
            self._held_out = self._validation_images()
            self.held_out_digest = digest_of(self._held_out)
            self._metrics: dict[str, Metric] = {"l1": L1(self.value_range)}
            if features := self._feature_network():
                self.features_name, self.features_accuracy = features.name, features.accuracy
                self._metrics["images"] = ImageMetrics(features, self.value_range)
            self.monitor = ("val/l1", "min")
            self.val_dataloader = self._validation_batches  # type: ignore[method-assign]

    def metrics(self) -> dict[str, Metric]:
        return self._metrics if self.validation_samples else {}

    def _feature_network(self) -> Features | None:  # type: ignore[override]
        if self.features != "inception":
            return None  # there are no classes
        check_enough(self._held_out)
        return super()._feature_network()

    def fetcher(self) -> Callable[[int, int], Rounds]:
        fetch = super().fetcher()
        return lambda start, stop: split(fetch(start, stop))

    def training_samples(self, n: int, seed: int, y: Tensor | None = None) -> Batch:
        return split(super().training_samples(n, seed))

    def held_out_samples(self, n: int) -> Batch:
        return split(super().held_out_samples(n))

    def conditions(self, n: int) -> Tensor:
        """n inputs (n, *sample_shape), cycling through the validation pairs, or the training pairs if none."""
        known = self._held_out.x if self.validation_samples else self.images
        assert isinstance(known, Tensor)
        joined = from_bytes(known[torch.arange(n) % len(known)], self.value_range)
        inputs = split(Batch(joined)).y
        assert inputs is not None
        return inputs

    def picture(self, samples: Batch, columns: int | None = None) -> Tensor:
        """Draw x as in the base class; y holds images, not labels, and is left out."""
        return super().picture(samples._replace(y=None), columns)

    def _validation_batches(self) -> HeldOut:
        shape = self.round_shape
        part = apply(lambda tensor: tensor[shape.rank :: shape.world_size], self._held_out)
        return _HeldOutPairs(part, self.value_range)


class PairedFolder(Pairs):
    """The images of ``root``/A as inputs and those of ``root``/B as targets, paired by file name.

    Each folder is read like ``ImageFolder``, up to ``memory_limit`` GiB each. ``held_out`` is another such folder;
    without it, or without ``validation_samples``, pictures show training pairs.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        size: int | Sequence[int],
        channels: int = 3,
        memory_limit: float = 4.0,
        held_out: str | None = None,
        fit: Fit = "crop",
        depth: Depth = 8,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, **options)
        self.sample_shape = (channels, *sides(size))
        self.fit, self.depth = fit, depth
        self.memory_limit = memory_limit
        self.held_out = None if held_out is None else Path(held_out).expanduser()
        check_apart(self.root, self.held_out)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        option, root = ("root", self.root) if train else ("held_out", self.held_out)
        if root is None:
            raise UsageError("data.held_out is not set: give a folder with A and B whose pairs are not trained on.")
        try:
            images = torch.cat(self._sides(root), 1)
        except UsageError as error:  # its message names ImageFolder's options
            sentence = str(error).replace("data.root=", f"data.{option}=").replace(SKIP, "").replace(INCEPTION, "")
            raise UsageError(sentence) from error
        return images, torch.full((len(images),), -1)

    def _sides(self, root: Path) -> list[Tensor]:
        """The inputs and the targets, in the same order."""
        channels, *size = self.sample_shape
        own = ("memory_limit", "cache", "fit", "depth")
        options: dict[str, Any] = {name: getattr(self, name) for name in own} | {"range": self.range}
        a, b = (ImageFolder(str(root / side), self.batch_size, size, channels, **options) for side in "AB")
        check_names(root, a.names(), b.names())
        images = [side.read(train=True)[0] for side in (a, b)]
        if self.fit != "stretch":
            check_shapes(root, a.names())
        return images

    def held_out_samples(self, n: int) -> Batch:
        if self.held_out is None:
            return self.training_samples(min(n, len(self.images)), seed=0)  # type: ignore[arg-type]
        return super().held_out_samples(n)


def check_names(root: Path, inputs: list[str], targets: list[str]) -> None:
    """Check that the files in folders A and B have the same names.

    Raises:
        UsageError: one has a file that is missing in the other.
    """
    if others := sorted(set(inputs) ^ set(targets)):
        there, absent = ("A", "B") if others[0] in inputs else ("B", "A")
        raise UsageError(
            f"{root / there} has {others[0]}, which is missing in {root / absent}, so the folders are not pairs "
            f"({len(others)} such files): give both folders files of the same names."
        )


def check_shapes(root: Path, names: Sequence[str]) -> None:
    """Check that pairs stay aligned when both images are cropped or padded.

    Raises:
        UsageError: the images of a pair have different aspect ratios.
    """
    for name in names:
        a, b = (upright_size(root / side / name) for side in "AB")
        if a[0] * b[1] != a[1] * b[0]:
            raise UsageError(
                f"{root / 'A' / name} has {a[0]} x {a[1]} pixels, and the one in B {b[0]} x {b[1]}: give pairs of the "
                "same aspect ratio, or data.fit=stretch."
            )


class MNISTEdges(Pairs):
    """Outlines of MNIST's digits as inputs and the digits as targets, (1, 28, 28); no download besides MNIST."""

    sample_shape = (1, 28, 28)

    def __init__(self, root: str, batch_size: int, download: bool = True, **options: Any) -> None:
        super().__init__(root, batch_size, **options)
        own = {"features": self.features, "inception_weights": self.inception_weights, "cache": self.cache}
        self.digits = MNIST(root, batch_size, download=download, **own)

    def prepare_data(self) -> None:
        if not hasattr(self, "images"):
            self.digits.prepare_data()

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        digits, labels = self.digits.read(train)
        return torch.cat([outline(digits), digits], 1), labels

    def _feature_network(self) -> Features:
        self.digits.trainer = self.trainer
        return self.digits._feature_network()


def outline(images: Tensor) -> Tensor:
    """The outlines of regions brighter than 127, their 3 x 3 dilation minus themselves; uint8 to uint8 (0 or 255)."""
    inside = (images > 127).float()
    return ((max_pool2d(inside, 3, stride=1, padding=1) - inside) * 255).byte()
