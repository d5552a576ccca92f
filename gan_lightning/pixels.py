"""Conversion of images between 8- or 16-bit integers or floats, and the value range of networks."""

from typing import Literal

import torch
from torch import Tensor

Depth = Literal[8, 16, "float"]  # bits per channel, or 32-bit floats
DEPTHS: dict[Depth, torch.dtype] = {8: torch.uint8, 16: torch.uint16, "float": torch.float32}
WHITE = {torch.uint8: 255, torch.uint16: 65535}


def from_bytes(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Convert uint8 in [0, 255] or uint16 in [0, 65535] to float32 in the range (low, high); floats are unchanged."""
    if images.dtype not in WHITE:
        return images
    low, high = value_range
    return images.float().mul_((high - low) / WHITE[images.dtype]).add_(low)


def to_bytes(images: Tensor, value_range: tuple[float, float], kind: torch.dtype = torch.uint8) -> Tensor:
    """Convert images in the range (low, high) to uint8 in [0, 255], or uint16 in [0, 65535], as in image files."""
    low, high = value_range
    white = WHITE[kind]
    return ((images.float() - low) * (white / (high - low))).round().clamp(0, white).to(kind)


def in_depth(images: Tensor, value_range: tuple[float, float], kind: torch.dtype) -> Tensor:
    """Convert images in the range (low, high) to integers, or to floats in [0, 1], as in image files."""
    low, high = value_range
    return to_bytes(images, value_range, kind) if kind in WHITE else ((images - low) / (high - low)).clamp(0, 1)


def as_bytes(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Convert images of any depth to uint8."""
    return images if images.dtype == torch.uint8 else to_bytes(from_bytes(images, value_range), value_range)


def in_color(images: Tensor) -> Tensor:
    """The first three channels, or only the first if there are fewer, (N, 1 or 3, height, width)."""
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1]
