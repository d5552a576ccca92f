"""Images as bytes, and as numbers in the range that networks see."""

import torch
from torch import Tensor


def from_bytes(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """uint8 in [0, 255] to float32 in the range (low, high); what is no uint8 is in it already."""
    if images.dtype != torch.uint8:
        return images
    low, high = value_range
    return images.float().mul_((high - low) / 255).add_(low)


def to_bytes(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Images in the range (low, high) as uint8 in [0, 255], as a file would hold them."""
    low, high = value_range
    return ((images.float() - low) * (255 / (high - low))).round().clamp(0, 255).byte()
