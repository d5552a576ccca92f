"""BiGAN: every term against its formula, who gets which gradient, and an encoder that inverts G by construction."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.testing import assert_close

from gan_lightning import losses
from gan_lightning.batch import Batch
from gan_lightning.diversity import ModeSeeking
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.games.bigan import BiGAN
from gan_lightning.priors import Normal
from gan_lightning.regularizers import R1, R2, GradientPenalty

N = 6


class Joint(nn.Module):
    """D(x, z) = sum sin(x) z, so that both parts matter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.double))

    def forward(self, pair: Tensor) -> Tensor:
        x, z = pair.split([4, 2], 1)
        return self.weight * judged(x, z)


def judged(x: Tensor, z: Tensor) -> Tensor:
    return x.sin().sum(1) * z.sum(1)


class Shaped(nn.Linear):
    """(N, 2) to (N, 2, 2)."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).unflatten(1, (2, 2))


def bigan(loss: losses.Loss | None = None) -> BiGAN:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    return BiGAN(Shaped(2, 4).double(), Joint(), Normal(2), loss, encoder=encoder)


def batches(game: Game) -> tuple[Batch, Batch]:
    return Batch(torch.randn(N, 2, 2, dtype=torch.double)), game.generate(torch.randn(N, 2, dtype=torch.double))


FORMULAS: dict[str, tuple[losses.Loss, Callable[..., Tensor], Callable[..., Tensor]]] = {
    "non_saturating": (losses.NonSaturating(), lambda f: softplus(-f), softplus),
    "smoothed": (losses.NonSaturating(0.1), lambda f: softplus(-f), softplus),
    "minimax": (losses.Minimax(), lambda f: -softplus(f), lambda r: -softplus(-r)),
    "least_squares": (losses.LeastSquares(), lambda f: (f - 1).square() / 2, lambda r: r.square() / 2),
    "hinge": (losses.Hinge(), lambda f: -f, lambda r: r),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_encoder_and_the_generator_exchange_roles(name: str) -> None:
    """At D(x, E(x)) the term of E is what G's would be if D's labels were exchanged."""
    loss, of_g, of_e = FORMULAS[name]
    game = bigan(loss)
    real, fake = batches(game)
    on_real = judged(real.x.flatten(1), game.encoder(real.x))
    on_fake = judged(fake.x.flatten(1), fake.z)
    terms = game.generator_terms(real, fake, 0).losses
    assert_close(terms, {"adversarial": of_g(on_fake).mean(), "encoder": of_e(on_real).mean()})
    d = game.discriminator_terms(real, fake, 0).losses
    assert_close(d, {"adversarial": loss.discriminator(real_logits=on_real, fake_logits=on_fake).mean()})


def test_a_loss_of_pairs_has_the_encoders_part_already() -> None:
    game = bigan(losses.Relativistic())
    real, fake = batches(game)
    on_real, on_fake = judged(real.x.flatten(1), game.encoder(real.x)), judged(fake.x.flatten(1), fake.z)
    terms = game.generator_terms(real, fake, 0).losses
    assert_close(terms, {"adversarial": softplus(on_real - on_fake).mean()})
    terms["adversarial"].backward()
    assert game.encoder[1].weight.grad is not None


def test_each_player_learns_from_its_own_terms() -> None:
    game = bigan()
    real, fake = batches(game)
    detached = fake._replace(x=fake.x.detach())
    sum(game.discriminator_terms(real, detached, 0).losses.values()).backward()
    assert game.discriminator.weight.grad is not None
    assert all(weight.grad is None for network in game.players()["generator"] for weight in network.parameters())
    sum(game.generator_terms(real, fake, 0).losses.values()).backward()
    assert all(weight.grad is not None for network in game.players()["generator"] for weight in network.parameters())


def test_an_encoder_that_inverts_g_reconstructs() -> None:
    game = bigan()
    with torch.no_grad():
        game.generator.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 4.0], [1.0, 1.0], [0.0, 0.0]]))
        game.generator.bias.zero_()
        game.encoder[1].weight.copy_(torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.0, 0.25, 0.0, 0.0]]))
        game.encoder[1].bias.zero_()
    x = game.generate(torch.randn(N, 2, dtype=torch.double)).x
    assert_close(game.reconstruct(x), x)
    assert_close(game.illustrate(torch.empty(0), Batch(x)), torch.stack([x, x]))


def test_samples_and_codes_come_from_the_averages() -> None:
    """Both networks are averaged together, and an encoder moves as G does."""
    gan = small_gan(
        BiGAN,
        generator=nn.Linear(3, 2),
        discriminator=nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)),
        encoder=nn.Linear(2, 3),
        ema_decay=0.9,
    )
    before = gan.game.encoder.weight.detach().clone()
    fit(gan, GivenData(torch.randn(4, 4, 2, dtype=torch.double), 4), 4)
    live = gan.game.encoder
    assert not torch.equal(live.weight, before)
    with gan.sampling():
        assert gan.game.encoder is gan.average.network.encoder
        assert not torch.equal(gan.game.encoder.weight, live.weight)
    assert gan.game.encoder is live


def test_a_model_without_an_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="this model has none: choose model=bigan"):
        BiGAN(nn.Linear(2, 4), Joint(), Normal(2))
    asks = nn.Linear(2, 4)
    asks.conditional = True
    with pytest.raises(UsageError, match=r"game=bigan does not support classes: leave out model\.conditional\."):
        BiGAN(asks, Joint(), Normal(2), encoder=nn.Linear(4, 2))


class Bilinear(nn.Module):
    """D(x, z) = w . (x, z): its gradient in a pair is w, in x alone the first four of w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0], dtype=torch.double))

    def forward(self, pair: Tensor) -> Tensor:
        return pair @ self.weight


