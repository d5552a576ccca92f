"""Draw the training dynamics of the two smallest adversarial games, the game xy and the Dirac-GAN, in one figure.

    python scripts/dynamics.py [out=docs/images/dynamics.png]

Extragradient and optimistic descent are simulated; all other trajectories come from training with the package's GAN.
The factors are closed forms.
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gan_lightning.files import written_aside
from gan_lightning.options import check_picture, read_options, refusals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D
    from torch import Tensor

    from gan_lightning.losses import Minimax, Wasserstein
    from gan_lightning.regularizers import R1, R2, GradientPenalty

STEPS, ETA, H, GAMMA = 500, 0.1, 0.2, 0.3
OSCILLATION_STEPS = 250
REACH = 2.45  # of every phase plane; trajectories that leave it have diverged
COLORS = {"converges": "#1f77b4", "circles": "#d98200", "diverges": "#c0392b"}


@dataclass
class Options:
    out: Annotated[Path, "output picture: .png, .jpg, .webp, .pdf or .svg"] = Path("dynamics.png")

    def __post_init__(self) -> None:
        check_picture(self.out)


@dataclass(frozen=True)
class Panel:
    """A trajectory (steps + 1, 2) and a known fact about it."""

    title: str
    fact: str
    path: "Tensor"

    @property
    def outcome(self) -> str:
        radii = self.path.norm(dim=1)
        if radii[-1] > 2 * radii[0]:
            return "diverges"
        return "converges" if radii[-50:].max() < 0.15 * radii[0] else "circles"


def xy_panels() -> list[Panel]:
    """The game xy with x = psi, y = theta: descent by the GAN, then two methods with lookahead."""
    from gan_lightning import dynamics
    from gan_lightning.dynamics import trajectory
    from gan_lightning.losses import Wasserstein

    simultaneous, alternating = (
        trajectory(Wasserstein(), STEPS, ETA, order=order).flip(1) for order in ("simultaneous", "discriminator_first")
    )
    optimistic = max(map(abs, dynamics.optimistic_roots(ETA)))
    return [
        Panel("simultaneous", by(dynamics.simultaneous_factor(ETA)), simultaneous),
        Panel("alternating", "conserves $x^2 + y^2 - \\eta xy$", alternating),
        Panel("extragradient", by(dynamics.extragradient_factor(ETA)), dynamics.extragradient(ETA, STEPS)),
        Panel("optimistic", by(optimistic), dynamics.optimistic(ETA, STEPS)),
    ]


def bare_panels() -> list[Panel]:
    """The Dirac-GAN without a penalty."""
    from gan_lightning import dynamics
    from gan_lightning.dynamics import trajectory
    from gan_lightning.losses import Minimax, NonSaturating, Wasserstein

    near_zero = dynamics.step_factor(dynamics.r1_eigenvalues(0.0)[0], H)
    return [
        Panel(
            "minimax, simultaneous", by(near_zero) + " near 0", trajectory(Minimax(), STEPS, H, order="simultaneous")
        ),
        Panel("minimax, alternating", "$\\times\\,1$ a step near 0", trajectory(Minimax(), STEPS, H)),
        Panel(
            "non-saturating, alternating",
            "closes in ever slower: $\\times\\,1$ near 0",
            trajectory(NonSaturating(), STEPS, H),
        ),
        Panel("WGAN, alternating", "the game $xy$ again", trajectory(Wasserstein(), STEPS, H)),
    ]


def penalty_panels() -> list[Panel]:
    """The Dirac-GAN with a penalty under simultaneous descent, whose factors are known."""
    from gan_lightning import dynamics
    from gan_lightning.losses import Minimax, Wasserstein
    from gan_lightning.regularizers import R1, R2, GradientPenalty

    def trained(loss: "Minimax | Wasserstein", penalty: "R1 | R2 | GradientPenalty") -> "Tensor":
        return dynamics.trajectory(loss, STEPS, H, order="simultaneous", regularizers={"penalty": penalty})

    factor, critical = (
        by(dynamics.step_factor(dynamics.r1_eigenvalues(gamma)[0], H)) + " near 0"
        for gamma in (GAMMA, dynamics.CRITICAL_GAMMA)
    )
    return [
        Panel("WGAN-GP, weight 0.25", "the penalty wants $|\\psi| = 1$", trained(Wasserstein(), GradientPenalty(0.25))),
        Panel(f"R1, $\\gamma = {GAMMA}$", factor, trained(Minimax(), R1(GAMMA))),
        Panel(f"R2, $\\gamma = {GAMMA}$", factor, trained(Minimax(), R2(GAMMA))),
        Panel("R1, critical $\\gamma = 1$", critical, trained(Minimax(), R1(dynamics.CRITICAL_GAMMA))),
    ]


def by(factor: float) -> str:
    return f"$\\times\\,{factor:.4f}$ a step"


def draw_oscillation(axes: "Axes", path: "Tensor") -> None:
    """Draw x, y and xy over the steps of simultaneous descent."""
    x, y = path[: OSCILLATION_STEPS + 1].T
    axes.plot(x * y, color="0.75", linewidth=1.2, label="$xy$")
    axes.plot(x, color=COLORS["diverges"], label="$x$")
    axes.plot(y, color="0.15", label="$y$")
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlim=(0, OSCILLATION_STEPS), xlabel="step")
    axes.set_title("$x \\leftarrow x - \\eta y$ and $y \\leftarrow y + \\eta x$", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper left")


def draw_panel(axes: "Axes", panel: Panel) -> None:
    """Draw the phase plane of one trajectory."""
    color = COLORS[panel.outcome]
    axes.plot(*panel.path.T, color=color, linewidth=1.1)
    axes.plot(*panel.path[0], "o", color="white", markeredgecolor="black", markersize=6)
    axes.plot(0, 0, "+", color="black", markersize=10, markeredgewidth=1.4)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    axes.set_title(f"{panel.title}: {panel.outcome}\n{panel.fact}", fontsize=10, color=color, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.label_outer()


def draw() -> "Figure":
    """Draw the oscillation of simultaneous descent above one phase plane per training method."""
    from matplotlib.figure import Figure

    from gan_lightning.training import quiet

    quiet()
    warnings.filterwarnings("ignore", module="lightning")  # advice on long runs
    rows = {
        f"The game xy: x descends, y ascends, η = {ETA}, {STEPS} steps": xy_panels(),
        f"Dirac-GAN without a penalty, h = {H}, {STEPS} steps": bare_panels(),
        f"Dirac-GAN with a penalty, simultaneous descent, h = {H}, {STEPS} steps": penalty_panels(),
    }
    figure = Figure(figsize=(11, 14), dpi=100)
    figure.set_layout_engine("constrained", h_pad=0.09, w_pad=0.06)
    grid = figure.add_gridspec(4, 1, height_ratios=(0.72, 1, 1, 1))
    strip, *bands = (figure.add_subfigure(grid[row]) for row in range(4))
    _heading(strip, f"The game xy, simultaneous descent: every turn is wider than the one before, η = {ETA}")
    first = next(iter(rows.values()))[0]
    draw_oscillation(strip.subplots(), first.path)
    for band, (name, panels) in zip(bands, rows.items(), strict=True):
        _heading(band, name)
        labels = ("$x$", "$y$") if panels[0] is first else ("$\\theta$", "$\\psi$")
        for axes, panel in zip(band.subplots(1, 4, sharex=True, sharey=True), panels, strict=True):
            draw_panel(axes, panel)
            axes.set_xlabel(labels[0])
        band.axes[0].set_ylabel(labels[1], rotation=0)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _heading(part: "SubFigure", text: str) -> None:
    part.suptitle(text, x=0.01, horizontalalignment="left", fontweight="bold")


def _legend() -> "list[Line2D]":
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color, label=outcome) for outcome, color in COLORS.items()]
    start = Line2D([], [], linestyle="", marker="o", color="white", markeredgecolor="black", label="start (1, 1)")
    return [*lines, start, Line2D([], [], linestyle="", marker="+", color="black", markersize=9, label="equilibrium")]


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals(options.out), written_aside(options.out) as aside:
        draw().savefig(aside)
    print(options.out)


if __name__ == "__main__":
    main()
