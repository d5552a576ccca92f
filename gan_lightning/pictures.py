"""Samples as pictures, uint8 (3, height, width): grids of images, histograms, scatters."""

import math
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from gan_lightning.distributions import GaussianMixture, density, extent
from gan_lightning.figures import Plot, above, blank, outward, rasterize
from gan_lightning.files import written_aside
from gan_lightning.pixels import in_colour
from gan_lightning.streams import own_stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, POINTS = 64, 10_000  # that a picture takes
HISTOGRAM_BINS = 100
SCATTERED = 2500
CAPTION = 28  # pixels of a line of text
GRID_SIZE = 512  # pixels that small images are enlarged to


def shown(sample_shape: tuple[int, ...]) -> int:
    """How many samples of that shape a picture takes."""
    return IMAGES if len(sample_shape) == 3 else POINTS


def draw(
    samples: Tensor,
    value_range: tuple[float, float] | None = None,
    columns: int | None = None,
    distribution: Distribution | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Samples (N, *sample_shape) as one picture: three dimensions are an image, others points.

    Points are drawn beside the ``distribution`` that they should follow, where it is known. With ``labels``, (N,), each
    row of images is of one class where all have as many and ``columns`` is not given; points in a plane are coloured.
    """
    if samples.dim() == 4:
        if labels is not None and columns is None and (columns := per_class(labels)):
            samples = samples[labels.argsort(stable=True)]
        return image_grid(samples, value_range or (-1.0, 1.0), columns)
    points = samples.reshape(len(samples), -1)
    if points.shape[1] == 1:
        return histogram(points, distribution)
    return rasterize(scatter(points, distribution, labels))


def per_class(labels: Tensor) -> int | None:
    """How many of the labels, (N,), there are of each class that is among them; None where not as many, or one."""
    counts = labels.unique(return_counts=True)[1].unique()
    return int(counts) if len(counts) == 1 and counts > 1 else None


def image_grid(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0), columns: int | None = None) -> Tensor:
    """Images (N, channels, height, width) as a grid on white, square without ``columns``, enlarged to be seen."""
    from torchvision.utils import make_grid

    columns = columns or math.ceil(len(images) ** 0.5)
    grid = make_grid(in_colour(images), nrow=columns, padding=2, value_range=value_range, normalize=True, pad_value=1.0)
    factor = max(1, GRID_SIZE // max(grid.shape[1:]))
    grid = grid.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return (grid * 255).round().to(torch.uint8)


def histogram(samples: Tensor, distribution: Distribution | None = None) -> Tensor:
    """A histogram of samples (N, 1) with the true density over it."""
    plot, bars, truth = _histogram(distribution is not None)
    low, high = samples.min().item(), samples.max().item()
    top = 0.0
    if distribution is not None:
        true_low, true_high = extent(distribution)
        low, high = min(low, true_low), max(high, true_high)
        x = torch.linspace(low, high, 500)
        p = density(distribution, x)
        truth.set_data(x.numpy(), p.numpy())
        top = p.nan_to_num(posinf=0.0).max().item()  # a density may have a pole
    limits = outward(low, high) if low < high else (low - 0.5, low + 0.5)
    shares, edges = np.histogram(samples.flatten().double().numpy(), HISTOGRAM_BINS, limits, density=True)
    bars.set_data(shares, edges)
    return plot.picture(limits, (0.0, above(max(shares.max(), top))))


@lru_cache
def _histogram(has_truth: bool) -> tuple[Plot, Any, Any]:
    plot = Plot()
    (line,) = plot.axes.plot([], [], color="black", linewidth=1.5, label="true density" if has_truth else "")
    plot.moves(line)
    bars = plot.moves(plot.axes.stairs([0.0], [0.0, 1.0], fill=True, alpha=0.6, label="samples"))
    plot.label("x", "density", columns=2)
    return plot, bars, line


def scatter(samples: Tensor, distribution: Distribution | None = None, labels: Tensor | None = None) -> "Figure":
    """The first 2,500 of samples (N, d), by their first two coordinates, in the colours of their labels, (N,).

    Circles mark a mixture's modes; of another distribution as many of its own samples lie below.
    """
    figure, axes = blank(5.2, 5.4)
    if isinstance(distribution, GaussianMixture):
        axes.scatter(*distribution.modes[:, :2].T, s=110, facecolors="none", edgecolors="black", label="true modes")
        reach = 1.25 * distribution.modes[:, :2].abs().max().item() + 3 * distribution.scales.max().item()
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
    elif distribution is not None:
        with own_stream(0):
            true = distribution.sample(torch.Size([SCATTERED])).flatten(1)
        axes.scatter(*true[:, :2].T, s=4, alpha=0.35, linewidths=0, color="black", label="true samples")
    style: dict[str, Any] = {"color": "tab:blue"}
    if labels is not None:  # the wheel of colours ends where it begins: the last class stops before
        style = {"c": labels[:SCATTERED], "cmap": "hsv", "vmin": 0, "vmax": int(labels.max()) + 1}
    axes.scatter(*samples[:SCATTERED, :2].T, s=4, alpha=0.35, linewidths=0, label="samples", zorder=3, **style)
    axes.set_aspect("equal")
    dimensions = samples.shape[1]
    axes.set_xlabel("$x_1$" if dimensions == 2 else f"$x_1$ of {dimensions} coordinates")
    axes.set_ylabel("$x_2$")
    legend = axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for handle in legend.legend_handles:  # the points themselves are too small and pale to be seen there
        handle.set_sizes([40])
        handle.set_alpha(1)
    return figure


def integer_shares(values: Tensor, max_int: int) -> Tensor:
    """How often each integer was generated, beside the uniform share of the even ones."""
    plot, even, odd = _integers(max_int)
    shares = (torch.bincount(values, minlength=max_int) / len(values)).numpy()
    is_even = np.arange(max_int) % 2 == 0
    even.set_data(shares * is_even)
    odd.set_data(shares * ~is_even)
    return plot.picture((-0.5, max_int - 0.5), (0.0, above(max(shares.max(), 2 / max_int))))


@lru_cache
def _integers(max_int: int) -> tuple[Plot, Any, Any]:
    plot, edges, none = Plot(), np.arange(max_int + 1) - 0.5, np.zeros(max_int)
    even = plot.moves(plot.axes.stairs(none, edges, fill=True, label="even"))
    odd = plot.moves(plot.axes.stairs(none, edges, fill=True, color="tab:red", label="odd"))
    plot.moves(plot.axes.axhline(2 / max_int, color="black", linewidth=1.0, label="true share of the even"))
    plot.label("integer", "share of samples", columns=3)
    return plot, even, odd


def captioned(picture: Tensor, text: str) -> Tensor:
    """A uint8 picture (3, height, width) below a line of text on white."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (picture.shape[2], CAPTION), "white")
    middle = picture.shape[2] / 2, CAPTION / 2
    ImageDraw.Draw(strip).text(middle, text, fill="black", anchor="mm", font=ImageFont.load_default(CAPTION * 0.6))
    line = torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8).view(CAPTION, -1, 3).permute(2, 0, 1)
    return torch.cat([line, picture], dim=1)


def png(picture: Tensor) -> bytes:
    """A uint8 picture (3, height, width) as a file's content."""
    from PIL import Image

    stream = BytesIO()
    # the fastest compression takes a third of the time, for a tenth more bytes
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "png", compress_level=1)
    return stream.getvalue()


def write_png(picture: Tensor, path: Path) -> None:
    """A uint8 picture (3, height, width) as a file."""
    with written_aside(path) as aside:
        aside.write_bytes(png(picture))


def summary(name: str, picture: Tensor) -> Any:
    """The same for TensorBoard, whose own way compresses for longer."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, height, width = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png(picture))
    return Summary(value=[Summary.Value(tag=name, image=image)])
