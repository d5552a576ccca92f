"""Any array of numbers in a file: images or rows, with classes where a second array has them."""

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
CHANNELS = (1, 3)  # of most images


class Numbers(TensorData):
    """Base of data that are one array of numbers, in any units: images (N, C, H, W) or (N, H, W), rows (N, d) or (N,).

    Of the ``kind`` sequences, (N, H, W) are (N, steps, channels). ``scaling`` is range, which maps ``limits`` to
    [-1, 1], or standard, mean 0 and variance 1 of each column or channel, or none; for None range for images, and
    standard for others.
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
        """What is trained on of samples in their own units; bytes of images stay bytes."""
        x = self._shaped(x)
        rule = self.scaling or ("range" if x.ndim == 4 else "standard")
        if x.ndim == 4 and rule != "range":
            raise UsageError(f"data.scaling is {rule}, which is for rows, and {self.place} has images: give range.")
        if self.limits is not None and rule != "range":
            raise UsageError(f"data.limits is for data.scaling=range, which is {rule}: leave it out, or give both.")
        known = self.__dict__.get("units")  # from a checkpoint
        scaling = Scaling(**known) if known else fitted(x, rule, self.limits)
        is_bytes = x.ndim == 4 and x.dtype == np.uint8 and tuple(scaling.limits or ()) == BYTES
        return Source(Batch(torch.from_numpy(x.copy()) if is_bytes else scaling(x), y), names, scaling.state())

    def _shaped(self, x: np.ndarray) -> np.ndarray:
        """Images as (N, C, H, W), and rows as (N, d).

        Raises:
            UsageError: they are neither, or no finite real numbers.
        """
        if x.dtype.kind not in "biuf":
            raise UsageError(f"{self.place} has values of type {x.dtype}: give integers or floating-point numbers.")
        if x.ndim == 4 and x.shape[-1] in CHANNELS and x.shape[1] not in CHANNELS:
            raise UsageError(f"{self.place} has shape {x.shape}, channels last: give (N, C, H, W), channels first.")
        if x.ndim not in (1, 2, 3, 4) or x.size == 0:
            raise UsageError(
                f"{self.place} has shape {x.shape}: give images (N, C, H, W) or (N, H, W), or rows (N, d)."
            )
        if not (np.isfinite(x.min()) and np.isfinite(x.max())):
            raise UsageError(f"{self.place} has values that are not finite: leave out or fill in their samples.")
        if self.kind == "sequences" and x.ndim != 3:
            raise UsageError(f"data.kind is sequences, (N, steps, channels), and {self.place} has shape {x.shape}.")
        return x[:, None] if x.ndim == 1 or (x.ndim == 3 and self.kind == "images") else x


class ArrayData(Numbers):
    """The samples of a .npy, .npz or .pt file, of any integer or floating-point type; nothing in it is unpickled.

    ``key`` names the samples in a file of several arrays, ``labels`` their classes, (N,), integers or text.
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
            raise UsageError(f"data.path={path} ends in none of {', '.join(ENDINGS)}: give such a file.")

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
                f"{self.path} has the arrays {', '.join(arrays)}: say which are the samples, data.key=NAME, and which, "
                "if any, their classes, data.labels=NAME."
            )
        return self._named(arrays, "key", self.key or others[0])

    def _named(self, arrays: Mapping[str, np.ndarray], option: str, name: str) -> np.ndarray:
        if name not in arrays:
            has = f"has {', '.join(arrays)}" if any(arrays) else "holds a single array, without a name"
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


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their names, a single one under an empty name.

    Raises:
        UsageError: there is no such file, or it holds anything else.
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
    except Exception as error:  # torch.load and np.load raise many kinds, all with the same meaning here
        raise UsageError(
            f"{path} cannot be read as arrays of numbers, without unpickling: write it by numpy.save, numpy.savez or "
            "torch.save, of tensors."
        ) from error


def _of_tensors(tensors: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Tensors by name as arrays; in float32 where NumPy has no such type."""
    arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue  # such as a file's description
        tensor = tensor.detach()
        arrays[str(name)] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if not arrays:
        raise TypeError("no tensor")
    return arrays
