"""InfoGAN: the codes' distribution, the information terms against torch.distributions, what pictures vary."""

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.games.infogan import ROWS, Codes, InfoGAN
from gan_lightning.priors import Uniform

K, C, SIZE, N = 3, 2, 7, 8
HALF_LOG_2_PI = -Normal(0.0, 1.0).log_prob(torch.tensor(0.0, dtype=torch.double))


def infogan(**options: Any) -> InfoGAN:
    return InfoGAN(
        nn.Linear(SIZE, 4).double(),
        nn.Linear(4, 1 + K + C).double(),
        Codes(SIZE, K, C),
        **options,
    )


def played(game: InfoGAN) -> tuple[Batch, Batch]:
    z = game.prior.sample(N, torch.Generator().manual_seed(0)).double()
    return Batch(torch.randn(N, 4, dtype=torch.double)), game.generate(z)


def test_the_codes_are_one_hot_uniform_and_normal() -> None:
    z = Codes(SIZE, K, C).sample(20_000, torch.Generator().manual_seed(0))
    category, codes, noise = z.split([K, C, SIZE - K - C], 1)
    assert torch.equal(category.sort(1).values, torch.tensor([0.0, 0.0, 1.0]).expand(20_000, 3))
    assert stats.chisquare(category.sum(0).numpy()).pvalue > 0.01
    for column in codes.T:
        assert stats.kstest(column.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01
    for column in noise.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 0.01
    assert abs(torch.corrcoef(z.T)[:K, K:]).max() < 0.03


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"latent_size is 4, .* 3 categories and 2 continuous .* at least 5\."):
        Codes(4, 3, 2)
    with pytest.raises(UsageError, match="prior=uniform does not have: choose prior=codes"):
        InfoGAN(nn.Linear(3, 4), nn.Linear(4, 13), Uniform(3))
    asks = nn.Linear(SIZE, 4)
    asks.conditional = True
    with pytest.raises(UsageError, match=r"discovers categories without labels: leave out model\.conditional\."):
        InfoGAN(asks, nn.Linear(4, 6), Codes(SIZE, K, C))


@pytest.mark.parametrize("outputs", [1, K + C, K + C + 2])
def test_outputs_that_are_not_those_of_the_codes_are_refused(outputs: int) -> None:
    game = InfoGAN(nn.Linear(SIZE, 4).double(), nn.Linear(4, outputs).double(), Codes(SIZE, K, C))
    with pytest.raises(UsageError, match=rf"gives outputs \(8, {outputs}\), but \(N, 6\) is expected: the logit"):
        game.discriminator_terms(*played(game), 0)


@pytest.mark.parametrize(("numbers", "sentence"), [((0, 2), "categories is 0"), ((2, -1), "continuous is -1")])
def test_impossible_numbers_of_codes_are_refused(numbers: tuple[int, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Codes(4, *numbers)


def test_the_information_terms_are_negative_log_likelihoods() -> None:
    game = infogan(category_weight=0.7, continuous_weight=0.3)
    real, fake = played(game)
    outputs = game.discriminator(fake.x)
    assert fake.z is not None
    category = -Categorical(logits=outputs[:, 1:4]).log_prob(fake.z[:, :K].argmax(1)).mean()
    likelihood = Normal(outputs[:, 4:6], 1.0).log_prob(fake.z[:, 3:5]).sum(1).mean()
    for terms in (game.discriminator_terms(real, fake, 0), game.generator_terms(real, fake, 0)):
        assert list(terms.losses) == ["adversarial", "category", "continuous"]
        assert_close(terms.losses["category"], 0.7 * category)
        assert_close(terms.losses["continuous"], 0.3 * (-likelihood - C * HALF_LOG_2_PI))
    (slope,) = torch.autograd.grad(terms.losses["category"], game.generator.weight)
    assert slope.norm() > 0


def test_the_adversarial_term_has_the_first_output_alone() -> None:
    game = infogan()
    real, fake = played(game)
    d = game.discriminator_terms(real, fake, 0).losses["adversarial"]
    assert_close(d, -(game.discriminator(real.x)[:, 0].sigmoid().log() + (-game.judge(fake)).sigmoid().log()).mean())


def test_what_the_discriminator_is_given() -> None:
    prior = Codes(SIZE, K, C)
    given = InfoGAN.network_options("discriminator", (1, 8, 8), 10, prior=prior, category_weight=1.0)
    assert given == {"sample_shape": (1, 8, 8), "classes": 10, "outputs": 6}
    assert "outputs" not in InfoGAN.network_options("generator", (1, 8, 8), 10, prior=prior)


def test_a_picture_varies_one_code_a_row() -> None:
    class Showing(InfoGAN):
        def generate(self, z: Tensor, y: Tensor | None = None) -> Batch:
            return Batch(z, y, z)

    game = Showing(nn.Identity(), nn.Identity(), Codes(SIZE, K, C))
    z = game.prior.sample(9, torch.Generator().manual_seed(0))
    rows = game.illustrate(z, Batch(torch.empty(0)))
    assert rows.shape == (1 + C * ROWS, K, SIZE)
    for i, row in enumerate(rows):
        varied = list(range(K)) if i == 0 else [K + (i - 1) // ROWS]
        kept = [column for column in range(SIZE) if column not in varied]
        assert torch.equal(row[:, kept], z[(i - 1) % ROWS if i else 0, kept].expand(K, -1))
    assert torch.equal(rows[0, :, :K], torch.eye(K))
    assert torch.equal(rows[1, :, K], torch.tensor([-2.0, 0.0, 2.0]))
