"""Packing: D judges m samples by one logit, with every term, on any number of samples, as written out in float64."""

from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
from helpers import GivenData, fit, small_gan
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from gan_lightning.batch import Batch
from gan_lightning.build import build_gan
from gan_lightning.config import check
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, packs
from gan_lightning.games.acgan import ACGAN
from gan_lightning.games.bigan import BiGAN
from gan_lightning.games.infogan import Codes, InfoGAN
from gan_lightning.games.pix2pix import Pix2Pix
from gan_lightning.priors import Normal
from gan_lightning.regularizers import DRAGAN, R1, R2, GradientPenalty, ZeroCentered
from gan_lightning.rehearsal import check_networks
from gan_lightning.streams import fixed_rows
from gan_lightning.validation import Validation, latents_seed

Configure = Callable[..., DictConfig]
N, M = 6, 3


def critic(features: int = 2 * M) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))


def packed_gan(m: int = M, **options: Any) -> Any:
    return small_gan(discriminator=critic(2 * m), packing=m, **options)


def samples(n: int = N, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def rows(x: Tensor, m: int = M) -> Tensor:
    """Packs, one sample after the other."""
    return torch.stack([torch.cat([x[i + j] for j in range(m)]) for i in range(0, len(x), m)])


def squared_slopes(d: nn.Module, packs_: Tensor) -> Tensor:
    """|d logit / d pack|^2, in all the numbers of a pack, itself differentiable."""
    ones = [one.clone().requires_grad_() for one in packs_.detach()]
    return torch.stack([torch.autograd.grad(d(x[None])[0], x, create_graph=True)[0].square().sum() for x in ones])


def test_the_terms_are_the_packs() -> None:
    """Losses and all penalties, and D's gradient of their sum."""
    penalties = [R1(0.3), R2(0.7), GradientPenalty(2.0), ZeroCentered(0.5), DRAGAN(1.5)]
    game = packed_gan(regularizers=penalties).game
    d, real, fake = game.discriminator, Batch(samples()), Batch(samples(seed=1))
    torch.manual_seed(3)
    terms = game.discriminator_terms(real, fake, 0)
    torch.manual_seed(3)
    shares = (torch.rand(N // M).double().repeat_interleave(M)[:, None] for _ in range(2))  # one per pack
    between, again = (torch.lerp(fake.x, real.x, share) for share in shares)
    draw = torch.rand(N, 3).double()
    a = draw[::M, :1].repeat_interleave(M, 0)
    near = real.x + 0.5 * real.x.std(correction=0) * a * draw[:, 1:]
    r, f = d(rows(real.x)), d(rows(fake.x))
    expected = {
        "adversarial": (softplus(-r) + softplus(f)).mean(),
        "r1": 0.3 / 2 * squared_slopes(d, rows(real.x)).mean(),
        "r2": 0.7 / 2 * squared_slopes(d, rows(fake.x)).mean(),
        "gradientpenalty": 2.0 * (squared_slopes(d, rows(between)).sqrt() - 1).square().mean(),
        "zerocentered": 0.5 * squared_slopes(d, rows(again)).mean(),
        "dragan": 1.5 * (squared_slopes(d, rows(near)).sqrt() - 1).square().mean(),
    }
    assert_close(terms.losses, expected, rtol=1e-12, atol=1e-12)
    assert_close(terms.outputs, {"real": r, "fake": f}, rtol=1e-12, atol=1e-12)
    gradients, by_hand = (
        torch.autograd.grad(torch.stack([*losses.values()]).sum(), [*d.parameters()])
        for losses in (terms.losses, expected)
    )
    assert_close(gradients, by_hand, rtol=1e-10, atol=1e-12)


def test_the_generators_gradient_is_of_all_the_samples_of_a_pack() -> None:
    game = packed_gan().game
    z = torch.randn(N, 3, dtype=torch.double)
    loss = game.generator_terms(Batch(samples()), game.generate(z), 0).losses["adversarial"]
    by_hand = softplus(-game.discriminator(rows(game.generator(z)))).mean()
    weights = [*game.generator.parameters()]
    assert_close(torch.autograd.grad(loss, weights), torch.autograd.grad(by_hand, weights), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 3), (7, 3), (8, 3), (1, 4), (5, 2), (2, 5)])
@pytest.mark.parametrize("shape", [(2,), (3, 4, 5)])
def test_any_number_of_samples_makes_packs(n: int, m: int, shape: tuple[int, ...]) -> None:
    """Joined along the first dimension; the first samples, in turn, complete the last pack."""
    x = torch.arange(n * torch.Size(shape).numel()).view(n, *shape)
    packed = packs(x, m)
    assert packed.shape == (-(-n // m), m * shape[0], *shape[1:])
    parts = [part for pack in packed for part in pack.split(shape[0])]
    assert all(torch.equal(part, x[i % n]) for i, part in enumerate(parts))


def test_validation_judges_any_number_of_samples() -> None:
    game = packed_gan().game
    validation = Validation({}).double()
    real = Batch(samples(8))
    validation.update(game, real, 0, 0, 1)
    value = validation.compute(game, torch.device("cpu"))["val/value"]
    latents = fixed_rows(game.prior.sample, latents_seed(0), 0, 8)
    d = [game.discriminator(rows(torch.cat([x, x[:1]]))) for x in (real.x, game.generator(latents.double()))]
    assert value.item() == pytest.approx((-softplus(-d[0]) - softplus(d[1])).mean().item(), rel=1e-6)


@pytest.mark.parametrize("game", [ACGAN, InfoGAN, Pix2Pix, Game])
def test_what_d_says_of_single_samples_cannot_be_said_of_packs(game: type[Game]) -> None:
    networks = [nn.Linear(2, 2), nn.Linear(4, 1)]
    for network in networks if game not in (InfoGAN, ACGAN) else ():
        network.conditional = True
    with pytest.raises(UsageError, match=r"^model\.packing is 2, but .*give model\.packing=1"):
        game(*networks, Codes(12) if game is InfoGAN else Normal(2), packing=2)


@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet", "infogan", "goodfellow_mnist", "linear"])
def test_every_discriminator_is_made_for_packs(configure: Configure, model: str) -> None:
    narrow = {"mlp": ["model.generator.widths=[8]"], "goodfellow_mnist": ["model.generator.widths=[8,8]"]}
    narrow |= {name: ["model.generator.width=8", "model.discriminator.width=8"] for name in ("dcgan", "resnet")}
    config = configure(f"model={model}", "data=mnist", "model.packing=2", *narrow.get(model, []))
    assert build_gan(config, (1, 28, 28), 10).game.judge(Batch(torch.zeros(6, 1, 28, 28))).shape == (3,)


def test_bigan_packs_its_pairs(configure: Configure) -> None:
    config = configure("game=bigan", "model.packing=2", "model.latent_size=3", "data=ring")
    game = build_gan(config, (2,), 8).double().game
    assert isinstance(game, BiGAN)
    x, z = samples(4), torch.randn(4, 3, dtype=torch.double)
    expected = game.discriminator(rows(torch.cat([x, z], 1), 2))
    assert_close(game.judge(Batch(x, z=z)), expected)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.packing=0"], r"^model\.packing is 0: give a whole number, at least 1\.$"),
        (
            ["model.packing=3", "data.batch_size=100"],
            r"^model\.packing is 3 .*batch_size=100: .*batch_size=99\.$",
        ),
        (["model.packing=3", "data.batch_size=2"], r"give data\.batch_size=3\.$"),
    ],
)
def test_a_batch_of_no_whole_packs_is_refused(configure: Configure, overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(configure(*overrides), {})


def test_a_plain_loader_without_whole_packs_is_refused_before_training() -> None:
    gan = packed_gan()
    before = [weight.clone() for weight in gan.parameters()]
    with pytest.raises(UsageError, match=r"A batch of 8 .* of packs of packing=3 samples: .*multiple of 3"):
        fit_plainly(gan, DataLoader(TensorDataset(samples(16)), 8))
    with pytest.raises(UsageError, match=r"A batch of 4 .* packing=3"):
        fit(gan, GivenData(samples(8).view(2, 4, 2), 4), 2)
    assert_close(list(gan.parameters()), before, rtol=0, atol=0)
    fit_plainly(gan, DataLoader(TensorDataset(samples(12)), 6))
    assert (gan.game.discriminator[0].weight - before[-4]).norm() > 0


def fit_plainly(gan: Any, loader: Any) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=1, enable_checkpointing=False, log_every_n_steps=1, **quiet).fit(gan, loader)


def test_a_discriminator_of_packs_is_rehearsed() -> None:
    check_networks(packed_gan(2), GivenData(torch.zeros(1, 4, 2), 4))
