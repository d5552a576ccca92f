"""Pictures of the averaged generator's samples, from the same latents all through the run."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from gan_lightning.callbacks.periodic import Periodic
from gan_lightning.data.bits import EvenIntegers
from gan_lightning.data.loader import RealData
from gan_lightning.distributions import GaussianMixture
from gan_lightning.gan import GAN
from gan_lightning.loggers import log_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTOGRAM_BINS = 100


class SamplePictures(Periodic):
    """``samples/STEP.png`` at step 0, every ``every_n_steps`` generator updates and at the end; also in the loggers.

    Images are a grid of ``images``; points are a histogram over the true density, or a scatter over the true modes, of
    ``points``.
    """

    def __init__(self, every_n_steps: int = 500, images: int = 64, points: int = 10_000) -> None:
        super().__init__(every_n_steps)
        self.images = images
        self.points = points
        self._latents = torch.empty(0)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        n = self.images if len(trainer.datamodule.sample_shape) == 3 else self.points  # type: ignore[attr-defined]
        # from the run's seed, also in a resumed run, whose random state is restored only after this
        self._latents = module.prior.sample(n, torch.Generator().manual_seed(torch.initial_seed()))
        super().on_train_start(trainer, module)
        if trainer.global_step == 0:
            self._draw_now(trainer, module)

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        data = trainer.datamodule  # type: ignore[attr-defined]
        samples = module.sample(len(self._latents), latents=self._latents).float().cpu()
        if not samples.isfinite().all():
            return  # the generator has diverged, which the next line of the log or checkpoint says
        picture = draw(samples, data)
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        write_png(picture, folder / f"{trainer.global_step:07d}.png")
        log_picture(trainer.loggers, "samples", picture, trainer.global_step)


def write_png(picture: Tensor, path: Path) -> None:
    """A uint8 picture (3, height, width) as a file."""
    from PIL import Image

    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def draw(samples: Tensor, data: RealData, columns: int | None = None) -> Tensor:
    """Samples as one uint8 picture (3, height, width): a grid, a histogram or a scatter, by their shape."""
    if samples.dim() == 4:
        return image_grid(samples, data.value_range, columns)
    if isinstance(data, EvenIntegers):
        return rasterize(integers(data.decode(samples), data.max_int))
    distribution = getattr(data, "distribution", None)
    if samples.shape[1] == 1:
        return rasterize(histogram(samples, distribution))
    return rasterize(scatter(samples, distribution))


def image_grid(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0), columns: int | None = None) -> Tensor:
    """Images (N, channels, height, width) as a grid, square unless told, uint8 (3, ., .), enlarged to be seen."""
    from torchvision.utils import make_grid

    columns = columns or math.ceil(len(images) ** 0.5)
    grid = make_grid(images, nrow=columns, padding=2, value_range=value_range, normalize=True)
    factor = max(1, 512 // max(grid.shape[1:]))
    grid = grid.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return (grid * 255).round().to(torch.uint8)


def histogram(samples: Tensor, distribution: GaussianMixture | None) -> "Figure":
    """A histogram of samples (N, 1) with the true density over it."""
    figure, axes = _figure(6.4, 4.0)
    low, high = samples.min().item(), samples.max().item()
    if distribution is not None:
        reach = 4 * distribution.scales.max()
        low = min(low, (distribution.modes.min() - reach).item())
        high = max(high, (distribution.modes.max() + reach).item())
        x = torch.linspace(low, high, 500)
        axes.plot(x, distribution.log_prob(x[:, None]).exp(), color="black", linewidth=1.5, label="true density")
    if low == high:
        low, high = low - 0.5, high + 0.5
    axes.hist(
        samples.flatten().numpy(), bins=HISTOGRAM_BINS, range=(low, high), density=True, alpha=0.6, label="samples"
    )
    axes.set_xlim(low, high)
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    axes.legend(frameon=False)
    return figure


def scatter(samples: Tensor, distribution: GaussianMixture | None) -> "Figure":
    """The first 2,500 samples of (N, 2) over circles that mark the true modes."""
    figure, axes = _figure(5.2, 5.0)
    axes.scatter(*samples[:2500].T.numpy(), s=4, alpha=0.35, linewidths=0, label="samples", zorder=3)
    if distribution is not None:
        axes.scatter(*distribution.modes.T.numpy(), s=110, facecolors="none", edgecolors="black", label="true modes")
        reach = 1.25 * distribution.modes.abs().max().item() + 3 * distribution.scales.max().item()
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.09), ncols=2)
    return figure


def integers(values: Tensor, max_int: int) -> "Figure":
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
