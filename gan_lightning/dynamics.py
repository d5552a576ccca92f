"""Two minimal adversarial games with closed-form training dynamics: the Dirac-GAN and the bilinear game xy.

In the Dirac-GAN (Mescheder et al. 2018, section 2), the data are a point mass at 0, the generator's samples a point
mass at theta, and the logit is psi x. In the paper generated samples have the high logit, in this package real samples
do, so the paper's psi is minus the discriminator's weight. With the Wasserstein loss, this is the game xy itself,
L_D = xy and L_G = -xy with x = psi and y = theta: the discriminator is player x.

``trajectory`` trains the package's GAN on this game; the closed forms below predict its path.
"""

import cmath
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning
import torch
from lightning import Callback
from torch import Tensor, nn

from gan_lightning.batch import Batch, Rounds, concatenate
from gan_lightning.data.loader import RealData
from gan_lightning.game import Game
from gan_lightning.gan import GAN
from gan_lightning.losses import Loss
from gan_lightning.priors import Normal
from gan_lightning.regularizers import Regularizer


class DiracGenerator(nn.Module):
    """G(z) = theta for every z, (N, 1)."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.double))

    def forward(self, z: Tensor) -> Tensor:
        # not theta.expand: a view would change with theta's step, but samples drawn before it must not
        return self.theta * torch.ones_like(z[:, :1])


class DiracDiscriminator(nn.Module):
    """l(x) = psi x, (N, 1) to logits (N,)."""

    def __init__(self, psi: float) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(psi, dtype=torch.double))

    def forward(self, x: Tensor) -> Tensor:
        return self.psi * x.squeeze(1)


class PointMass(RealData):
    """Rounds of real samples that are all 0."""

    sample_shape = (1,)

    def __init__(self, rounds: int) -> None:
        super().__init__(batch_size=1)
        self.rounds = rounds

    @property
    def rounds_per_epoch(self) -> int:
        return self.rounds

    def fetcher(self) -> Callable[[int, int], Rounds]:
        shape = self.round_shape
        real = Batch(torch.zeros(shape.samples, 1, dtype=torch.double))
        return lambda start, stop: concatenate([shape.rounds(real)] * (stop - start))


class _Record(Callback):
    """Records (theta, psi) at the start and after every round."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.states.append(nn.utils.parameters_to_vector(module.parameters()).detach().clone())

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.on_train_start(trainer, module)


def trajectory(
    loss: Loss,
    steps: int = 500,
    h: float = 0.2,
    start: tuple[float, float] = (1.0, 1.0),
    regularizers: Mapping[str, Regularizer] | None = None,
    **gan_options: Any,
) -> Tensor:
    """(theta, psi) at ``start`` and after each round of the GAN, trained by SGD with step size h, (steps + 1, 2)."""
    theta, psi = start
    sgd = partial(torch.optim.SGD, lr=h)
    game = Game(DiracGenerator(theta), DiracDiscriminator(psi), Normal(1), loss, regularizers)
    gan = GAN(game, sgd, sgd, **gan_options).double()
    record = _Record()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        log_every_n_steps=steps,
        callbacks=[record],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, datamodule=PointMass(steps))
    return torch.stack(record.states)


# ------------------------------------------------------------------------- Dirac-GAN, f(t) = -log(1 + exp(-t))

SLOPE, CURVATURE = 0.5, -0.25  # f'(0) and f''(0)
CRITICAL_GAMMA = 2 * SLOPE  # the R1 weight above which the eigenvalues are real, without oscillation


def slope(t: Tensor) -> Tensor:
    """f'(t) = 1 / (1 + exp(t))."""
    return torch.sigmoid(-t)


def dirac_field(theta: Tensor, psi: Tensor, non_saturating: bool = False) -> Tensor:
    """v = (-psi f'(psi theta), theta f'(psi theta)), or -psi f'(-psi theta) first (Mescheder et al. 2018)."""
    t = psi * theta
    return torch.stack((-psi * slope(-t if non_saturating else t), theta * slope(t)))


