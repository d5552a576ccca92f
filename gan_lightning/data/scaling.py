"""Invertible scaling of values: a range to [-1, 1], or each column to mean 0 and variance 1."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gan_lightning.errors import UsageError

Rule = Literal["range", "standard", "none"]
BYTES = (0.0, 255.0)
BLOCK = 4096  # samples converted at once


@dataclass(frozen=True)
class Scaling:
    """x' = (x - offset) / scale, each a single number or one per column, the last dimension.

    ``dtype`` is the NumPy name of the type of x. On the way back, integer types are rounded and x is clipped to
    ``limits``.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    dtype: str
    limits: tuple[float, float] | None = None

    def __call__(self, x: np.ndarray) -> Tensor:
        """Scale samples (N, ...) to float32, computed in float64."""
        offset, scale = np.array(self.offset), np.array(self.scale)
        scaled = torch.empty(x.shape, dtype=torch.float32)
        for start in range(0, len(x), BLOCK):
            part = (x[start : start + BLOCK].astype(np.float64) - offset) / scale
            scaled[start : start + BLOCK] = torch.from_numpy(part)
        return scaled

    def undo(self, samples: Tensor) -> Tensor:
        """Convert samples (N, ...) back to the units and the type of x."""
        kind = np.dtype(self.dtype).kind
        offset, scale = (torch.tensor(part, dtype=torch.double) for part in (self.offset, self.scale))
        x = samples.double() * scale + offset
        if self.limits is not None:
            x = x.clamp(*self.limits)
        if kind in "iu":
            bounds = np.iinfo(self.dtype)
            largest = float(bounds.max) - (2048 if bounds.bits == 64 else 0)  # the largest that a double can hold
            x = x.round().clamp(float(bounds.min), largest)
        return x >= 0.5 if kind == "b" else x.to(getattr(torch, self.dtype))

    def state(self) -> dict[str, Any]:
        """Plain containers; ``Scaling(**state)`` restores the scaling."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def fitted(x: np.ndarray, rule: Rule, limits: tuple[float, float] | None = None) -> Scaling:
    """Fit a scaling to samples (N, ...).

    range maps ``limits`` to [-1, 1]; None means [0, 255] for bytes and the extremes for other types. standard gives
    each column, the last dimension, mean 0 and variance 1; a constant column becomes 0.

    Raises:
        UsageError: a value is outside the limits, or the differences of whole numbers are lost in float64.
    """
    dtype = "float64" if x.dtype.itemsize > 8 else x.dtype.name
    if rule == "none":
        return Scaling((0.0,), (1.0,), dtype)
    if rule == "standard":
        axes = tuple(range(x.ndim - 1))
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            mean, std = x.mean(axis=axes, dtype=np.float64), x.std(axis=axes, dtype=np.float64)
        low, high = x.min(axis=axes), x.max(axis=axes)
        if x.dtype.kind in "iu" and ((low < high) & (std < np.spacing(np.abs(mean)))).any():
            raise UsageError(
                f"The data contain whole numbers, up to {high.max()}, whose differences a float64 cannot hold: "
                "subtract a constant from them."
            )
        std = np.where(low < high, std, 0.0)  # which rounding of the mean leaves above 0
        return Scaling(tuple(mean.tolist()), _scales(std), dtype)
    extremes = float(x.min()), float(x.max())
    low, high = limits or (BYTES if x.dtype == np.uint8 else extremes)
    if extremes[0] < low or extremes[1] > high:
        raise UsageError(
            f"data.limits is [{low:g}, {high:g}], but values are from {extremes[0]:g} to {extremes[1]:g}: give wider "
            "limits."
        )
    half = (high - low) / 2
    return Scaling(((low + high) / 2,), _scales(np.array([half])), dtype, (low, high))


def _scales(spread: np.ndarray) -> tuple[float, ...]:
    """The spreads, and 1 for constant values.

    Raises:
        UsageError: a spread is not finite.
    """
    if not np.isfinite(spread).all():
        raise UsageError(f"The data have values whose spread is {spread.max():g}: give values below 1e150.")
    return tuple(np.where(spread > 0, spread, 1.0).tolist())
