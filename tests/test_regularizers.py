"""The penalties against closed forms of a linear critic, exact Jacobians, and finite differences in the weights."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning.pytorch.callbacks import LambdaCallback
from scipy import stats
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.errors import UsageError
from gan_lightning.finite_difference import R1Finite, R2Finite
from gan_lightning.losses import Wasserstein
from gan_lightning.regularizers import (
    DRAGAN,
    R1,
    R2,
    CriticPass,
    GradientPenalty,
    Regularizer,
    WeightClipping,
    ZeroCentered,
    input_gradient,
)
from gan_lightning.replay import Replay
from gan_lightning.streams import Streams

PENALTIES = [R1, R2, GradientPenalty, ZeroCentered, DRAGAN]
FINITE = [R1Finite, R2Finite]  # whose derivative is held to R1's and R2's in test_finite_difference.py
TO_ONE = (GradientPenalty, DRAGAN)  # whose norm is to be one


class Linear(nn.Module):
    """l(x) = w . x"""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


class Smooth(nn.Module):
    """A small critic without kinks, in double precision, that remembers what it was last shown."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.layers(x.flatten(1)).squeeze(1)


def critic_pass(critic: nn.Module, real: Tensor, fake: Tensor) -> CriticPass:
    """What the discriminator's update hands to its penalties."""
    real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
    replays = {name: Replay(critic, real.device) for name in ("real", "fake")}
    logits = critic(real), critic(fake)
    return CriticPass(Batch(real), Batch(fake), *logits, lambda batch: critic(batch.x), replays=replays)


def batches(*shape: int) -> tuple[Tensor, Tensor]:
    real, fake = torch.randn(2, *shape, dtype=torch.double)
    return real, fake


def squared_norms(critic: nn.Module, inputs: Tensor) -> Tensor:
    """|d l / d x|^2 of every sample, one Jacobian at a time."""
    jacobian = vmap(jacrev(lambda x: critic(x[None])[0]))(inputs.detach())
    return jacobian.flatten(1).square().sum(1).detach()


@pytest.mark.parametrize("shape", [(6, 4), (6, 1, 2, 2)])
def test_closed_forms_of_a_linear_critic(shape: tuple[int, ...]) -> None:
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.double)
    critic = critic_pass(Linear(weight), *batches(*shape))
    squared = 1.0 + 4.0 + 0.25 + 9.0
    ones = torch.ones(6, dtype=torch.double)
    assert_close(R1(1.0)(critic), ones * squared / 2, rtol=0, atol=1e-12)
    assert_close(R2(1.0)(critic), ones * squared / 2, rtol=0, atol=1e-12)
    assert_close(GradientPenalty(1.0)(critic), ones * (math.sqrt(squared) - 1) ** 2, rtol=0, atol=1e-12)
    assert_close(DRAGAN(1.0)(critic), ones * (math.sqrt(squared) - 1) ** 2, rtol=0, atol=1e-12)
    assert_close(ZeroCentered(1.0)(critic), ones * squared, rtol=0, atol=1e-12)
    assert_close(R1Finite(1.0)(critic), ones[0] * squared / 2, rtol=0, atol=1e-10)  # of the batch
    assert_close(R2Finite(1.0)(critic), ones[0] * squared / 2, rtol=0, atol=1e-10)  # of the batch


