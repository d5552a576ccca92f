"""Samples as pictures, uint8 (3, height, width): grids of images, histograms, scatters."""

import math
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from gan_lightning.distributions import GaussianMixture, density, extent, has_density
from gan_lightning.figures import Plot, above, blank, outward, rasterize
from gan_lightning.files import written_aside
from gan_lightning.pixels import in_color
from gan_lightning.streams import own_stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, SEQUENCES, POINTS = 64, 16, 10_000  # samples per picture
HISTOGRAM_BINS = 100
SCATTERED = 2500
MARGINALS = 6  # coordinates whose pairs are shown
PAIRS = 1000  # points per cell
CAPTION = 28  # height of a line of text, in pixels
GRID_SIZE = 512  # size that grids of small images are enlarged to, in pixels


def shown(sample_shape: tuple[int, ...]) -> int:
    """The number of samples of this shape in a picture."""
    return IMAGES if len(sample_shape) == 3 else SEQUENCES if len(sample_shape) == 2 else POINTS


def draw(
    samples: Tensor,
    value_range: tuple[float, float] | None = None,
    columns: int | None = None,
    distribution: Distribution | None = None,
    labels: Tensor | None = None,
    reference: Tensor | None = None,
    names: Sequence[str] = (),
) -> Tensor:
    """Draw samples (N, *sample_shape) as one picture: three dimensions are an image, two a sequence, others points.

    Points are drawn with the true ``distribution`` if it is known, or with real samples, ``reference``; above two
    dimensions as pairwise marginals, with optional ``names`` of the coordinates. With ``labels`` (N,), each row of
    images shows one class if classes are equally frequent and ``columns`` is None; points in 2-d are colored by class.
    """
    if samples.dim() == 4:
        if labels is not None and columns is None and (columns := per_class(labels)):
            samples = samples[labels.argsort(stable=True)]
        return image_grid(samples, value_range or (-1.0, 1.0), columns)
    if samples.dim() == 3:
        return rasterize(sequences(samples))
    points = samples.reshape(len(samples), -1)
    reference = None if reference is None else reference.reshape(len(reference), -1)
    if points.shape[1] == 1:
        if distribution is not None and not has_density(distribution):
            reference, distribution = true_samples(distribution), None
        return histogram(points, distribution, reference)
    if points.shape[1] == 2 or isinstance(distribution, GaussianMixture):
        return rasterize(scatter(points, distribution, labels, reference))
    true = reference if distribution is None else true_samples(distribution)
    return rasterize(marginals(points, true, names))


def per_class(labels: Tensor) -> int | None:
    """The number of labels (N,) per class present, if it is equal for all classes and above 1; else None."""
    counts = labels.unique(return_counts=True)[1].unique()
    return int(counts) if len(counts) == 1 and counts > 1 else None