def dirac_growth(theta: Tensor, psi: Tensor, h: float) -> Tensor:
    """1 + h^2 f'(psi theta)^2, the factor of theta^2 + psi^2 in a step x + h v(x), since v is orthogonal to x."""
    return 1 + h**2 * slope(psi * theta).square()


def r1_eigenvalues(gamma: float) -> tuple[complex, complex]:
    """-gamma/2 +- sqrt(gamma^2/4 - f'(0)^2) of v's Jacobian at 0 with R1 or R2 (Mescheder et al. 2018, section 3)."""
    return _conjugates(-gamma / 2, SLOPE)


def instance_noise_eigenvalues(sigma: float) -> tuple[complex, complex]:
    """f''(0) s^2 +- sqrt(f''(0)^2 s^4 - f'(0)^2), with noise of variance s^2 (Mescheder et al. 2018, section 3)."""
    return _conjugates(CURVATURE * sigma**2, SLOPE)


def _conjugates(half_trace: float, frequency: float) -> tuple[complex, complex]:
    root = cmath.sqrt(half_trace**2 - frequency**2)
    return half_trace + root, half_trace - root


def step_factor(eigenvalue: complex, h: float) -> float:
    """|1 + h lambda|, the factor of the distance along an eigenvector in a simultaneous step of size h."""
    return abs(1 + h * eigenvalue)


# ------------------------------------------------------- the game min_x max_y xy, steps of size eta, z = x + iy


def simultaneous_factor(eta: float) -> float:
    """sqrt(1 + eta^2) = |1 + i eta|: z <- z + i eta z."""
    return math.sqrt(1 + eta**2)


def alternating_invariant(x: Tensor, y: Tensor, eta: float) -> Tensor:
    """x^2 + y^2 - eta xy, conserved by x <- x - eta y, then y <- y + eta x: an ellipse if eta < 2."""
    return x.square() + y.square() - eta * x * y


def proximal_factor(eta: float) -> float:
    """1 / sqrt(1 + eta^2) = |1 / (1 - i eta)|: z' = z + i eta z', with the gradient at the end of the step."""
    return 1 / math.sqrt(1 + eta**2)


def extragradient_factor(eta: float) -> float:
    """sqrt(1 - eta^2 + eta^4) = |1 + i eta (1 + i eta)|: below 1 if eta < 1 (Korpelevich 1976)."""
    return math.sqrt(1 - eta**2 + eta**4)


def optimistic_roots(eta: float) -> tuple[complex, complex]:
    """Roots of l^2 - (1 - 2i eta) l - i eta: inside the unit circle if eta < 1/sqrt(3) (Daskalakis et al. 2018)."""
    half = (1 - 2j * eta) / 2
    root = cmath.sqrt(half**2 + 1j * eta)
    return half + root, half - root


def extragradient(eta: float, steps: int, start: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """z <- z + eta v(z + eta v(z)) with v = (-y, x), (steps + 1, 2)."""
    (x, y), path = start, [start]
    for _ in range(steps):
        ahead_x, ahead_y = x - eta * y, y + eta * x
        x, y = x - eta * ahead_y, y + eta * ahead_x
        path.append((x, y))
    return torch.tensor(path, dtype=torch.double)


def optimistic(eta: float, steps: int, start: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """z_{t+1} = z_t + 2 eta v(z_t) - eta v(z_{t-1}) with v = (-y, x) and z_{-1} = z_0, (steps + 1, 2)."""
    (x, y), (old_x, old_y), path = start, start, [start]
    for _ in range(steps):
        x, y, old_x, old_y = x - eta * (2 * y - old_y), y + eta * (2 * x - old_x), x, y
        path.append((x, y))
    return torch.tensor(path, dtype=torch.double)