@pytest.mark.parametrize("penalty", PENALTIES)
def test_against_jacobians(penalty: type[Regularizer]) -> None:
    net = Smooth(12)
    critic = critic_pass(net, *batches(7, 3, 2, 2))
    value = penalty(2.5)(critic)
    if penalty in TO_ONE:
        expected = 2.5 * (squared_norms(net, net.seen).sqrt() - 1).square()
    elif penalty is ZeroCentered:
        expected = 2.5 * squared_norms(net, net.seen)
    else:
        expected = 2.5 / 2 * squared_norms(net, (critic.real if penalty is R1 else critic.fake).x)
    assert value.shape == (7,)
    assert_close(value.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_gradient_in_the_critics_weights(penalty: type[Regularizer]) -> None:
    """The second derivative that trains the critic, against central differences."""
    net, (real, fake) = Smooth(3), batches(5, 3)

    def loss() -> Tensor:
        torch.manual_seed(1)  # the gradient penalty's points between real and fake
        return penalty(1.0)(critic_pass(net, real, fake)).mean()

    weights = [p for p in net.parameters() if p.dim() == 2]
    for weight, gradient in zip(weights, torch.autograd.grad(loss(), weights), strict=True):
        assert gradient.abs().max() > 1e-4
        assert_close(gradient, central_differences(loss, weight), rtol=1e-6, atol=1e-9)


def central_differences(loss: Callable[[], Tensor], weight: Tensor, h: float = 1e-5) -> Tensor:
    """d loss / d weight, one entry at a time."""
    flat, slopes = weight.data.view(-1), []
    for i, value in enumerate(flat.tolist()):
        flat[i] = value + h
        above = loss().item()
        flat[i] = value - h
        below = loss().item()
        flat[i] = value
        slopes.append((above - below) / (2 * h))
    return torch.tensor(slopes, dtype=weight.dtype).view_as(weight)


def test_each_penalty_looks_at_its_own_side() -> None:
    net, (real, fake) = Smooth(2), batches(4, 2)
    here, there = critic_pass(net, real, fake), critic_pass(net, real, fake + 1)
    assert torch.equal(R1(1.0)(here), R1(1.0)(there))
    assert not torch.allclose(R2(1.0)(here), R2(1.0)(there))
    moved = critic_pass(net, real + 1, fake)
    assert torch.equal(R2(1.0)(here), R2(1.0)(moved))
    assert not torch.allclose(R1(1.0)(here), R1(1.0)(moved))


@pytest.mark.parametrize("penalty", [GradientPenalty, ZeroCentered])
def test_penalties_on_interpolates_look_uniformly_between_the_pairs(penalty: type[Regularizer]) -> None:
    """One share for all the features of a sample, uniform over the samples (1.63/sqrt(n): the 1 % bound)."""
    n = 4000
    net, (real, fake) = Smooth(12), batches(n, 3, 2, 2)
    penalty(1.0)(critic_pass(net, real, fake))
    shares = ((net.seen.detach() - fake) / (real - fake)).flatten(1)
    median = shares.median(1, keepdim=True).values
    # (real - fake) may be small, and the quotient as inexact as its inverse
    assert_close(fake.flatten(1) + median * (real - fake).flatten(1), net.seen.detach().flatten(1), rtol=0, atol=1e-9)
    assert stats.kstest(median.squeeze(1).numpy(), "uniform").statistic < 1.63 / math.sqrt(n)


def test_dragan_looks_around_real_data() -> None:
    """x + a s u / 2: of a quadratic critic, l = |x|^2 / 2, the gradient is the place itself."""
    real = 3.0 * torch.randn(50, 2, 2, dtype=torch.double)
    critic = critic_pass(Quadratic(), real, torch.zeros_like(real))
    torch.manual_seed(1)
    value = DRAGAN(1.0)(critic)
    torch.manual_seed(1)
    draw = torch.rand(50, 5).double()
    std = (real - real.mean()).square().mean().sqrt()
    place = real.flatten(1) + 0.5 * std * draw[:, :1] * draw[:, 1:]
    assert_close(value.detach(), (place.norm(dim=1) - 1).square(), rtol=1e-12, atol=1e-12)


class Quadratic(nn.Module):
    """l(x) = |x|^2 / 2"""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1) / 2


def test_gradient_penalty_trains_nothing_but_the_critic() -> None:
    critic = critic_pass(Smooth(2), *batches(4, 2))
    value = GradientPenalty(1.0)(critic).sum()
    assert torch.autograd.grad(value, [critic.real.x, critic.fake.x], allow_unused=True) == (None, None)


def test_gradient_penalty_of_a_flat_critic_is_one_and_differentiable() -> None:
    net = Linear(torch.zeros(3, dtype=torch.double))
    value = GradientPenalty(1.0)(critic_pass(net, *batches(4, 3)))
    assert_close(value.detach(), torch.ones(4, dtype=torch.double))
    value.sum().backward()
    assert net.weight.grad is not None
    assert net.weight.grad.isfinite().all()


def test_input_gradient_is_per_sample() -> None:
    x = torch.randn(5, 2, 3, dtype=torch.double, requires_grad=True)
    assert_close(input_gradient(x.pow(3).sum((1, 2)), x), (3 * x**2).flatten(1))


def test_of_several_logits_a_sample_the_gradient_is_of_their_mean() -> None:
    """As a discriminator gives one for each patch: here of the two halves of a sample."""
    x = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    logits = x.pow(2).unflatten(1, (2, 2)).sum(2).flatten()
    assert logits.shape == (10,)
    assert_close(input_gradient(logits, x), x)