def test_penalties_look_at_both_halves_of_a_pair() -> None:
    squared = 1 + 4 + 0.25 + 9 + 1 + 4
    penalties = {"r1": R1(1.0), "r2": R2(1.0), "gp": GradientPenalty(1.0)}
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    game = BiGAN(Shaped(2, 4).double(), Bilinear(), Normal(2), encoder=encoder, regularizers=penalties)
    terms = game.discriminator_terms(*batches(game), 0).losses
    for name, expected in (("r1", squared / 2), ("r2", squared / 2), ("gp", (squared**0.5 - 1) ** 2)):
        assert_close(terms[name], torch.tensor(expected, dtype=torch.double))
    sum(terms.values()).backward()
    assert all(weight.grad is None for weight in encoder.parameters())


@pytest.mark.parametrize("options", [{"order": "simultaneous"}, {"order": "generator_first", "reuse_fakes": True}])
def test_d_learns_from_codes_of_before_where_both_step_from_where_both_were(options: dict[str, Any]) -> None:
    """One step by SGD against the gradients of both players at the same weights."""
    sgd = partial(torch.optim.SGD, lr=0.1)
    torch.manual_seed(0)
    gan = small_gan(
        BiGAN,
        generator=nn.Linear(3, 2),
        discriminator=nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)),
        encoder=nn.Linear(2, 3),
        generator_optimizer=sgd,
        discriminator_optimizer=sgd,
        **options,
    )
    game, seen = deepcopy(gan.game), []
    gan.game.discriminator.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    real = torch.randn(1, 4, 2, dtype=torch.double)
    fit(gan, GivenData(real, 4), 1)
    game.double()
    pair = torch.cat([real[0], game.encoder(real[0])], 1).detach()
    shown = [batch for batch in seen if torch.allclose(batch[:, :2].double(), real[0])]
    assert len(shown) == 2  # once where G learns, once where D does
    for batch in shown:
        assert_close(batch.double(), pair)


def test_what_the_networks_are_given() -> None:
    given = {n: BiGAN.network_options(n, (1, 8, 8), 10, prior=Normal(5)) for n in ("encoder", "discriminator")}
    assert given["encoder"] == {"sample_shape": (1, 8, 8), "classes": 10, "outputs": 5}
    assert given["discriminator"] == {"sample_shape": (69,), "classes": 10}


def test_mode_seeking_compares_samples_not_pairs() -> None:
    """1 / (l + 1e-5), where l has no part of the latents that D sees beside the samples."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    seeking = {"seeking": ModeSeeking(1.0)}
    game = BiGAN(Shaped(2, 4).double(), Joint(), Normal(2), generator_regularizers=seeking, encoder=encoder)
    real, fake = batches(game)
    assert fake.z is not None
    x, z, half = fake.x.flatten(1), fake.z, N // 2
    apart, latent = ((v[:half] - v[half : 2 * half]).abs().mean() for v in (x, z))
    found = game.generator_terms(real, fake, 0).losses["seeking"]
    assert_close(found, 1 / (apart / latent + 1e-5), rtol=1e-12, atol=0)