def image_grid(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0), columns: int | None = None) -> Tensor:
    """A grid of images (N, channels, height, width) on white, square by default; small images are enlarged."""
    from torchvision.utils import make_grid

    columns = columns or math.ceil(len(images) ** 0.5)
    grid = make_grid(in_color(images), nrow=columns, padding=2, value_range=value_range, normalize=True, pad_value=1.0)
    factor = max(1, GRID_SIZE // max(grid.shape[1:]))
    grid = grid.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return (grid * 255).round().to(torch.uint8)


def histogram(samples: Tensor, distribution: Distribution | None = None, reference: Tensor | None = None) -> Tensor:
    """A histogram of samples (N, 1) with the true density, or the outline of the reference's histogram, over it."""
    has_truth = distribution is not None
    plot, bars, truth, outline = _histogram(has_truth, reference is not None and not has_truth)
    low, high = samples.min().item(), samples.max().item()
    top = 0.0
    if distribution is not None:
        true_low, true_high = extent(distribution)
        low, high = min(low, true_low), max(high, true_high)
        x = torch.linspace(low, high, 500)
        p = density(distribution, x)
        truth.set_data(x.numpy(), p.numpy())
        top = p.nan_to_num(posinf=0.0).max().item()  # a density may have a pole
    elif reference is not None:
        low, high = min(low, reference.min().item()), max(high, reference.max().item())
    limits = outward(*divisible(low, high))
    if distribution is None and reference is not None:
        top = _set_shares(outline, reference, HISTOGRAM_BINS // 2, limits)
    top = max(top, _set_shares(bars, samples, HISTOGRAM_BINS, limits))
    return plot.picture(limits, (0.0, above(top)))


def _set_shares(stairs: Any, values: Tensor, bins: int, limits: tuple[float, float]) -> float:
    """Set ``stairs`` to a histogram of the values, and return its highest density."""
    shares, edges = np.histogram(values.flatten().double().numpy(), bins, limits, density=True)
    stairs.set_data(shares, edges)
    return float(shares.max())


@lru_cache
def _histogram(has_truth: bool, has_reference: bool) -> tuple[Plot, Any, Any, Any]:
    plot, nothing = Plot(), ([0.0], [0.0, 1.0])
    (line,) = plot.axes.plot([], [], color="black", linewidth=1.5, label="true density" if has_truth else "")
    outline = plot.axes.stairs(*nothing, color="black", label="real samples" if has_reference else "")
    bars = plot.axes.stairs(*nothing, fill=True, alpha=0.6, label="samples")
    for artist in (line, outline, bars):
        plot.moves(artist)
    plot.label("x", "density", columns=2)
    return plot, bars, line, outline


def true_samples(distribution: Distribution) -> Tensor:
    """2,500 samples (2500, d), always the same."""
    with own_stream(0):
        return distribution.sample(torch.Size([SCATTERED])).reshape(SCATTERED, -1)


def scatter(
    samples: Tensor,
    distribution: Distribution | None = None,
    labels: Tensor | None = None,
    reference: Tensor | None = None,
) -> "Figure":
    """A scatter plot of the first 2,500 samples (N, d) in their first two coordinates, colored by labels (N,).

    Circles mark a mixture's modes; for other distributions or a reference, 2,500 true samples are drawn underneath.
    """
    figure, axes = blank(5.2, 5.4)
    if isinstance(distribution, GaussianMixture):
        axes.scatter(*distribution.modes[:, :2].T, s=110, facecolors="none", edgecolors="black", label="true modes")
        reach = 1.25 * distribution.modes[:, :2].abs().max().item() + 3 * distribution.scales.max().item()
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
    elif distribution is not None or reference is not None:
        true = reference if distribution is None else true_samples(distribution)
        assert true is not None
        label = "real samples" if distribution is None else "true samples"
        axes.scatter(*true[:SCATTERED, :2].T, s=4, alpha=0.35, linewidths=0, color="black", label=label)
    style: dict[str, Any] = {"color": "tab:blue"}
    if labels is not None:  # the color map is cyclic, so the last class must end before its end
        style = {"c": labels[:SCATTERED], "cmap": "hsv", "vmin": 0, "vmax": int(labels.max()) + 1}
    axes.scatter(*samples[:SCATTERED, :2].T, s=4, alpha=0.35, linewidths=0, label="samples", zorder=3, **style)
    axes.set_aspect("equal")
    dimensions = samples.shape[1]
    axes.set_xlabel("$x_1$" if dimensions == 2 else f"$x_1$ of {dimensions} coordinates")
    axes.set_ylabel("$x_2$")
    legend = axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for handle in legend.legend_handles:  # the points are too small and pale for a legend
        handle.set_sizes([40])
        handle.set_alpha(1)
    return figure


def sequences(samples: Tensor) -> "Figure":
    """Plots of the first 16 sequences (N, steps, channels), one line per channel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), dpi=100)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.06, top=0.98, wspace=0.08, hspace=0.12)
    cells: Any = figure.subplots(4, 4, sharex=True, sharey=True)
    for axes, sample in zip(cells.flat, samples, strict=False):
        axes.plot(sample.numpy(), linewidth=1)
        axes.tick_params(labelsize=6)
    return figure


def marginals(samples: Tensor, reference: Tensor | None = None, names: Sequence[str] = ()) -> "Figure":
    """Pairwise marginals of samples (N, d), d > 2: histograms on the diagonal, and 1,000 points below it.

    Real samples, ``reference``, are black. At most the first 6 coordinates are shown.
    """
    from matplotlib.figure import Figure

    k = min(samples.shape[1], MARGINALS)
    figure = Figure(figsize=(1.6 * k, 1.6 * k), dpi=100)
    figure.subplots_adjust(left=0.4 / k, right=1 - 0.1 / k, bottom=0.35 / k, top=1 - 0.05 / k, wspace=0.3, hspace=0.3)
    both = samples if reference is None else torch.cat([samples, reference])
    lows, highs = both.amin(0).tolist(), both.amax(0).tolist()
    named = [*(name.replace("$", r"\$") for name in names), *(f"$x_{{{i + 1}}}$" for i in range(len(names), k))]
    for row in range(k):
        for column in range(row + 1):
            axes = figure.add_subplot(k, k, row * k + column + 1)
            _marginal(axes, samples, reference, row, column, (lows[column], highs[column]))
            axes.tick_params(labelsize=6, labelleft=column == 0)
            if row == k - 1:
                axes.set_xlabel(named[column], fontsize=8)
            if column == 0 and row:
                axes.set_ylabel(named[row], fontsize=8)
    figure.text(0.98, 0.98, "blue: samples" + ("" if reference is None else "\nblack: real"), ha="right", va="top")
    return figure


def _marginal(
    axes: Any, samples: Tensor, reference: Tensor | None, row: int, column: int, limits: tuple[float, float]
) -> None:
    """Draw one cell of the pairwise marginals: a histogram on the diagonal, points elsewhere."""
    if row == column:
        low, high = divisible(*limits)
        if reference is not None:
            _outline(axes, reference[:, column], (low, high))
        axes.hist(samples[:, column].numpy(), bins=HISTOGRAM_BINS // 2, range=(low, high), density=True, alpha=0.6)
        axes.set_yticks([])
        return
    for points, color in ((reference, "black"), (samples, "tab:blue")):
        if points is not None:
            shown = points[:PAIRS]
            axes.scatter(shown[:, column], shown[:, row], s=2, alpha=0.35, linewidths=0, color=color)


def divisible(low: float, high: float) -> tuple[float, float]:
    """Limits around these that are far enough apart for the edges of a histogram to be different numbers."""
    least = max(1e-9 * max(abs(low), abs(high)), 1e-300)
    return (low, high) if high - low > least else (low - max(0.5, least), high + max(0.5, least))


def _outline(axes: Any, values: Tensor, limits: tuple[float, float]) -> None:
    """Draw the outline of a histogram of real values."""
    style: dict[str, Any] = {"histtype": "step", "color": "black", "label": "real samples"}
    axes.hist(values.numpy(), bins=HISTOGRAM_BINS // 2, range=limits, density=True, **style)


def integer_shares(values: Tensor, max_int: int) -> Tensor:
    """A bar chart of how often each integer was generated, with the true uniform share of the even integers."""
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
    """Add a line of text on white above a uint8 picture (3, height, width)."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (picture.shape[2], CAPTION), "white")
    middle = picture.shape[2] / 2, CAPTION / 2
    ImageDraw.Draw(strip).text(middle, text, fill="black", anchor="mm", font=ImageFont.load_default(CAPTION * 0.6))
    line = torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8).view(CAPTION, -1, 3).permute(2, 0, 1)
    return torch.cat([line, picture], dim=1)


def png(picture: Tensor) -> bytes:
    """Encode a uint8 picture (3, height, width) as PNG."""
    from PIL import Image

    stream = BytesIO()
    # the fastest compression takes a third of the time for 10% more bytes
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "png", compress_level=1)
    return stream.getvalue()


def write_png(picture: Tensor, path: Path) -> bytes:
    """Write a uint8 picture (3, height, width) to a PNG file, and return its content."""
    encoded = png(picture)
    with written_aside(path) as aside:
        aside.write_bytes(encoded)
    return encoded


def summary(name: str, picture: Tensor, encoded: bytes) -> Any:
    """A TensorBoard summary of a picture and its PNG, which is encoded faster than by TensorBoard itself."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, height, width = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    return Summary(value=[Summary.Value(tag=name, image=image)])
