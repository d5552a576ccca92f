"""Figure 1 of Goodfellow et al. 2014 from the live run: p_data, p_g, D and the optimal D* on one axis."""

import math
from functools import lru_cache
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from gan_lightning.batch import Batch
from gan_lightning.callbacks.periodic import Periodic, show
from gan_lightning.checks import check_values, whole
from gan_lightning.distributions import density, extent, has_density
from gan_lightning.figures import Plot, outward
from gan_lightning.game import evaluating
from gan_lightning.gan import GAN

CELLS = 8  # of the kernel density estimate, per interval between two points


class OptimalDiscriminator(Periodic):
    """Draws ``discriminator/STEP.png`` and logs ``theory/discriminator_gap`` every ``every_n_steps``, for 1-D data.

    D*(x) = p_data(x) / (p_data(x) + p_g(x)) (equation 2), times 1 - label_smoothing; p_g is a kernel density estimate
    from ``samples`` samples of the live generator; the gap is E_{p_data} |D - D*|. Draws nothing without data of known
    density, a loss whose D is a probability, and a D of single samples without classes, since D* differs between
    classes.
    """

    def __init__(self, every_n_steps: int = 500, samples: int = 10_000) -> None:
        super().__init__(every_n_steps)
        self.samples = samples
        check_values(self, samples=whole(2))

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        distribution = getattr(data, "distribution", None)
        game = module.game
        judges_samples = not game.is_conditional and not game.judges_pairs and game.packing == 1
        if distribution is None or data.sample_shape != (1,) or not has_density(distribution):
            return
        if not (game.loss.is_probability and judges_samples):
            return
        noise = torch.Generator(module.device).manual_seed(trainer.global_step)
        generated = module.sample(self.samples, noise, raw=True).float().cpu().flatten()
        if not generated.isfinite().all():
            return  # the generator has diverged; the next line of the log or checkpoint reports it
        x = support(distribution, generated)
        p_data = density(distribution, x)
        p_g = kernel_density(generated, x)
        with torch.no_grad(), evaluating(game):
            d = torch.sigmoid(game.judge(Batch(x[:, None].to(module.device).to(module.dtype))).float()).cpu()
        optimal = game.loss.real_target * p_data / (p_data + p_g).clamp(min=1e-12)
        gap = torch.trapezoid(p_data * (d - optimal).abs(), x).item()
        picture = figure(x, p_data, p_g, d, optimal)
        for logger in trainer.loggers:
            logger.log_metrics({"theory/discriminator_gap": gap}, step=trainer.global_step)
        show(trainer, "discriminator", picture, f"discriminator/{trainer.global_step:07d}.png")


def support(distribution: Distribution, samples: Tensor) -> Tensor:
    """500 points over the support of both densities."""
    low, high = extent(distribution)
    return torch.linspace(min(samples.min().item(), low), max(samples.max().item(), high), 500)


def kernel_density(samples: Tensor, x: Tensor) -> Tensor:
    """Gaussian kernel estimate at x from samples (N,), bandwidth 0.9 min(std, IQR/1.34) N^(-1/5) (Silverman 1986).

    The bandwidth is at least half an interval of x, so that a collapsed generator shows. x must be evenly spaced and
    cover the samples. These are counted on a grid with eight cells per interval of x, each at its two neighbors (linear
    binning, Wand 1994): thirty times faster than N kernels at every point.
    """
    quartiles = torch.quantile(samples, torch.tensor([0.25, 0.75]))
    spread = min(samples.std().item(), ((quartiles[1] - quartiles[0]) / 1.34).item())
    cells = CELLS * (len(x) - 1)
    step = (x[-1] - x[0]).item() / cells
    position = (samples.double() - x[0]) / step
    cell = position.long().clamp(0, cells - 1)
    share = position - cell
    counts = torch.bincount(cell, 1 - share, cells + 1) + torch.bincount(cell + 1, share, cells + 1)
    width = max(CELLS / 2, 0.9 * spread * len(samples) ** -0.2 / step)  # in cells
    reach = min(math.ceil(8 * width), cells)
    kernel = torch.arange(-reach, reach + 1, dtype=torch.double).div(width).square().mul(-0.5).exp()
    kernel /= kernel.sum() * step * len(samples)
    return F.conv1d(counts[None, None], kernel[None, None], stride=CELLS, padding=reach).flatten().to(x)


def figure(x: Tensor, p_data: Tensor, p_g: Tensor, d: Tensor, optimal: Tensor) -> Tensor:
    """Draw densities as areas, D and D* as lines, uint8 (3, height, width); probability and density share the axis."""
    plot, areas, lines = _figure()
    for area, density_ in zip(areas, (p_data, p_g), strict=True):
        area.set_verts([torch.stack([torch.cat([x[:1], x, x[-1:]]), F.pad(density_, (1, 1))], 1).numpy()])
    for line, values in zip(lines, (d, optimal), strict=True):
        line.set_data(x.numpy(), values.numpy())
    return plot.picture(outward(float(x[0]), float(x[-1])), (0.0, max(1.05, 1.05 * float(p_data.max()))))


@lru_cache(maxsize=1)
def _figure() -> tuple[Plot, list[Any], list[Any]]:
    plot = Plot()
    axes, nothing = plot.axes, ([0.0, 1.0], [0.0, 0.0])
    areas = [
        axes.fill_between(*nothing, alpha=0.25, color="black", linewidth=0, label="p_data"),
        axes.fill_between(*nothing, alpha=0.4, color="tab:green", linewidth=0, label="p_g"),
    ]
    lines = [
        *axes.plot(*nothing, color="tab:blue", linewidth=1.6, label="D(x)"),
        *axes.plot(*nothing, color="tab:orange", linewidth=1.2, linestyle="--", label="D*(x)"),
    ]
    axes.axhline(0.5, color="gray", linewidth=0.6)
    plot.label("x", "", columns=4)
    return plot, [plot.moves(area) for area in areas], [plot.moves(line) for line in lines]
