"""Show the vanishing gradient of a generator far from the data while the discriminator learns to tell them apart.

    python scripts/vanishing_gradient.py [out=docs/images/vanishing_gradient.png]

The generator is fixed and samples N(0, 0.2^2), the data are N(3, 0.2^2), and the package's GAN trains the discriminator
to its optimum. With the logit l, d/dl log(1 - D) = -D and d/dl -log D = -(1 - D): the same slopes, weighted by D under
the minimax loss and by 1 - D under the non-saturating one (Goodfellow et al. 2014, section 3).
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gan_lightning.files import written_aside
from gan_lightning.options import check_picture, read_options, refusals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from gan_lightning.gan import GAN
    from gan_lightning.losses import Loss

UPDATES, BATCH = 400, 256
DATA_MEAN, STD = 3.0, 0.2


@dataclass
class Options:
    out: Annotated[Path, "output picture: .png, .jpg, .webp, .pdf or .svg"] = Path("vanishing_gradient.png")

    def __post_init__(self) -> None:
        check_picture(self.out)


def make_gan(loss: "Loss") -> "GAN":
    """A GAN with the fixed generator N(0, STD^2) and a discriminator."""
    import torch

    from gan_lightning.game import Game
    from gan_lightning.gan import GAN
    from gan_lightning.networks.mlp import Discriminator
    from gan_lightning.priors import Normal

    torch.manual_seed(0)
    generator = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(generator.weight, STD)
    torch.nn.init.zeros_(generator.bias)
    return GAN(
        Game(generator, Discriminator((1,), [64, 64]), Normal(1), loss),
        generator_optimizer=partial(torch.optim.SGD, lr=0.0),
        discriminator_optimizer=partial(torch.optim.Adam, lr=1e-3),
    )


def train(loss: "Loss") -> tuple["GAN", "Tensor"]:
    """Train D; returns the GAN and (D(G(z)), gradient norm) at every update, (UPDATES, 2)."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import LambdaCallback

    from gan_lightning.data.synthetic import Synthetic
    from gan_lightning.distributions import gaussian

    gan, lines = make_gan(loss), []

    def record(*_: Any) -> None:
        lines.append([gan.log_line["discriminator/fake"], gan.log_line["gradient_norm/generator"]])

    data = Synthetic(gaussian(DATA_MEAN, STD), BATCH, UPDATES, validation_samples=BATCH, rounds_per_batch=1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=UPDATES,
        limit_val_batches=0,
        log_every_n_steps=1,
        callbacks=[LambdaCallback(on_train_batch_end=record)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, datamodule=data)
    return gan, torch.tensor(lines)


def draw_densities(axes: "Axes", gan: "GAN") -> None:
    """Draw both densities and the trained D."""
    import torch

    from gan_lightning.distributions import gaussian

    x = torch.linspace(-1.5, DATA_MEAN + 1.5, 400)
    for mean, color, label in ((DATA_MEAN, "black", "p_data"), (0.0, "tab:green", "p_g")):
        density = gaussian(mean, STD).log_prob(x[:, None]).exp()
        axes.fill_between(x, density / density.max(), color=color, alpha=0.3, linewidth=0, label=label)
    with torch.no_grad():
        axes.plot(x, gan.game.discriminator(x[:, None]).sigmoid(), color="tab:blue", label="D(x)")
    axes.set_title(f"D after {UPDATES} updates", loc="left", fontsize=10)
    axes.set(xlabel="x", ylabel="D(x); densities scaled to 1")
    axes.legend(frameon=False, loc="center left")


def draw_gradients(axes: "Axes", minimax: "Tensor", non_saturating: "Tensor") -> None:
    """Draw the generator's gradient under both losses, and the factors D and 1 - D times their common slope."""
    slope = minimax[:, 1] + non_saturating[:, 1]  # the factors add up to 1
    d = minimax[:, 0]
    updates = range(1, len(d) + 1)
    for lines, factor, color, label, name in (
        (non_saturating, 1 - d, "tab:blue", "non-saturating, -log D(G(z))", "1 - D"),
        (minimax, d, "tab:red", "minimax, log(1 - D(G(z)))", "D"),
    ):
        axes.semilogy(updates, lines[:, 1], color=color, label=label)
        axes.semilogy(updates, factor * slope, "--", color="black", linewidth=1.0, label=f"mean {name} times the slope")
    axes.set_title("norm of the generator's gradient", loc="left", fontsize=10)
    axes.set(xlabel="updates of D", xlim=(1, len(d)))
    axes.legend(frameon=False)


def draw(gan: "GAN", minimax: "Tensor", non_saturating: "Tensor") -> "Figure":
    """Draw densities and discriminator beside the gradients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_densities(left, gan)
    draw_gradients(right, minimax, non_saturating)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def run(out: Path) -> None:
    """Train under both losses, and write the figure."""
    from gan_lightning.losses import Minimax, NonSaturating
    from gan_lightning.training import quiet

    quiet()
    warnings.filterwarnings("ignore", module="lightning")  # advice on long runs
    gan, non_saturating = train(NonSaturating())
    _, minimax = train(Minimax())  # the same D, since G is fixed
    with written_aside(out) as aside:
        draw(gan, minimax, non_saturating).savefig(aside)
    d, norm = minimax[-1].tolist()
    print(f"D(G(z)) {d:.2g}; gradient norm {norm:.2g} under minimax, {non_saturating[-1, 1]:.2g} under non-saturating")
    print(out)


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals(options.out):
        run(options.out)


if __name__ == "__main__":
    main()
