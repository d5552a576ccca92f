"""Matplotlib figures by Agg without pyplot: no display, no global state and nothing to close."""

import math
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    Moving = TypeVar("Moving", bound=Artist)

Limits = tuple[float, float]

DPI = 100
MARGINS = {"left": 90, "right": 15, "bottom": 50, "top": 32}  # pixels: layout engines are slow
KEPT = 8  # cached backgrounds per plot


def blank(width: float, height: float) -> tuple["Figure", Any]:
    """Create a figure of this size in inches; return it and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.subplots_adjust(
        left=MARGINS["left"] / (DPI * width),
        right=1 - MARGINS["right"] / (DPI * width),
        bottom=MARGINS["bottom"] / (DPI * height),
        top=1 - MARGINS["top"] / (DPI * height),
    )
    return figure, figure.subplots()


def rasterize(figure: "Figure") -> Tensor:
    """Render a figure as a uint8 picture (3, height, width)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _pixels(canvas)


class Plot:
    """A plot whose axes are drawn once and reused, while the data change from picture to picture.

    Update the data of artists registered by ``moves``, then call ``picture``, which draws them over the axes, labels
    and legend. These are drawn once per pair of limits, since this takes fifty times as long. A picture depends only on
    its data and limits.
    """

    def __init__(self, width: float = 6.4, height: float = 4.0) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure, self.axes = blank(width, height)
        self.canvas = FigureCanvasAgg(self.figure)
        self._moving: list[Artist] = []
        self._empty: dict[tuple[Limits, Limits], Any] = {}

    def moves(self, artist: "Moving") -> "Moving":
        """Register an artist to be redrawn in each picture."""
        artist.set_animated(True)
        self._moving.append(artist)
        return artist

    def label(self, x: str, y: str, columns: int) -> None:
        """Label the axes, and add a legend above them."""
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        self.axes.legend(frameon=False, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    def picture(self, x: Limits, y: Limits) -> Tensor:
        """Draw the data within these limits, uint8 (3, height, width)."""
        self.axes.set(xlim=x, ylim=y)
        if (x, y) not in self._empty:
            if len(self._empty) == KEPT:
                del self._empty[next(iter(self._empty))]
            self.canvas.draw()
            self._empty[x, y] = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self._empty[x, y])
        for artist in sorted(self._moving, key=lambda artist: artist.get_zorder()):
            self.axes.draw_artist(artist)
        return _pixels(self.canvas)


def outward(low: float, high: float) -> Limits:
    """Round limits outward, so that they stay the same when the data change little."""
    unit = 10 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / unit) * unit, math.ceil(high / unit) * unit


def above(value: float) -> float:
    """Round a positive number up to 1, 2 or 5 times a power of ten, so that few limits occur over a run."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(k * unit for k in (1, 2, 5, 10) if k * unit >= value)


def _pixels(canvas: Any) -> Tensor:
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return pixels.view(*reversed(canvas.get_width_height()), 4)[:, :, :3].permute(2, 0, 1)
