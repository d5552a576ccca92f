"""Any array of numbers in a file: images or rows, with classes from an optional second array."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gan_lightning.batch import Batch
from gan_lightning.data.scaling import BYTES, Rule, Scaling, fitted
from gan_lightning.data.tensors import Source, TensorData
from gan_lightning.errors import UsageError

ENDINGS = (".npy", ".npz", ".pt")
CHANNELS, WITH_ALPHA = (1, 3), (2, 4)  # usual numbers of channels


class Numbers(TensorData):
    """Base of data given as one array of numbers in any units: images (N, C, H, W) or (N, H, W), rows (N, d) or (N,).

    With ``kind="sequences"``, (N, H, W) means (N, steps, channels). ``scaling`` is range, which maps ``limits`` to
    [-1, 1]; standard, which gives each column or channel mean 0 and variance 1; or none. None means range for images
    and standard for other data.
    """

    def __init__(
        self,
        batch_size: int,
        kind: Literal["images", "sequences"] = "images",
        scaling: Rule | None = None,
        limits: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        self.kind = kind
        self.scaling = scaling
        self.limits = None if limits is None else (float(limits[0]), float(limits[1]))

    def scaled(self, x: np.ndarray, y: Tensor | None, names: tuple[str, ...]) -> Source:
        """Scale samples given in their own units for training; uint8 images stay uint8."""
        x = self._shaped(x)
        rule = self.scaling or ("range" if x.ndim == 4 else "standard")
        if x.ndim == 4 and rule != "range":
            raise UsageError(f"data.scaling is {rule}, which is for rows, but {self.place} has images: give range.")
        if self.limits is not None and rule != "range":
            raise UsageError(f"data.limits needs data.scaling=range, which is {rule}: leave it out, or give both.")
        known = self.__dict__.get("units")  # from a checkpoint
        if known:
            self._check_recalled(tuple(x.shape[1:]), names)
        scaling = Scaling(**known) if known else fitted(x, rule, self.limits)
        is_bytes = x.ndim == 4 and x.dtype == np.uint8 and tuple(scaling.limits or ()) == BYTES
        return Source(Batch(torch.from_numpy(x.copy()) if is_bytes else scaling(x), y), names, scaling.state())

    def _shaped(self, x: np.ndarray) -> np.ndarray:
        """Return images as (N, C, H, W) and rows as (N, d).

        Raises:
            UsageError: the array is neither, or has values that are not finite real numbers.
        """
        if x.dtype.kind not in "biuf":
            raise UsageError(f"{self.place} has values of type {x.dtype}: give integers or floating-point numbers.")
        if x.ndim == 4 and _has_channels_last(*x.shape[1:]):
            raise UsageError(f"{self.place} has shape {x.shape}, channels last: give (N, C, H, W), channels first.")
        if x.ndim not in (1, 2, 3, 4) or x.size == 0:
            raise UsageError(
                f"{self.place} has shape {x.shape}: give images (N, C, H, W) or (N, H, W), or rows (N, d)."
            )
        if not (np.isfinite(x.min()) and np.isfinite(x.max())):
            raise UsageError(f"{self.place} has values that are not finite: remove their samples or fill them in.")
        if self.kind == "sequences" and x.ndim != 3:
            raise UsageError(f"data.kind is sequences, (N, steps, channels), but {self.place} has shape {x.shape}.")
        return x[:, None] if x.ndim == 1 or (x.ndim == 3 and self.kind == "images") else x


class ArrayData(Numbers):
    """The samples of a .npy, .npz or .pt file, of any integer or floating-point type; nothing is unpickled.

    In a file with several arrays, ``key`` is the name of the samples and ``labels`` that of their classes, (N,),
    integers or text.
    """

    def __init__(
        self,
        path: str,
        batch_size: int,
        key: str | None = None,
        labels: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        self.path = Path(path).expanduser()
        self.key = None if key is None else str(key)
        self.labels = None if labels is None else str(labels)
        if self.path.suffix.lower() not in ENDINGS:
            raise UsageError(f"data.path={path} has an unknown extension: give a file in {', '.join(ENDINGS)}.")

    @property
    def place(self) -> str:
        return str(self.path)

    def load(self) -> Source:
        arrays = read_arrays(self.path)
        x = self._samples(arrays)
        y, names = (None, ()) if self.labels is None else self._classes(arrays, len(x))
        return self.scaled(x, y, names)

    def _samples(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        others = [name for name in arrays if name != self.labels]
        if self.key is None and len(others) != 1:
            raise UsageError(
                f"{self.path} has the arrays {', '.join(arrays)}: name the samples by data.key=NAME and their classes, "
                "if any, by data.labels=NAME."
            )
        return self._named(arrays, "key", self.key or others[0])

    def _named(self, arrays: Mapping[str, np.ndarray], option: str, name: str) -> np.ndarray:
        if name not in arrays:
            has = f"has the arrays {', '.join(arrays)}" if any(arrays) else "holds a single array, without a name"
            raise UsageError(f"data.{option} is {name}, but {self.path} {has}: correct it.")
        return arrays[name]

    def _classes(self, arrays: Mapping[str, np.ndarray], n: int) -> tuple[Tensor, tuple[str, ...]]:
        labels = self._named(arrays, "labels", str(self.labels))
        if labels.shape != (n,) or labels.dtype.kind not in "biuU":
            raise UsageError(
                f"{self.labels} in {self.path} has shape {labels.shape} and type {labels.dtype}: classes are ({n},), "
                "integers or text."
            )
        names, y = np.unique(labels, return_inverse=True)
        return torch.from_numpy(y.astype(np.int64)), tuple(map(str, names))


def _has_channels_last(first: int, second: int, last: int) -> bool:
    if first in CHANNELS + WITH_ALPHA:
        return last in CHANNELS and first not in CHANNELS
    return last in CHANNELS or (last in WITH_ALPHA and first == second)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file by name; a single array has an empty name.

    Raises:
        UsageError: the file does not exist or holds anything else.
    """
    if not path.is_file():
        raise UsageError(f"data.path={path} is not a file: give one that ends in {', '.join(ENDINGS)}.")
    try:
        if path.suffix.lower() == ".pt":
            found = torch.load(path, map_location="cpu", weights_only=True)
            return _of_tensors(found if isinstance(found, dict) else {"": found})
        opened = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(opened, np.ndarray):
            return {"": opened}
        with opened:
            return dict(opened)
    except Exception as error:  # torch.load and np.load raise many types, which all mean the same here
        raise UsageError(
            f"{path} cannot be read as arrays of numbers without unpickling: write it with numpy.save or numpy.savez, "
            "or with torch.save from tensors."
        ) from error


def _of_tensors(tensors: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Convert tensors by name to arrays, to float32 if NumPy has no such type."""
    arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue  # for example a description
        tensor = tensor.detach()
        arrays[str(name)] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if not arrays:
        raise TypeError("no tensor")
    return arrays
