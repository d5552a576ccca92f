"""Image datasets from torchvision: MNIST, FashionMNIST, CIFAR-10."""

import math
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_lightning.data.images import ImageData
from gan_lightning.errors import UsageError


class _Torchvision(ImageData):
    """A torchvision dataset, downloaded into ``root``."""

    name: str
    files: str

    def __init__(self, *args: Any, download: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.download = download

    def prepare_data(self) -> None:
        """Read the data in one process before the others, since reading may download it."""
        if not hasattr(self, "images"):
            self.read(train=True)

    def _class_index(self, name: int | str) -> int:
        names = list(self.all_class_names)
        if isinstance(name, int) and 0 <= name < len(names):
            return name
        if name in names:
            return names.index(str(name))
        raise UsageError(f"data.classes names {name!r}: {self.name} has {', '.join(names)} (or 0 to {len(names) - 1}).")

    def _open(self, train: bool) -> Any:
        """Open torchvision's dataset, and download it if allowed.

        Raises:
            FileNotFoundError: it is missing and cannot be downloaded.
        """
        import torchvision

        dataset = getattr(torchvision.datasets, self.name)
        try:
            return dataset(self.root, train=train, download=self.download)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(":") or type(error).__name__
            raise UsageError(
                f"{self.name} is not in data.root={self.root} and was not downloaded ({reason}): give the folder that "
                f"holds {self.files}, or run once with data.download=true and an internet connection."
            ) from error


class MNIST(_Torchvision):
    """60,000 handwritten digits, (1, 28, 28) (LeCun et al. 1998)."""

    name = "MNIST"
    sample_shape = (1, 28, 28)
    all_class_names = tuple("0123456789")
    files = "MNIST/raw with its idx files"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        for kind in ("images-idx3", "labels-idx1"):
            file = self.root / self.name / "raw" / f"{'train' if train else 't10k'}-{kind}-ubyte"
            if file.exists():
                check_idx(file)
        dataset = self._open(train)
        return dataset.data[:, None], dataset.targets


class FashionMNIST(MNIST):
    """60,000 pieces of clothing, (1, 28, 28) (Xiao et al. 2017)."""

    name = "FashionMNIST"
    all_class_names = (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    files = "FashionMNIST/raw with its idx files"


class CIFAR10(_Torchvision):
    """50,000 photographs of ten classes, (3, 32, 32) (Krizhevsky 2009)."""

    name = "CIFAR10"
    sample_shape = (3, 32, 32)
    all_class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    files = "cifar-10-batches-py"

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        dataset = self._open(train)
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


def check_idx(path: Path) -> None:
    """Check an idx file's length against its header, since torchvision's error does not name the file.

    Raises:
        UsageError: the file is truncated or is not an idx file of bytes.
    """
    with path.open("rb") as file:
        zero, kind, dimensions = struct.unpack(">HBB", file.read(4).ljust(4, b"\xff"))
        sizes = file.read(4 * dimensions) if (zero, kind) == (0, 8) else b""
        whole = sizes and len(sizes) == 4 * dimensions
    expected = 4 + len(sizes) + math.prod(struct.unpack(f">{dimensions}I", sizes)) if whole else -1
    actual = path.stat().st_size
    if expected != actual:
        raise UsageError(
            f"{path} has {actual} bytes, but its header announces {expected if whole else 'no idx data'}: "
            "the file is corrupt, so delete it and download it again."
        )
