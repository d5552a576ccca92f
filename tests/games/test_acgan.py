"""AC-GAN's terms against the paper's formulas in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.games.acgan import ACGAN
from gan_lightning.networks import mlp
from gan_lightning.priors import Normal
from gan_lightning.regularizers import R1

K, N = 3, 8
Y = torch.arange(N) % K


def game(**options: Any) -> ACGAN:
    given = ACGAN.network_options("discriminator", (2,), K)
    assert given == {"sample_shape": (2,), "classes": K, "outputs": 1 + K}
    generator = mlp.Generator(4, (2,), [8], batch_norm=False, classes=K, conditional=True)
    return ACGAN(generator, mlp.Discriminator(widths=[8], **given), Normal(4), **options).double()


def cross_entropy(logits: Tensor) -> Tensor:
    """-log p(y|x), a mean, by the definition."""
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -torch.stack([shares[i, y].log() for i, y in enumerate(Y)]).mean()


def test_the_terms_are_the_papers() -> None:
    played = game(weight=0.7, regularizers={"r1": R1(0.3)})
    real = Batch(torch.randn(N, 2, dtype=torch.double), Y)
    fake = played.generate(torch.randn(N, 4, dtype=torch.double), Y)
    r, f = played.discriminator(real.x), played.discriminator(fake.x)
    assert r.shape == (N, 1 + K)
    x = real.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(played.discriminator(x)[:, 0].sum(), x)
    terms = played.discriminator_terms(real, fake, 0).losses
    expected = {
        "adversarial": (softplus(-r[:, 0]) + softplus(f[:, 0])).mean(),
        "r1": 0.3 * 0.5 * slope.square().sum(1).mean(),
        "class_real": 0.7 * cross_entropy(r[:, 1:]),
        "class_fake": 0.7 * cross_entropy(f[:, 1:]),
    }
    assert_close(terms, expected)
    expected = {"adversarial": softplus(-f[:, 0]).mean(), "class_fake": 0.7 * cross_entropy(f[:, 1:])}
    assert_close(played.generator_terms(real, fake, 0).losses, expected)


def test_an_unconditional_generator_is_refused() -> None:
    with pytest.raises(UsageError, match=r"game=acgan needs a conditional generator: set model\.generator\.cond"):
        ACGAN(mlp.Generator(4, (2,), [8]), nn.Linear(2, 1 + K), Normal(4))
