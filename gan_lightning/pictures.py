"""Samples as pictures, uint8 (3, height, width): grids of images, histograms, scatters."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from gan_lightning.distributions import GaussianMixture, density, extent
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
        return rasterize(histogram(points, distribution))
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


def histogram(samples: Tensor, distribution: Distribution | None = None) -> "Figure":
    """A histogram of samples (N, 1) with the true density over it."""
    figure, axes = _figure(6.4, 4.0)
    low, high = samples.min().item(), samples.max().item()
    if distribution is not None:
        true_low, true_high = extent(distribution)
        low, high = min(low, true_low), max(high, true_high)
        x = torch.linspace(low, high, 500)
        axes.plot(x, density(distribution, x), color="black", linewidth=1.5, label="true density")
    if low == high:
        low, high = low - 0.5, high + 0.5
    axes.hist(
        samples.flatten().numpy(), bins=HISTOGRAM_BINS, range=(low, high), density=True, alpha=0.6, label="samples"
    )
    axes.set_xlim(low, high)
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def scatter(samples: Tensor, distribution: Distribution | None = None, labels: Tensor | None = None) -> "Figure":
    """The first 2,500 of samples (N, d), by their first two coordinates, in the colours of their labels, (N,).

    Circles mark a mixture's modes; of another distribution as many of its own samples lie below.
    """
    figure, axes = _figure(5.2, 5.4)
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


def integer_shares(values: Tensor, max_int: int) -> "Figure":
    """How often each integer was generated, beside the uniform share of the even ones."""
    figure, axes = _figure(6.4, 4.0)
    share = (torch.bincount(values, minlength=max_int) / len(values)).numpy()
    axes.bar(range(0, max_int, 2), share[::2], width=1.0, label="even")
    axes.bar(range(1, max_int, 2), share[1::2], width=1.0, color="tab:red", label="odd")
    axes.axhline(2 / max_int, color="black", linewidth=1.0, label="true share of the even")
    axes.set_xlabel("integer")
    axes.set_ylabel("share of samples")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    # Figure without pyplot: no display, no global state, nothing to close
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=100)
    return figure, figure.subplots()


def captioned(picture: Tensor, text: str) -> Tensor:
    """A uint8 picture (3, height, width) below a line of text on white."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (picture.shape[2], CAPTION), "white")
    middle = picture.shape[2] / 2, CAPTION / 2
    ImageDraw.Draw(strip).text(middle, text, fill="black", anchor="mm", font=ImageFont.load_default(CAPTION * 0.6))
    line = torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8).view(CAPTION, -1, 3).permute(2, 0, 1)
    return torch.cat([line, picture], dim=1)


def rasterize(figure: "Figure") -> Tensor:
    """A figure as a uint8 picture (3, height, width)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return (
        torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
        .view(*reversed(canvas.get_width_height()), 4)[:, :, :3]
        .permute(2, 0, 1)
    )


def write_png(picture: Tensor, path: Path) -> None:
    """A uint8 picture (3, height, width) as a file."""
    from PIL import Image

    with written_aside(path) as aside:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(aside)
