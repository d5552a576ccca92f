"""What Goodfellow et al. 2014 prove, found by the training: the optimal D, the value of the game, saturation."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import fit
from lightning import Callback, LightningModule, Trainer
from scipy import integrate, stats
from torch import Tensor, nn
from torch.testing import assert_close

from gan_lightning import losses, optim, priors
from gan_lightning.data.synthetic import Synthetic
from gan_lightning.distributions import GaussianMixture, gaussian, mixture
from gan_lightning.game import Game
from gan_lightning.gan import GAN
from gan_lightning.networks.mlp import Discriminator
from gan_lightning.streams import Streams, fixed_rows
from gan_lightning.validation import latents_seed

LOG_4 = math.log(4)
ROUNDS, CRITIC_STEPS, BATCH = 150, 12, 512
STILL = functools.partial(torch.optim.SGD, lr=0.0)
Density = Callable[[np.ndarray], np.ndarray]


def data_of(distribution: GaussianMixture, rounds: int = ROUNDS, batch_size: int = BATCH) -> Synthetic:
    return Synthetic(distribution, batch_size, rounds_per_epoch=rounds, validation_samples=25_000)


def frozen_gan(mean: float, std: float, loss: losses.Loss | None = None) -> GAN:
    """G makes N(mean, std^2) and stays; D is a network of two hidden layers, trained by Adam to rest."""
    generator = nn.Linear(1, 1)
    nn.init.constant_(generator.weight, std)
    nn.init.constant_(generator.bias, mean)
    return GAN(
        Game(generator, Discriminator((1,), [48, 48]), priors.Normal(1), loss),
        STILL,
        functools.partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.99)),
        schedule=optim.cosine,
        critic_steps=CRITIC_STEPS,
    )


def output(gan: GAN, x: np.ndarray) -> np.ndarray:
    """D(x), a probability."""
    with torch.no_grad():
        logits = gan.game.discriminator(torch.from_numpy(x).float()[:, None])
    return torch.sigmoid(logits.double()).numpy()


def mixture_density(means: list[float], stds: list[float]) -> Density:
    return lambda x: sum(stats.norm(m, s).pdf(x) for m, s in zip(means, stds, strict=True)) / len(means)


def game_value(d: np.ndarray, p_data: np.ndarray, p_g: np.ndarray, x: np.ndarray) -> float:
    """V(D, G) = integral of p_data log D + p_g log(1 - D)."""
    return integrate.trapezoid(p_data * np.log(d) + p_g * np.log1p(-d), x)


def divergence(p: np.ndarray, q: np.ndarray, x: np.ndarray) -> float:
    """JSD in nats of two densities."""
    m = (p + q) / 2
    return 0.5 * integrate.trapezoid(p * np.log(p / m) + q * np.log(q / m), x)


class _Logged(Callback):
    """Keeps the value that the validation shows."""

    value = math.nan

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.value = trainer.callback_metrics["val/value"].item()


CASES = {
    "equilibrium": (gaussian(), mixture_density([0.0], [1.0]), 0.0, 1.0),
    "shifted": (gaussian(), mixture_density([0.0], [1.0]), 1.0, 1.5),
    "mixture": (mixture([-1.5, 1.5], [0.8, 0.8]), mixture_density([-1.5, 1.5], [0.8, 0.8]), 0.0, 2.0),
}


@functools.cache
def trained(case: str) -> tuple[GAN, float]:
    """The GAN of a case after D's training, and the val/value that it logged."""
    torch.manual_seed(1)
    distribution, _, mean, std = CASES[case]
    gan, logged = frozen_gan(mean, std), _Logged()
    fit(gan, data_of(distribution), ROUNDS, callbacks=[logged], num_sanity_val_steps=0)
    return gan, logged.value


