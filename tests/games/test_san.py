"""SAN's terms against the formulas in float64: which of D's weights learns what."""

import pytest
import torch
from helpers import GivenData, fit, small_gan
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrize import is_parametrized
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.games.san import SAN, Direction
from gan_lightning.networks import dcgan, mlp, pacgan, sn_resnet
from gan_lightning.networks.spectral import spectrally_normalized
from gan_lightning.priors import Normal
from gan_lightning.regularizers import R1

N = 5


def critic() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def samples(seed: int) -> Tensor:
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_the_features_learn_by_the_loss_and_the_direction_by_wassersteins() -> None:
    d = critic()
    body, w = d[:2], d[2].weight.detach()[0]
    gan = small_gan(SAN, discriminator=d, regularizers=[R1(0.3)])
    real, fake = samples(0), samples(1)
    terms = gan.game.discriminator_terms(Batch(real), Batch(fake), 0)
    assert_close(terms.outputs["real"], (body(real) @ w)[:, None].expand(N, 2))
    direction = (body(fake) @ w).mean() - (body(real) @ w).mean()
    assert_close(terms.losses["direction"], direction)
    gradients = torch.autograd.grad(sum(terms.losses.values()), [*gan.game.discriminator.parameters()])

    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad((body(x) @ w).sum(), x, create_graph=True)
    penalty = 0.3 / 2 * slope.square().sum(1).mean()
    loss = (softplus(-(body(real) @ w)) + softplus(body(fake) @ w)).mean() + penalty
    assert_close(gradients[:2], torch.autograd.grad(loss, [*body.parameters()]), rtol=1e-10, atol=1e-12)

    # omega moves on the sphere, and the scale of the features by the loss
    scale = w.norm().requires_grad_()
    omega = (w / w.norm()).requires_grad_()
    h_real, h_fake = (body(batch).detach() for batch in (real, fake))
    on_omega = torch.autograd.grad(scale.detach() * (h_fake - h_real).mean(0) @ omega, omega)[0]
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(scale * (body(x) @ omega.detach()).sum(), x, create_graph=True)
    penalty = 0.3 / 2 * slope.square().sum(1).mean()
    fixed = omega.detach()
    of_scale = (softplus(-scale * (h_real @ fixed)) + softplus(scale * (h_fake @ fixed))).mean() + penalty
    on_scale = torch.autograd.grad(of_scale, scale)[0]
    tangent = (on_omega - (on_omega @ fixed) * fixed) / w.norm()
    assert_close(gradients[2][0], tangent + on_scale * fixed, rtol=1e-10, atol=1e-12)


def test_a_discriminator_may_flatten_its_logits() -> None:
    last, flat = critic(), critic().append(nn.Flatten(0))
    flat.load_state_dict(last.state_dict())
    (one, other) = (
        small_gan(SAN, discriminator=d).game.discriminator_terms(Batch(samples(0)), Batch(samples(1)), 0)
        for d in (last, flat)
    )
    assert_close(one.losses, other.losses)
    assert_close(one.outputs, other.outputs)


def test_a_discriminator_that_drops_a_value_is_refused() -> None:
    class First(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 0]

    game = small_gan(SAN, discriminator=First(*critic())).game
    with pytest.raises(UsageError, match=r"gives outputs \(5,\) for 5 samples, but game=san takes what its last layer"):
        game.discriminator_terms(Batch(samples(0)), Batch(samples(1)), 0)


def test_the_generator_plays_against_the_whole() -> None:
    gan = small_gan(SAN, discriminator=critic())
    d, g = gan.game.discriminator, gan.game.generator
    z = torch.randn(N, 3, dtype=torch.double)
    terms = gan.game.generator_terms(Batch(samples(0)), gan.game.generate(z), 0)
    by_hand = softplus(-(d[:2](g(z)) @ d[2].weight[0])).mean()
    weights = [*g.parameters()]
    found, expected = (torch.autograd.grad(loss, weights) for loss in (terms.losses["adversarial"], by_hand))
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_it_trains_networks_whose_last_layer_is_linear() -> None:
    for d in (critic(), mlp.Discriminator((2,), [8]), pacgan.Discriminator((2,), 8)):
        gan = small_gan(SAN, discriminator=d)
        before = [weight.detach().clone() for weight in gan.game.discriminator.parameters()]
        fit(gan, GivenData(torch.randn(3, N, 2, dtype=torch.double), N), 3)
        after = [*gan.game.discriminator.parameters()]
        assert all((a - b).norm() > 0 for a, b in zip(after[::2], before[::2], strict=True))
    images = SAN(nn.Linear(2, 2), sn_resnet.Discriminator((1, 28, 28), 4), Normal(2))
    assert images.judge(Batch(torch.randn(3, 1, 28, 28))).shape == (3,)


def test_all_layers_but_the_direction_keep_their_spectral_normalization() -> None:
    d = spectrally_normalized(mlp.Discriminator((2,), [8, 8]))
    layers = SAN(nn.Linear(2, 2), d, Normal(2)).discriminator.modules()
    assert [is_parametrized(part) for part in layers if isinstance(part, nn.Linear | Direction)] == [True, True, False]


@pytest.mark.parametrize(
    "discriminator",
    [
        dcgan.Discriminator((1, 28, 28), 4),
        nn.Linear(2, 1),
        mlp.Discriminator((2,), [8], outputs=3),
        mlp.Discriminator((2,), [8], classes=3, conditional=True),
        nn.Tanh(),
    ],
)
def test_others_are_refused(discriminator: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"^game=san turns the discriminator's last layer into a direction"):
        SAN(nn.Linear(2, 2), discriminator, Normal(2))
