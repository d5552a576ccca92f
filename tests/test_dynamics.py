"""The real GAN with networks of one parameter, against the closed forms of the games that it then plays."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from gan_lightning import dynamics, losses
from gan_lightning.dynamics import trajectory
from gan_lightning.regularizers import R1, R2, GradientPenalty, Regularizer

H = 0.2
START = (1.2, -1.1)  # the first hinge step is flat for D and later ones are not; |psi| is on both sides of 1
ORDERS = ("discriminator_first", "generator_first", "simultaneous")

# dL_D/dl and dL_G/dl at the generated sample's logit l = psi theta; the real logit is 0 and has no slope in psi
SLOPES = {
    losses.NonSaturating: (lambda t: 1 / (1 + (-t).exp()), lambda t: -1 / (1 + t.exp())),
    losses.Minimax: (lambda t: 1 / (1 + (-t).exp()), lambda t: -1 / (1 + (-t).exp())),
    losses.LeastSquares: (lambda t: t, lambda t: t - 1),
    losses.Wasserstein: (torch.ones_like, lambda t: -torch.ones_like(t)),
    losses.Hinge: (lambda t: (t > -1).double(), lambda t: -torch.ones_like(t)),
    losses.Relativistic: (lambda t: 1 / (1 + (-t).exp()), lambda t: -1 / (1 + t.exp())),
}
# d penalty / d psi: psi^2/2 for R1 and R2, (|psi| - 1)^2 for the gradient penalty
PENALTIES: dict[type[Regularizer], Callable[[Tensor], Tensor]] = {
    R1: lambda psi: psi,
    R2: lambda psi: psi,
    GradientPenalty: lambda psi: 2 * (psi - psi.sign()),
}


def next_states(
    states: Tensor, loss: type[losses.Loss], order: str, reuse: bool = False, weights: dict[Any, float] | None = None
) -> Tensor:
    """Where one round takes each (theta, psi), (n, 2)."""
    slope_d, slope_g = SLOPES[loss]
    theta, psi = states.unbind(1)

    def stepped_psi(theta: Tensor) -> Tensor:
        penalty = sum(weight * PENALTIES[kind](psi) for kind, weight in (weights or {}).items())
        return psi - H * (theta * slope_d(psi * theta) + penalty)

    def stepped_theta(psi: Tensor) -> Tensor:
        return theta - H * psi * slope_g(psi * theta)

    if order == "discriminator_first":
        new_psi = stepped_psi(theta)
        return torch.stack((stepped_theta(new_psi), new_psi), 1)
    new_theta = stepped_theta(psi)
    # generator first on shared samples is simultaneous descent
    is_alternating = order == "generator_first" and not reuse
    return torch.stack((new_theta, stepped_psi(new_theta if is_alternating else theta)), 1)


def assert_follows(states: Tensor, expected: Tensor) -> None:
    assert states.dtype == torch.double
    assert states[0].tolist() == list(START)
    assert_close(states[1:], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", list(SLOPES))
@pytest.mark.parametrize(("order", "reuse"), list(product(ORDERS, (False, True))))
def test_every_loss_in_every_order_follows_its_map(loss: type[losses.Loss], order: str, reuse: bool) -> None:
    states = trajectory(loss(), 15, H, START, order=order, reuse_fakes=reuse)
    assert_follows(states, next_states(states[:-1], loss, order, reuse))


def test_the_start_shows_both_sides_of_the_hinge() -> None:
    states = trajectory(losses.Hinge(), 15, H, START)
    logits = states.prod(1)
    assert logits.min() < -1 < logits.max()


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (losses.Minimax, {R1: 0.3}),
        (losses.NonSaturating, {R2: 0.4}),
        (losses.Wasserstein, {GradientPenalty: 0.5}),
        (losses.LeastSquares, {R1: 0.1, R2: 0.2, GradientPenalty: 0.1}),
    ],
    ids=["R1", "R2", "gradient penalty", "all"],
)
@pytest.mark.parametrize(("order", "reuse"), list(product(ORDERS, (False, True))))
def test_every_penalty_in_every_order_follows_its_map(
    loss: type[losses.Loss], order: str, reuse: bool, weights: dict[Any, float]
) -> None:
    regularizers = {kind.__name__: kind(weight) for kind, weight in weights.items()}
    states = trajectory(loss(), 15, H, START, order=order, reuse_fakes=reuse, regularizers=regularizers)
    assert_follows(states, next_states(states[:-1], loss, order, reuse, weights))


# ----------------------------------------------------------------------------------------------- Dirac-GAN


@pytest.mark.parametrize("loss", [losses.Minimax, losses.NonSaturating])
def test_simultaneous_descent_steps_along_the_paper_s_field(loss: type[losses.Loss]) -> None:
    states = trajectory(loss(), 15, H, START, order="simultaneous")
    paper = states * torch.tensor([1.0, -1.0])  # its psi is minus the discriminator's weight
    theta, psi = paper[:-1].T
    field = dynamics.dirac_field(theta, psi, non_saturating=loss is losses.NonSaturating)
    assert_close(paper.diff(dim=0), H * field.T, rtol=0, atol=1e-12)


def test_simultaneous_descent_leaves_the_circle_by_its_factor() -> None:
    states = trajectory(losses.Minimax(), 100, H, order="simultaneous")
    theta, psi = states[:-1].T
    squares = states.square().sum(1)
    assert_close(squares[1:] / squares[:-1], dynamics.dirac_growth(theta, -psi, H), rtol=0, atol=1e-12)
    near = trajectory(losses.Minimax(), 1, H, (1e-6, 1e-6), order="simultaneous").norm(dim=1)
    assert_close((near[1] / near[0]).item(), 1.004988, rtol=0, atol=5e-7)


def jacobian_at_zero(**gan_options: Any) -> Tensor:
    """The Jacobian of one round in (theta, psi) at the equilibrium, from rounds that start beside it."""
    beside = 1e-6  # the maps are odd: what the difference misses is of the order of its square
    starts = ((beside, 0.0), (0.0, beside))
    return torch.stack([trajectory(h=H, steps=1, start=start, **gan_options)[1] / beside for start in starts], 1)


@pytest.mark.parametrize("kind", [R1, R2])
@pytest.mark.parametrize(("gamma", "contraction"), [(0.0, 1.004988), (0.3, 0.97468), (1.0, 0.9), (2.0, None)])
def test_contraction_at_the_equilibrium(kind: type[Regularizer], gamma: float, contraction: float | None) -> None:
    one_round = jacobian_at_zero(loss=losses.Minimax(), order="simultaneous", regularizers={"penalty": kind(gamma)})
    eigenvalues = dynamics.r1_eigenvalues(gamma)
    expected = torch.tensor([1 + H * value for value in eigenvalues])
    # trace and determinant, because at the critical gamma the eigenvalues coincide and are ill-conditioned
    assert_close(one_round.trace().item(), expected.sum().real.item(), rtol=0, atol=1e-6)
    assert_close(one_round.det().item(), expected.prod().real.item(), rtol=0, atol=1e-6)
    factor = max(dynamics.step_factor(value, H) for value in eigenvalues)
    spectral_radius = torch.linalg.eigvals(one_round).abs().max().item()
    assert_close(spectral_radius, factor, rtol=0, atol=1e-6)
    if contraction is not None:
        assert_close(factor, contraction, rtol=0, atol=5e-6)


@pytest.mark.parametrize("order", ["discriminator_first", "generator_first"])
@pytest.mark.parametrize("loss", [losses.Minimax, losses.NonSaturating, losses.Relativistic])
def test_alternating_descent_neither_shrinks_nor_grows_at_the_equilibrium(order: str, loss: type[losses.Loss]) -> None:
    eigenvalues = torch.linalg.eigvals(jacobian_at_zero(loss=loss(), order=order))
    assert_close(eigenvalues.abs(), torch.ones(2).double(), rtol=0, atol=1e-9)
    assert eigenvalues.imag.abs().min() > 0.09  # a rotation by h f'(0) = .1 and not the identity


def test_oscillation_ends_at_the_critical_gamma() -> None:
    critical = dynamics.CRITICAL_GAMMA
    assert critical == 1.0
    assert all(value.imag != 0 for value in dynamics.r1_eigenvalues(critical - 1e-3))
    assert all(value.imag == 0 for value in dynamics.r1_eigenvalues(critical + 1e-3))


@pytest.mark.parametrize("non_saturating", [False, True])
def test_the_field_turns_about_the_equilibrium(non_saturating: bool) -> None:
    zero = torch.zeros((), dtype=torch.double)
    columns = jacobian(lambda theta, psi: dynamics.dirac_field(theta, psi, non_saturating), (zero, zero))
    eigenvalues = torch.linalg.eigvals(torch.stack(columns, 1))
    assert_close(eigenvalues.sum().abs().item(), 0.0)
    assert_close(eigenvalues.prod().real.item(), dynamics.SLOPE**2)  # +-i/2


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_instance_noise_eigenvalues(sigma: float) -> None:
    # noise of +-sigma, half and half, has the variance that matters at 0
    noise = torch.tensor([sigma, -sigma], dtype=torch.double)

    def value(state: Tensor) -> Tensor:
        theta, psi = state
        return logsigmoid(psi * (theta + noise)).mean() + logsigmoid(-psi * noise).mean()

    # theta descends and psi ascends
    field_s_jacobian = hessian(value, torch.zeros(2, dtype=torch.double)) * torch.tensor([[-1.0], [1.0]])
    expected = torch.tensor(dynamics.instance_noise_eigenvalues(sigma), dtype=torch.cdouble)
    eigenvalues = torch.linalg.eigvals(field_s_jacobian)
    assert_close(eigenvalues.sum(), expected.sum())
    assert_close(eigenvalues.prod(), expected.prod())
    assert eigenvalues.real.max() < 0


# from (1, 1), 500 rounds of step .2; alternating, the non-saturating loss does close in, but as 1/sqrt(steps): .28 here
ENDLESS: dict[str, dict[str, Any]] = {
    "minimax": {"loss": losses.Minimax()},
    "minimax, simultaneous": {"loss": losses.Minimax(), "order": "simultaneous"},
    "non-saturating": {"loss": losses.NonSaturating()},
    "non-saturating, simultaneous": {"loss": losses.NonSaturating(), "order": "simultaneous"},
    "WGAN": {"loss": losses.Wasserstein()},
    "WGAN, 5 critic steps": {"loss": losses.Wasserstein(), "critic_steps": 5},
    "WGAN-GP": {"loss": losses.Wasserstein(), "regularizers": {"gp": GradientPenalty(0.25)}},
    "WGAN-GP, stronger": {"loss": losses.Wasserstein(), "regularizers": {"gp": GradientPenalty(1.0)}},
}


@pytest.mark.parametrize("name", list(ENDLESS))
def test_without_a_zero_centered_penalty_no_convergence(name: str) -> None:
    assert trajectory(**ENDLESS[name])[-50:].norm(dim=1).min() > 0.25


@pytest.mark.parametrize("kind", [R1, R2])
@pytest.mark.parametrize("loss", [losses.Minimax, losses.Wasserstein])
@pytest.mark.parametrize("order", ["discriminator_first", "simultaneous"])
def test_zero_centered_penalties_converge(loss: type[losses.Loss], order: str, kind: type[Regularizer]) -> None:
    assert trajectory(loss(), order=order, regularizers={"penalty": kind(0.3)})[-50:].norm(dim=1).max() < 0.03


# -------------------------------------------------------------------- the game xy: x = psi, y = theta, Wasserstein


@pytest.mark.parametrize("eta", [0.1, 0.5])
def test_simultaneous_descent_on_xy_grows_by_its_factor(eta: float) -> None:
    radii = trajectory(losses.Wasserstein(), 100, eta, order="simultaneous").norm(dim=1)
    factor = torch.full((100,), dynamics.simultaneous_factor(eta), dtype=torch.double)
    assert_close(radii[1:] / radii[:-1], factor, rtol=0, atol=1e-12)
    assert_close(dynamics.simultaneous_factor(eta), math.sqrt(1 + eta * eta))


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("order", ["discriminator_first", "generator_first"])
def test_alternating_descent_on_xy_stays_on_an_ellipse(eta: float, order: str) -> None:
    y, x = trajectory(losses.Wasserstein(), 500, eta, order=order).T
    if order == "generator_first":  # y moves first: the same game in (y, -x)
        x, y = y, -x
    invariant = dynamics.alternating_invariant(x, y, eta)
    assert_close(invariant, invariant[:1].expand(501), rtol=0, atol=1e-10)
    # the form's smaller eigenvalue is 1 - eta/2
    assert (x.square() + y.square()).max() <= invariant[0] / (1 - eta / 2) + 1e-10


def factors(states: Tensor) -> Tensor:
    radii = states.norm(dim=1)
    return radii[1:] / radii[:-1]


@pytest.mark.parametrize("eta", [0.1, 0.5, 0.99, 1.01])
def test_extragradient_contracts_by_its_factor(eta: float) -> None:
    factor = dynamics.extragradient_factor(eta)
    expected = torch.full((50,), factor, dtype=torch.double)
    assert_close(factors(dynamics.extragradient(eta, 50)), expected, rtol=0, atol=1e-12)
    assert_close(factor, math.sqrt(1 - eta**2 + eta**4))
    assert (factor < 1) == (eta < 1)


@pytest.mark.parametrize("eta", [0.1, 0.57, 0.58])
def test_optimistic_roots_are_the_recursion_s_eigenvalues(eta: float) -> None:
    # z' = (1 + 2i eta) z - i eta z_before; the roots are of the game run the other way round, of the same modulus
    companion = torch.tensor([[1 - 2j * eta, 1j * eta], [1, 0]], dtype=torch.cdouble)
    expected = torch.linalg.eigvals(companion).abs().sort().values
    roots = torch.tensor(dynamics.optimistic_roots(eta), dtype=torch.cdouble).abs().sort().values
    assert_close(roots, expected)
    radii = dynamics.optimistic(eta, 3000).norm(dim=1)
    assert_close((radii[-1] / radii[-501]).item() ** (1 / 500), expected[-1].item(), rtol=0, atol=1e-6)


def test_optimistic_descent_converges_below_one_over_root_three_only() -> None:
    radius = [max(map(abs, dynamics.optimistic_roots(eta))) for eta in (0.57, 1 / math.sqrt(3), 0.58)]
    assert radius[0] < 1 < radius[2]
    assert_close(radius[1], 1.0)
    assert dynamics.optimistic(0.57, 3000)[-1].norm() < 1e-6
    assert dynamics.optimistic(0.58, 3000)[-1].norm() > 1e3


@pytest.mark.parametrize("eta", [0.1, 0.5, 3.0])
def test_proximal_step_contracts_by_its_factor(eta: float) -> None:
    implicit = torch.tensor([[1.0, eta], [-eta, 1.0]], dtype=torch.double)  # x' + eta y' = x, y' - eta x' = y
    ahead = torch.linalg.solve(implicit, torch.tensor([1.0, 1.0], dtype=torch.double))
    assert_close(ahead.norm().item() / math.sqrt(2), dynamics.proximal_factor(eta), rtol=0, atol=1e-12)
