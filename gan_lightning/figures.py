"""Figures with matplotlib: Agg without pyplot, so that there is no display, no global state and nothing to close."""

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
MARGINS = {"left": 90, "right": 15, "bottom": 50, "top": 32}  # pixels: matplotlib's layouts take most of a drawing
KEPT = 8  # empty axes of a plot


def blank(width: float, height: float) -> tuple["Figure", Any]:
    """A figure of so many inches, and its axes."""
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
    """A figure as a uint8 picture (3, height, width)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _pixels(canvas)


class Plot:
    """Axes that are drawn once, and over them data that differ from picture to picture.

    What ``moves`` is given other data, then ``picture`` draws it over the axes, their labels and legend. These are
    drawn once for each pair of limits, which takes fifty times as long; a picture depends on its data and limits alone.
    """

    def __init__(self, width: float = 6.4, height: float = 4.0) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure, self.axes = blank(width, height)
        self.canvas = FigureCanvasAgg(self.figure)
        self._moving: list[Artist] = []
        self._empty: dict[tuple[Limits, Limits], Any] = {}

    def moves(self, artist: "Moving") -> "Moving":
        """Have an artist of the axes drawn with each picture."""
        artist.set_animated(True)
        self._moving.append(artist)
        return artist

    def label(self, x: str, y: str, columns: int) -> None:
        """Name the axes, and list in a legend above them what has a label."""
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        self.axes.legend(frameon=False, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    def picture(self, x: Limits, y: Limits) -> Tensor:
        """The data between these limits, uint8 (3, height, width)."""
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
    """Round limits around such data, which stay the same while the data change little."""
    unit = 10 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / unit) * unit, math.ceil(high / unit) * unit


def above(value: float) -> float:
    """A round limit above a positive number, by half its first digit's place."""
    unit = 10 ** math.floor(math.log10(value)) / 2
    return math.ceil(value / unit) * unit


def _pixels(canvas: Any) -> Tensor:
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return pixels.view(*reversed(canvas.get_width_height()), 4)[:, :, :3].permute(2, 0, 1)
