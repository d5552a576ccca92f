"""The losses against formulas written out in Python's math, torch's own BCE, and what theory says of the optimum."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torch.testing import assert_close

from gan_lightning.losses import (
    Cooperative,
    Hinge,
    LeastSquares,
    Loss,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
)
from gan_lightning.validation import equilibrium

LOSSES = [NonSaturating, Minimax, Cooperative, LeastSquares, Wasserstein, Hinge, Relativistic]
SMOOTHED = [NonSaturating, Minimax, Cooperative, LeastSquares]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


# (real logit, fake logit) of one sample -> L_D and L_G
BY_HAND: dict[type[Loss], tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    NonSaturating: (
        lambda r, f: -math.log(sigmoid(r)) - math.log(1 - sigmoid(f)),
        lambda r, f: -math.log(sigmoid(f)),
    ),
    Minimax: (
        lambda r, f: -math.log(sigmoid(r)) - math.log(1 - sigmoid(f)),
        lambda r, f: math.log(1 - sigmoid(f)),
    ),
    Cooperative: (
        lambda r, f: -math.log(sigmoid(r)) - math.log(1 - sigmoid(f)),
        lambda r, f: -math.log(1 - sigmoid(f)),
    ),
    LeastSquares: (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda r, f: (f - 1) ** 2 / 2),
    Wasserstein: (lambda r, f: f - r, lambda r, f: -f),
    Hinge: (lambda r, f: max(0.0, 1 - r) + max(0.0, 1 + f), lambda r, f: -f),
    Relativistic: (lambda r, f: -math.log(sigmoid(r - f)), lambda r, f: -math.log(sigmoid(f - r))),
}


def random_logits(n: int = 64) -> tuple[Tensor, Tensor]:
    """Real and fake logits on both sides of every kink."""
    real, fake = 3 * torch.randn(2, n, dtype=torch.double)
    return real, fake


def generator_gradient(loss: Loss, logit: float) -> float:
    """d L_G / d l at one fake logit."""
    fake = torch.tensor([logit], dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss.generator(real_logits=None, fake_logits=fake).sum(), fake)
    return gradient.item()


@pytest.mark.parametrize("loss", LOSSES)
def test_formula_of_every_sample(loss: type[Loss]) -> None:
    real, fake = random_logits()
    pairs = list(zip(real.tolist(), fake.tolist(), strict=True))
    for role, by_hand in zip((loss().discriminator, loss().generator), BY_HAND[loss], strict=True):
        expected = torch.tensor([by_hand(r, f) for r, f in pairs], dtype=torch.double)
        assert_close(role(real_logits=real, fake_logits=fake), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [NonSaturating, Minimax])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_discriminator_is_binary_cross_entropy_with_soft_targets(loss: type[NonSaturating], smoothing: float) -> None:
    real, fake = random_logits()
    expected = binary_cross_entropy_with_logits(
        real, torch.full_like(real, 1 - smoothing), reduction="none"
    ) + binary_cross_entropy_with_logits(fake, torch.zeros_like(fake), reduction="none")
    actual = loss(label_smoothing=smoothing).discriminator(real_logits=real, fake_logits=fake)
    assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", SMOOTHED)
def test_smoothing_leaves_the_generators_target_alone(loss: type[NonSaturating | LeastSquares]) -> None:
    fake = random_logits()[1]
    actual = loss(label_smoothing=0.3).generator(real_logits=None, fake_logits=fake)
    expected = torch.tensor([BY_HAND[loss][1](0.0, f) for f in fake.tolist()], dtype=torch.double)
    assert_close(actual, expected, rtol=0, atol=1e-12)


def test_generators_losses_are_log_sigmoids() -> None:
    real, fake = random_logits()
    roles = {"real_logits": real, "fake_logits": fake}
    assert_close(NonSaturating().generator(**roles), -logsigmoid(fake), rtol=0, atol=1e-12)
    assert_close(Minimax().generator(**roles), logsigmoid(-fake), rtol=0, atol=1e-12)
    assert_close(Relativistic().generator(**roles), -logsigmoid(fake - real), rtol=0, atol=1e-12)


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.5, 0.99])
def test_gradient_factors_of_the_generator(probability: float) -> None:
    """-D where the loss saturates, -(1 - D) where it does not: -.01 and -.99 at D = .01."""
    logit = math.log(probability / (1 - probability))
    assert generator_gradient(Minimax(), logit) == pytest.approx(-probability, abs=1e-12)
    assert generator_gradient(NonSaturating(), logit) == pytest.approx(-(1 - probability), abs=1e-12)


@pytest.mark.parametrize("logit", [-2.0, 0.5, 3.0])
def test_gradient_factors_of_the_other_generators(logit: float) -> None:
    assert generator_gradient(Wasserstein(), logit) == -1.0
    assert generator_gradient(Hinge(), logit) == -1.0
    assert generator_gradient(LeastSquares(), logit) == pytest.approx(logit - 1.0, abs=1e-12)


def test_values_at_equilibrium() -> None:
    zero = torch.zeros(3, dtype=torch.double)
    roles = {"real_logits": zero, "fake_logits": zero}
    log2 = torch.full_like(zero, math.log(2))
    for loss in (NonSaturating(), Minimax()):
        assert_close(loss.discriminator(**roles), 2 * log2, rtol=0, atol=1e-12)
    assert_close(NonSaturating().generator(**roles), log2, rtol=0, atol=1e-12)
    assert_close(Minimax().generator(**roles), -log2, rtol=0, atol=1e-12)
    assert_close(Relativistic().discriminator(**roles), log2, rtol=0, atol=1e-12)
    assert_close(Relativistic().generator(**roles), log2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_finite_at_extreme_logits(loss: type[Loss], sign: float) -> None:
    real = torch.tensor([sign * 1e4], requires_grad=True)
    fake = torch.tensor([-sign * 1e4], requires_grad=True)
    for role in (loss().discriminator, loss().generator):
        value = role(real_logits=real, fake_logits=fake)
        gradients = torch.autograd.grad(value.sum(), [real, fake], allow_unused=True)
        assert value.isfinite().all()
        assert all(g.isfinite().all() for g in gradients if g is not None)


def test_a_fooled_discriminator_pays_its_logits() -> None:
    roles = {"real_logits": torch.tensor([-1e4]), "fake_logits": torch.tensor([1e4])}
    assert_close(NonSaturating().discriminator(**roles), torch.tensor([2e4]))
    assert_close(Relativistic().discriminator(**roles), torch.tensor([2e4]))
    assert_close(Minimax().generator(**roles), torch.tensor([-1e4]))


@pytest.mark.parametrize("loss", SMOOTHED)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.2, 1.3), (2.0, 0.1)])
def test_optimal_discriminator(loss: type[NonSaturating | LeastSquares], smoothing: float, p: float, q: float) -> None:
    """Where data has density p and G has q, L_D has its minimum at D* = (1 - s) p / (p + q)."""
    optimum = torch.tensor((1 - smoothing) * p / (p + q), dtype=torch.double)
    logit = optimum if loss is LeastSquares else optimum.logit()

    def gradient_at(logit: Tensor) -> float:
        real, fake = (logit.clone().requires_grad_() for _ in range(2))
        value = loss(label_smoothing=smoothing).discriminator(real_logits=real, fake_logits=fake)
        of_real, of_fake = torch.autograd.grad(value, [real, fake])
        return (p * of_real + q * of_fake).item()

    if p == q:
        assert loss(label_smoothing=smoothing).threshold == pytest.approx(logit.item(), abs=1e-12)
    assert gradient_at(logit) == pytest.approx(0.0, abs=1e-12)
    assert gradient_at(logit - 0.01) < -1e-4
    assert gradient_at(logit + 0.01) > 1e-4


def test_the_optimal_discriminators_loss_measures_the_jensen_shannon_divergence() -> None:
    """C(G) = -L_D(D*) = -log 4 + 2 JSD(p, q) (Goodfellow et al. 2014, theorem 1)."""
    p, q = torch.rand(2, 10, dtype=torch.double)
    p, q = p / p.sum(), q / q.sum()
    logits = (p / (p + q)).logit()
    zero = torch.zeros(10, dtype=torch.double)
    # the loss of logit 0 is log 2: taken off, the sum splits into its two halves
    half = NonSaturating().discriminator(real_logits=logits, fake_logits=zero) - math.log(2)
    other_half = NonSaturating().discriminator(real_logits=zero, fake_logits=logits) - math.log(2)
    value = -(p * half + q * other_half).sum()
    divergence = jensenshannon(p.numpy(), q.numpy()) ** 2
    assert value.item() == pytest.approx(-math.log(4) + 2 * divergence, abs=1e-12)


def test_hinge_rests_beyond_its_margin() -> None:
    real = torch.tensor([0.5, 1.5], requires_grad=True)
    fake = torch.tensor([-0.5, -1.5], requires_grad=True)
    value = Hinge().discriminator(real_logits=real, fake_logits=fake).sum()
    of_real, of_fake = torch.autograd.grad(value, [real, fake])
    assert of_real.tolist() == [-1.0, 0.0]
    assert of_fake.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_relativistic_generator_needs_real_logits(loss: type[Loss]) -> None:
    assert loss.generator_needs_real == (loss is Relativistic)
    fake = torch.randn(4)
    if not loss.generator_needs_real:
        without = loss().generator(real_logits=None, fake_logits=fake)
        assert torch.equal(without, loss().generator(real_logits=torch.randn(4), fake_logits=fake))


@pytest.mark.parametrize("loss", LOSSES)
def test_discriminator_improves_with_real_up_and_fake_down(loss: type[Loss]) -> None:
    """All the losses agree on which side is real; the threshold lies between the two sides."""
    middle = torch.tensor([loss.threshold])
    separated = loss().discriminator(real_logits=middle + 0.1, fake_logits=middle - 0.1)
    confused = loss().discriminator(real_logits=middle - 0.1, fake_logits=middle + 0.1)
    assert separated < confused


@pytest.mark.parametrize("loss", LOSSES)
def test_output_is_a_probability_only_for_classifiers(loss: type[Loss]) -> None:
    logits = torch.randn(5, requires_grad=True)
    classifies = loss in (NonSaturating, Minimax, Cooperative)
    assert loss.is_probability is classifies
    expected = 1 / (1 + (-logits).exp()) if classifies else logits
    assert_close(loss().output(logits).detach(), expected.detach())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_value_at_the_equilibrium(smoothing: float) -> None:
    """E log D + E log(1 - D) where D is optimal for equal densities."""
    d = (1 - smoothing) / 2
    assert equilibrium(NonSaturating(smoothing)) == pytest.approx(math.log(d) + math.log1p(-d), rel=1e-12)
    assert equilibrium(NonSaturating(smoothing)) == pytest.approx(-math.log(4) + math.log(1 - smoothing**2), rel=1e-12)


def test_thresholds() -> None:
    """The logit halfway between the targets 0 and 1 for least squares, 0 for all others."""
    assert [loss.threshold for loss in LOSSES] == [0.5 if loss is LeastSquares else 0.0 for loss in LOSSES]


@pytest.mark.parametrize("loss", SMOOTHED)
@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_label_smoothing_out_of_range_is_refused(loss: type[NonSaturating], smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"loss\.label_smoothing is {smoothing}"):
        loss(label_smoothing=smoothing)


def test_a_loss_without_a_formula_says_so() -> None:
    class Empty(Loss):
        pass

    with pytest.raises(TypeError, match="Empty must define the discriminator's loss"):
        Empty().discriminator(real_logits=torch.zeros(1), fake_logits=torch.zeros(1))
    with pytest.raises(TypeError, match="Empty must define the generator's loss"):
        Empty().generator(real_logits=None, fake_logits=torch.zeros(1))
