"""Any map-style PyTorch dataset, such as torchvision's, read into memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gan_lightning.cache import say
from gan_lightning.config import one_line
from gan_lightning.data.arrays import Numbers
from gan_lightning.data.decode import opaque
from gan_lightning.data.tensors import Source
from gan_lightning.errors import UsageError
from gan_lightning.streams import own_stream, stream_seed


class DatasetData(Numbers):
    """The items of the dataset that ``dataset()`` returns: x, (x,) or (x, y), where y is the class, an integer.

    Only classes that an item has are classes of the data.

    x is a tensor, an array or a PIL image. All items are read once into one tensor of at most ``memory_limit`` GiB.
    Each item has its own random stream, so random transforms that use torch always give it the same value.
    """

    def __init__(
        self, dataset: Callable[[], Dataset[Any]], batch_size: int, memory_limit: float = 8.0, **options: Any
    ) -> None:
        super().__init__(batch_size, **options)
        self.dataset = dataset
        self.memory_limit = memory_limit

    @property
    def place(self) -> str:
        return str(getattr(self._kind, "__name__", "data.dataset"))

    def load(self) -> Source:
        dataset = self._made()
        if not hasattr(dataset, "__len__"):
            raise UsageError(f"{self.place} has no length: give a map-style dataset, with __len__ and __getitem__.")
        n = len(dataset)
        if n == 0:
            raise UsageError(f"{self.place} has no items.")
        first, y = item(dataset, 0, self.place)
        gigabytes = n * first.size * 4 / 2**30
        if gigabytes > self.memory_limit:
            raise UsageError(
                f"{self.place} takes {gigabytes:.1f} GiB, more than data.memory_limit={self.memory_limit}: give a "
                "higher limit or a subset of the data, or read a larger folder of images by data=image_folder."
            )
        say(f"Reading the {n:,} items of {self.place} into memory")
        x, labels = np.empty((n, *first.shape), first.dtype), list[int]()
        for i in range(n):
            one, y = item(dataset, i, self.place)
            if (one.shape, one.dtype) != (first.shape, first.dtype):
                kinds = [f"{part.dtype} {part.shape}" for part in (first, one)]
                raise UsageError(
                    f"{self.place} has items of different shapes or types, {kinds[0]} and {kinds[1]} (item {i}): give "
                    "all items one shape and type, for example by a transform."
                )
            x[i] = one
            if i and (y is None) == bool(labels):
                raise UsageError(
                    f"{self.place} has items with a class and items without (item {i}): give all items one, or none."
                )
            labels += [] if y is None else [y]
        if not labels:
            return self.scaled(x, None, ())
        present, index = np.unique(labels, return_inverse=True)
        return self.scaled(x, torch.from_numpy(index), class_names(dataset, present.tolist()))

    def _made(self) -> Any:
        try:
            return self.dataset()
        except (RuntimeError, OSError) as error:
            if not str(getattr(self._kind, "__module__", "")).startswith("torchvision."):
                raise
            raise UsageError(f"{self.place} cannot be created: {one_line(error)}.") from error

    @property
    def _kind(self) -> Any:
        return getattr(self.dataset, "func", self.dataset)


def item(dataset: Any, i: int, name: str) -> tuple[np.ndarray, int | None]:
    """Return an item as an array and its class, or None if it has no class.

    Raises:
        UsageError: it is neither x nor (x, y).
    """
    with own_stream(stream_seed("item", i)):
        found = dataset[i]
    x, y = (*found, None)[:2] if isinstance(found, tuple | list) and len(found) in (1, 2) else (found, None)
    y = y.item() if isinstance(y, Tensor | np.ndarray | np.generic) and y.ndim == 0 else y
    if not isinstance(x, Tensor | np.ndarray | np.generic | Image.Image | float | int) or not _is_class(y):
        shown = "" if _is_class(y) else f", with y = {y!r:.40}"
        raise UsageError(
            f"Item {i} of {name} is {_described(found)}{shown}: give x or (x, y), where x is a tensor, an array or a "
            "PIL image and y is the number of its class."
        )
    return _as_array(x), y


def _is_class(y: Any) -> TypeGuard[int | None]:
    return y is None or (isinstance(y, int) and not isinstance(y, bool) and y >= 0)


def _described(found: Any) -> str:
    if isinstance(found, Mapping) or not isinstance(found, tuple | list):
        return f"a {type(found).__name__}"
    return f"({', '.join(type(part).__name__ for part in found)})"


def _as_array(x: Any) -> np.ndarray:
    if isinstance(x, Image.Image):
        x = opaque(x)
        is_kept = x.mode.startswith("I") or x.mode in ("L", "RGB", "F")
        x = np.asarray(x if is_kept else x.convert("RGB"))
        return np.moveaxis(x, -1, 0) if x.ndim == 3 else x
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return np.asarray(x)


def class_names(dataset: Any, classes: Sequence[int]) -> tuple[str, ...]:
    """The names of these classes in the dataset's ``classes``, as in torchvision's datasets, or else their numbers."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or len(names) <= max(classes):
        return tuple(map(str, classes))
    return tuple(str(names[k]) for k in classes)