@pytest.mark.parametrize("penalty", PENALTIES + FINITE)
def test_of_several_logits_a_pack_penalties_are_of_the_gradient_of_their_mean(penalty: type[Regularizer]) -> None:
    """Six logits for each of two packs of two samples, against one that is their mean."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Unflatten(0, (2, 2)), nn.Flatten(), nn.Linear(6, 6), nn.Tanh()).double()

    def found(critic: nn.Module) -> Tensor:
        torch.manual_seed(1)  # for the penalties that draw
        return penalty(1.0)(replace(critic_pass(critic, *batches(4, 3)), packing=2)).mean()

    one = nn.Sequential(layers, nn.AvgPool1d(6), nn.Flatten(0))
    assert_close(found(nn.Sequential(layers, nn.Flatten(0))), found(one))


@pytest.mark.parametrize("penalty", PENALTIES + FINITE)
@pytest.mark.parametrize("interval", [1, 3, 16])
def test_an_interval_keeps_the_mean_strength(penalty: type[Regularizer], interval: int) -> None:
    critic = critic_pass(Linear(torch.tensor([3.0, 4.0])), torch.randn(2, 2), torch.randn(2, 2))
    lazy, eager = penalty(0.7, interval), penalty(0.7)
    updates = range(3 * interval)
    assert [u for u in updates if lazy.is_due(u)] == [0, interval, 2 * interval]
    total = sum(lazy(critic) for u in updates if lazy.is_due(u))
    assert_close(total, len(updates) * eager(critic))


@pytest.mark.parametrize("penalty", PENALTIES + FINITE)
def test_impossible_settings_are_refused(penalty: type[Regularizer]) -> None:
    with pytest.raises(ValueError, match=r"weight is -0\.1"):
        penalty(-0.1)
    with pytest.raises(ValueError, match="interval is 0"):
        penalty(1.0, 0)


@pytest.mark.parametrize("bare", [True, False])
def test_weights_are_clipped_after_each_step_of_the_player(bare: bool) -> None:
    """Against plain descent on the Wasserstein loss, by both of Player's ways."""
    rounds, lr, limit = torch.randn(4, 6, 2, dtype=torch.double), 0.1, 0.05
    clipping = {"clipping": WeightClipping(limit)}
    gan = small_gan(loss=Wasserstein(), regularizers=clipping, order="simultaneous", reuse_fakes=True)
    d, g = copy.deepcopy(gan.game.discriminator), copy.deepcopy(gan.game.generator)
    streams = Streams(torch.initial_seed(), 0, 1, torch.device("cpu"))
    for step, real in enumerate(rounds):
        streams.begin(step)
        fake = g(gan.game.prior.sample(6, streams.generator).double())
        of_g = torch.autograd.grad(-d(fake).mean(), [*g.parameters()])
        of_d = torch.autograd.grad(d(fake.detach()).mean() - d(real).mean(), [*d.parameters()])
        with torch.no_grad():
            for weight, slope in zip(g.parameters(), of_g, strict=True):
                weight -= lr * slope
            for weight, slope in zip(d.parameters(), of_d, strict=True):
                weight.copy_((weight - lr * slope).clamp(-limit, limit))
    listener = LambdaCallback(on_before_backward=lambda *_: None)
    fit(gan, GivenData(rounds, 6), 4, callbacks=[] if bare else [listener])
    assert gan.round.d.is_bare == bare
    assert_close(gan.game.discriminator.state_dict(), d.state_dict(), rtol=1e-12, atol=1e-12)
    assert_close(gan.game.generator.state_dict(), g.state_dict(), rtol=1e-12, atol=1e-12)
    assert max(weight.abs().max().item() for weight in gan.game.discriminator.parameters()) == limit
    assert max(weight.abs().max().item() for weight in gan.game.generator.parameters()) > limit


@pytest.mark.parametrize("kind", [*PENALTIES, *FINITE])
def test_the_generator_has_only_penalties_that_depend_on_it(kind: type[Regularizer]) -> None:
    refused = kind not in (R2, R2Finite)
    match = (
        rf"^{kind.__name__} penalizes the discriminator's gradient at points that the generator's weights do not move"
    )
    with pytest.raises(UsageError, match=match) if refused else nullcontext():
        gan = small_gan(generator_regularizers={"penalty": kind(1.0)})
        z = torch.randn(5, 3, dtype=torch.double)
        fake = gan.game.generate(z)
        terms = gan.game.generator_terms(Batch(torch.randn(5, 2, dtype=torch.double)), fake, 0)
        slopes = torch.autograd.grad(terms.losses["penalty"], [*gan.game.generator.parameters()])
        assert max(slope.abs().max() for slope in slopes) > 1e-6
    assert small_gan(regularizers={"penalty": kind(1.0)})


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        WeightClipping(0)


def test_a_regularizer_without_a_penalty_says_so() -> None:
    with pytest.raises(TypeError, match="Regularizer must define its penalty"):
        Regularizer(1.0)(critic_pass(Smooth(2), *batches(2, 2)))


def test_a_regularizer_may_define_what_follows_a_step_alone() -> None:
    class Rounding(Regularizer):
        def after_step(self, weights: Sequence[Tensor]) -> None:
            for weight in weights:
                weight.data.mul_(8).round_().div_(8)

    gan = small_gan(regularizers={"rounding": Rounding(0.0)})
    fit(gan, GivenData(torch.randn(4, 8, 2, dtype=torch.double), 8), 2)
    weights = torch.cat([weight.flatten() for weight in gan.game.discriminator.parameters()])
    assert weights.unique().numel() > 1
    assert (8 * weights).frac().eq(0).all()