def densities(case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, and p_data and p_g there."""
    _, p_data, mean, std = CASES[case]
    x = np.linspace(-10, 10, 8001)
    return x, p_data(x), stats.norm(mean, std).pdf(x)


@pytest.mark.parametrize("case", CASES)
def test_the_discriminator_becomes_the_optimal_one(case: str) -> None:
    """Equation 2: E |D - D*| over p_data, and the largest gap over the central 95 % of p_data."""
    gan, _ = trained(case)
    x, p_data, p_g = densities(case)
    gap = np.abs(output(gan, x) - p_data / (p_data + p_g))
    assert integrate.trapezoid(p_data * gap, x) < 0.01
    level = integrate.cumulative_trapezoid(p_data, x, initial=0)
    assert gap[(level > 0.025) & (level < 0.975)].max() < 0.02


@pytest.mark.parametrize("case", CASES)
def test_the_value_becomes_that_of_the_divergence(case: str) -> None:
    """Theorem 1: max_D V(D, G) = -log 4 + 2 JSD(p_data, p_g)."""
    gan, logged = trained(case)
    x, p_data, p_g = densities(case)
    optimum = -LOG_4 + 2 * divergence(p_data, p_g, x)
    value = game_value(output(gan, x), p_data, p_g, x)
    assert optimum - 0.01 < value < optimum + 1e-6
    assert logged == pytest.approx(optimum, abs=0.01)  # a mean over 25,000 samples


def test_at_the_equilibrium_the_discriminator_knows_nothing() -> None:
    gan, logged = trained("equilibrium")
    central = np.linspace(*stats.norm.interval(0.95), 501)
    assert np.abs(output(gan, central) - 0.5).max() < 0.02
    assert logged == pytest.approx(-LOG_4, abs=0.01)


@pytest.mark.parametrize("case", CASES)
def test_the_logged_value_is_that_of_its_samples(case: str) -> None:
    """E log D(x) + E log(1 - D(G(z))) once more, in double precision, from the validation's samples and latents."""
    gan, logged = trained(case)
    distribution, _, mean, std = CASES[case]
    latents = fixed_rows(gan.game.prior.sample, latents_seed(gan.seed), 0, 200_000)
    data = data_of(distribution)
    data.trainer = gan.trainer
    real_terms, fake_terms = [], []
    for batch in data.val_dataloader():
        z, latents = latents[: len(batch.x)], latents[len(batch.x) :]
        fake = mean + std * z
        real_terms.append(np.log(output(gan, batch.x[:, 0].double().numpy())))
        fake_terms.append(np.log1p(-output(gan, fake[:, 0].double().numpy())))
    by_hand = np.concatenate(real_terms).mean() + np.concatenate(fake_terms).mean()
    assert logged == pytest.approx(by_hand, abs=1e-5)


# ------------------------------------------------------------------------------------------- the vanishing gradient


class _GradientNorm(Callback):
    """Keeps the generator's gradient norm as the log has it."""

    value = math.nan

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        self.value = module.log_line["gradient_norm/generator"]


@functools.cache
def separated() -> GAN:
    """D nearly optimal between data around 3 and samples around 0, a fifth wide each."""
    torch.manual_seed(1)
    gan = frozen_gan(0.0, 0.2)
    fit(gan, data_of(gaussian(3.0, 0.2), 30), 30, num_sanity_val_steps=0)
    return gan


def gradient_norm(loss: losses.Loss) -> float:
    """The generator's, by one more round of training in which nothing moves."""
    gan, seen = separated(), _GradientNorm()
    gan.game.loss, gan.discriminator_optimizer, gan.schedule = loss, STILL, None
    fit(gan, data_of(gaussian(3.0, 0.2), 1), 1, callbacks=[seen], num_sanity_val_steps=0, log_every_n_steps=1)
    return seen.value


def gradient_norm_by_hand(factor: Callable[[Tensor], Tensor]) -> float:
    """|E factor(D) dl/dx (z, 1)| over the latents of that round, for x = w z + b."""
    gan = separated()
    streams = Streams(gan.seed, 0, 1, gan.device)
    streams.begin(0)
    for _ in range(CRITIC_STEPS):
        torch.randn(BATCH, 1, generator=streams.generator)  # D's updates
    z = torch.randn(BATCH, 1, generator=streams.generator)
    x = (0.2 * z).requires_grad_()
    logits = gan.game.discriminator(x)
    slope = torch.autograd.grad(logits.sum(), x)[0]
    per_sample = factor(torch.sigmoid(logits.detach()))[:, None] * slope
    return torch.cat([(per_sample * z).mean(0), per_sample.mean(0)]).norm().item()


def test_the_supports_are_told_apart() -> None:
    x = np.random.default_rng(0).normal(0, 0.2, 1000)
    assert output(separated(), x).max() < 0.01
    assert output(separated(), x + 3).min() > 0.99


@pytest.mark.parametrize(
    ("loss", "factor"),
    [(losses.Minimax(), lambda d: -d), (losses.NonSaturating(), lambda d: d - 1)],
    ids=["minimax", "non_saturating"],
)
def test_the_gradient_by_the_logit_and_by_the_weights(loss: losses.Loss, factor: Callable[[Tensor], Tensor]) -> None:
    """d/dl log(1 - D) = -D, which dies where D wins; d/dl -log D = -(1 - D), which is strongest there."""
    logits = torch.linspace(-12, 12, 49, dtype=torch.double, requires_grad=True)
    by_logit = torch.autograd.grad(loss.generator(real_logits=None, fake_logits=logits).sum(), logits)[0]
    assert_close(by_logit, factor(1 / (1 + torch.exp(-logits.detach()))), rtol=1e-12, atol=1e-12)
    assert gradient_norm(loss) == pytest.approx(gradient_norm_by_hand(factor), rel=1e-4)


def test_minimax_saturates_where_non_saturating_does_not() -> None:
    """Both push along the same slopes, by factors D and 1 - D."""
    saturated, alive = gradient_norm(losses.Minimax()), gradient_norm(losses.NonSaturating())
    assert saturated < 0.01 * alive
    assert alive > 0.5
