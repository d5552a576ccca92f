"""The mathematics of the game, without an optimizer: every term against its formula in float64."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, softplus
from torch.testing import assert_close

from gan_lightning import losses
from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.game import Game, is_samplewise
from gan_lightning.labels import is_conditional
from gan_lightning.networks import linear, mlp, pacgan
from gan_lightning.networks.spectral import spectrally_normalized
from gan_lightning.priors import Normal
from gan_lightning.regularizers import R1, R2, CriticPass, GradientPenalty, Regularizer

N = 6


def critic(x: Tensor) -> Tensor:
    """A critic whose gradient is known: sum of sin over the features."""
    return x.flatten(1).sin().sum(1)


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.double))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * critic(x)


def samples(seed: int) -> Tensor:
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def game_of(kind: type[Game] = Game, **options: Any) -> Game:
    return kind(nn.Linear(2, 3).double(), Critic(), Normal(2), **options)


def test_the_game_imports_torch_alone() -> None:
    code = "import sys, gan_lightning.game; print([m for m in ('lightning', 'hydra', 'omegaconf') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


FORMULAS: dict[type[losses.Loss], tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    losses.NonSaturating: (lambda r, f: softplus(-r) + softplus(f), lambda r, f: softplus(-f)),
    losses.Relativistic: (lambda r, f: softplus(f - r), lambda r, f: softplus(r - f)),
    losses.Hinge: (lambda r, f: (1 - r).clamp(min=0) + (1 + f).clamp(min=0), lambda r, f: -f),
}


@pytest.mark.parametrize("loss", FORMULAS)
def test_the_adversarial_terms_are_the_losses_means(loss: type[losses.Loss]) -> None:
    real, fake = Batch(samples(0)), Batch(samples(1))
    game, (of_d, of_g) = game_of(loss=loss()), FORMULAS[loss]
    terms = game.discriminator_terms(real, fake, 0)
    assert_close(terms.losses, {"adversarial": of_d(critic(real.x), critic(fake.x)).mean()})
    assert_close(
        game.generator_terms(real, fake, 0).losses, {"adversarial": of_g(critic(real.x), critic(fake.x)).mean()}
    )


def slopes(x: Tensor) -> Tensor:
    return x.cos().square().sum(1)  # |grad|^2 of the critic


def test_each_penalty_is_a_term_of_its_own() -> None:
    real, fake = Batch(samples(0)), Batch(samples(1))
    game = game_of(regularizers={"r1": R1(0.3), "second": R2(0.7, interval=2)})
    terms = game.discriminator_terms(real, fake, 4).losses
    assert list(terms) == ["adversarial", "r1", "second"]
    assert_close(terms["r1"], 0.3 * 0.5 * slopes(real.x).mean())
    assert_close(terms["second"], 0.7 * 2 * 0.5 * slopes(fake.x).mean())
    assert list(game.discriminator_terms(real, fake, 5).losses) == ["adversarial", "r1"]


def test_a_packed_critic_is_penalized_by_the_pack() -> None:
    real, fake = Batch(samples(0)), Batch(samples(1))
    game = game_of(packing=2, regularizers={"r1": R1(1.0), "gp": GradientPenalty(1.0)})
    torch.manual_seed(0)
    terms = game.discriminator_terms(real, fake, 0)
    assert terms.outputs["real"].shape == (N // 2,)
    assert_close(terms.losses["r1"], 0.5 * slopes(real.x).view(-1, 2).sum(1).mean())
    torch.manual_seed(0)
    between = torch.lerp(fake.x, real.x, torch.rand(N // 2).double().repeat_interleave(2)[:, None])
    norms = slopes(between).view(-1, 2).sum(1).sqrt()
    assert_close(terms.losses["gp"], (norms - 1).square().mean())


def test_a_penalty_sees_what_the_critic_sees() -> None:
    """Through ``judge``, and with the gradient in the raw input: here the critic sees twice its input."""

    class Doubled(Game):
        def read(self, sample: Batch) -> Tensor:
            return super().read(sample._replace(x=2 * sample.x))

    real, fake = Batch(samples(0)), Batch(samples(1))
    terms = game_of(Doubled, regularizers={"r1": R1(1.0)}).discriminator_terms(real, fake, 0)
    assert_close(terms.losses["r1"], 0.5 * 4 * slopes(2 * real.x).mean())


class Spread(Regularizer):
    """-|x - mean x|^2 of generated samples."""

    def penalty(self, critic: CriticPass) -> Tensor:
        assert critic.real_logits is None
        return -(critic.fake.x - critic.fake.x.mean(0)).square().sum(1)


def test_the_generator_has_penalties_by_the_same_interface() -> None:
    game = game_of(generator_regularizers={"spread": Spread(0.5, interval=3)})
    fake = game.generate(torch.randn(N, 2, dtype=torch.double))
    terms = game.generator_terms(Batch(samples(0)), fake, 3).losses
    assert_close(terms["spread"], -0.5 * 3 * fake.x.var(0, correction=0).sum())
    terms["spread"].backward()
    assert game.generator.weight.grad is not None
    assert list(game.generator_terms(Batch(samples(0)), fake, 4).losses) == ["adversarial"]


class ByClass(nn.Module):
    """Adds a row of a table to its input, for its class."""

    conditional = True

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.table = nn.Parameter(torch.arange(4.0 * size, dtype=torch.double).view(4, size))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.network(x + embedding(y, self.table))


def test_conditional_networks_are_called_with_the_batchs_classes() -> None:
    y = torch.tensor([3, 0, 1, 2, 3, 3])
    game = Game(ByClass(nn.Linear(2, 3).double(), 2), ByClass(Critic(), 3), Normal(2), regularizers={"r1": R1(1.0)})
    assert game.is_conditional
    assert not game_of().is_conditional
    z = torch.randn(N, 2, dtype=torch.double)
    fake = game.generate(z, y)
    assert_close(fake.x, game.generator.network(z + game.generator.table[y]))
    assert fake.y is y
    assert fake.z is z
    real = Batch(samples(0), y)
    terms = game.discriminator_terms(real, fake, 0)
    seen = real.x + game.discriminator.table[y]
    assert_close(terms.losses["r1"], 0.5 * slopes(seen).mean())
    assert_close(terms.outputs["real"], critic(seen))


def test_an_instance_says_whether_it_is_conditional() -> None:
    class Never(ByClass):
        @property
        def conditional(self) -> bool:  # type: ignore[override]
            return False

    network = ByClass(nn.Linear(2, 2), 2)
    assert is_conditional(network)
    assert is_conditional(torch.compile(network))  # type: ignore[arg-type]
    assert not is_conditional(torch.compile(nn.Linear(2, 2)))  # type: ignore[arg-type]
    assert not is_conditional(Never(nn.Linear(2, 2), 2))
    network.conditional = False
    assert not is_conditional(network)


class Undeclared(Regularizer):
    """|grad D(x)|^2 + |grad D(G(z))|^2, without saying at what."""

    def penalty(self, critic: CriticPass) -> Tensor:
        return critic.gradient("real").square().sum(1) + critic.gradient("fake").square().sum(1)


@pytest.mark.parametrize("others", [{}, {"r1": R1(1.0)}, {"r2": R2(1.0)}])
def test_a_penalty_need_not_say_where_it_takes_gradients(others: dict[str, Regularizer]) -> None:
    real, fake = Batch(samples(0)), Batch(samples(1))
    terms = game_of(regularizers={"own": Undeclared(1.0), **others}).discriminator_terms(real, fake, 0).losses
    assert_close(terms["own"], (slopes(real.x) + slopes(fake.x)).mean())


def test_a_line_of_the_log_describes_the_logits() -> None:
    real, fake = torch.tensor([1.0, 2.0, -1.0, 3.0]), torch.tensor([-1.0, 0.0, 2.0, 1.0])
    described = game_of().describe({"real": real, "fake": fake})
    assert_close(described["discriminator/accuracy"], torch.tensor((3 / 4 + 2 / 4) / 2))
    assert_close(described["discriminator/real"], real.sigmoid().mean())
    assert_close(described["discriminator/fake"], fake.sigmoid().mean())
    assert_close(
        game_of(loss=losses.Wasserstein()).describe({"real": real, "fake": fake})["discriminator/real"], real.mean()
    )


class OwnPairs(Game):
    """D judges (G(z), z) and (x, E(x)), by a ``read`` of its own."""

    def read(self, sample: Batch) -> Tensor:
        z = sample.x[:, :2].tanh() if sample.z is None else sample.z
        return super().read(sample._replace(x=torch.cat([sample.x, z], 1)))


@pytest.mark.parametrize("is_samplewise", [True, False])
def test_an_own_game_reads_the_latents_that_only_fakes_have(is_samplewise: bool) -> None:
    torch.manual_seed(0)
    d = mlp.Discriminator((5,), [4]).double()
    d.samplewise = is_samplewise
    real, fake, z = samples(0), samples(1), samples(2)[:, :2]
    game = OwnPairs(nn.Linear(2, 3).double(), d, Normal(2))
    terms = game.discriminator_terms(Batch(real), Batch(fake, None, z), 0)
    f, r = d(torch.cat([fake, z], 1)), d(torch.cat([real, real[:, :2].tanh()], 1))
    assert_close(terms.losses["adversarial"], (softplus(-r) + softplus(f)).mean())


@pytest.mark.parametrize("loss", [losses.NonSaturating, losses.Relativistic])
def test_the_generator_has_a_penalty_at_its_samples_with_every_loss(loss: type[losses.Loss]) -> None:
    game = game_of(loss=loss(), generator_regularizers={"r2": R2(0.7)})
    fake = game.generate(torch.randn(N, 2, dtype=torch.double))
    terms = game.generator_terms(Batch(samples(0)), fake, 0).losses
    assert_close(terms["r2"], 0.7 / 2 * slopes(fake.x).mean())


@pytest.mark.parametrize("returned", [dict, tuple])
def test_a_discriminator_that_returns_no_tensor_is_refused(returned: type) -> None:
    class Wrapped(Critic):
        def forward(self, x: Tensor) -> Any:
            return returned([("logits", super().forward(x))])

    game = Game(nn.Linear(2, 3).double(), Wrapped(), Normal(2))
    sentence = f"The discriminator returns a {returned.__name__}: return one tensor of logits"
    with pytest.raises(UsageError, match=sentence):
        game.judge(Batch(samples(0)))


def test_penalties_without_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^regularizers is .*: give a dict of names, such as \{'r1': R1\(0\.1\)\}\."):
        game_of(regularizers=[R1(1.0)])


def test_what_a_network_is_given() -> None:
    assert Game.network_options("generator", (1, 8, 8), 10) == {"sample_shape": (1, 8, 8), "classes": 10}


PENALTIES: dict[str, tuple[dict[str, Regularizer], int]] = {  # with how many passes of D's loss they leave
    "none": ({}, 1),
    "both": ({"r1": R1(0.3), "r2": R2(0.7)}, 1),
    "elsewhere": ({"gp": GradientPenalty(1.0)}, 1),
    "on_real": ({"r1": R1(0.3)}, 2),
    "one_is_lazy": ({"r1": R1(0.3, interval=2), "r2": R2(0.7)}, 2),
}
SAMPLEWISE: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp.Discriminator((6,), [5, 4]),
    "several_outputs": lambda: mlp.Discriminator((6,), [5, 4], outputs=3),
    "projection": lambda: mlp.Discriminator((6,), [5, 4], classes=2, conditional=True),
    "joined": lambda: mlp.Discriminator((6,), [5, 4], classes=2, conditional=True, conditioning="joined"),
    "linear": lambda: linear.Discriminator((6,)),
    "maxout": lambda: pacgan.Discriminator((6,), 4),
}


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("network", SAMPLEWISE)
@pytest.mark.parametrize("loss", [losses.NonSaturating, losses.Relativistic])
def test_one_pass_over_real_and_fake_equals_two(network: str, penalties: str, loss: type[losses.Loss]) -> None:
    torch.manual_seed(0)
    discriminator = SAMPLEWISE[network]().double()
    regularizers, passes = PENALTIES[penalties]
    packing = 1 if is_conditional(discriminator) else 2
    sides = [torch.cat([samples(k)] * (3 - packing), 1) for k in (0, 1)]  # packs of two, or samples as large
    game = Game(nn.Identity(), discriminator, Normal(2), loss(), regularizers, packing=packing)
    y = torch.arange(N) % 2
    seen: list[Tensor] = []
    discriminator.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    found = []
    for is_one in (True, False):
        discriminator.samplewise = is_one
        discriminator.zero_grad()
        seen.clear()
        torch.manual_seed(1)
        terms = game.discriminator_terms(Batch(sides[0], y), Batch(sides[1], y, samples(2)), 1)
        torch.stack(list(terms.losses.values())).sum().backward()
        between = penalties == "elsewhere"
        assert len(seen) == (passes if is_one else 2) + between
        found.append((terms.losses, terms.outputs, [weight.grad for weight in discriminator.parameters()]))
    assert_close(*found)
    assert not is_samplewise(nn.Linear(2, 1))
    assert not is_samplewise(spectrally_normalized(mlp.Discriminator((2,), [3])))
