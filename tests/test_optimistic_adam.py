"""Optimistic Adam against algorithm 1 of Daskalakis et al. 2018 written out, and on the game in which Adam fails."""

import io
from functools import partial

import pytest
import torch
from helpers import GivenData, fit, small_gan
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.testing import assert_close

from gan_lightning.optim import OptimisticAdam


def by_hand(
    start: list[float], gradients: list[list[float]], lr: float, beta1: float, beta2: float, eps: float
) -> list[float]:
    """Algorithm 1, number by number."""
    theta, n = list(start), len(start)
    m, v, before = [0.0] * n, [0.0] * n, [0.0] * n
    for t, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(gradient):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            direction = m[i] / (1 - beta1**t) / ((v[i] / (1 - beta2**t)) ** 0.5 + eps)
            theta[i] += -2 * lr * direction + lr * before[i]
            before[i] = direction
    return theta


def parameters(*values: list[float]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(value, dtype=torch.double)) for value in values]


def descend(optimizer: Optimizer, gradients: list[list[Tensor]]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for gradient in gradients:
        for weight, slope in zip(weights, gradient, strict=True):
            weight.grad = slope.clone()
        optimizer.step()


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_fifty_steps_are_algorithm_1(betas: tuple[float, float], eps: float) -> None:
    weights = parameters([1.0, -2.0, 0.5], [3.0])
    gradients = [[torch.randn(3, dtype=torch.double), torch.randn(1, dtype=torch.double)] for _ in range(50)]
    descend(OptimisticAdam(weights, lr=0.03, betas=betas, eps=eps), gradients)
    flat = [torch.cat(gradient).tolist() for gradient in gradients]
    expected = torch.tensor(by_hand([1.0, -2.0, 0.5, 3.0], flat, 0.03, *betas, eps), dtype=torch.double)
    assert_close(torch.cat([w.detach() for w in weights]), expected, rtol=1e-12, atol=1e-12)


def test_constant_gradient_moves_as_adam_after_the_first_step() -> None:
    """Where d_t = d_{t-1} = 1, -2 lr + lr is Adam's -lr; the first step has no step before it."""
    (weight,) = weights = parameters([0.0])
    positions = []
    optimizer = OptimisticAdam(weights, lr=0.1, eps=0.0)
    for _ in range(4):
        descend(optimizer, [[torch.ones(1, dtype=torch.double)]])
        positions.append(weight.item())
    assert positions == pytest.approx([-0.2, -0.3, -0.4, -0.5], abs=1e-12)


def play(kind: type[Optimizer], steps: int) -> float:
    """The distance from the equilibrium of min_x max_y xy after simultaneous steps from (1, 1)."""
    x, y = parameters([1.0], [1.0])
    players = [kind([player], lr=0.1, betas=(0.0, 0.999)) for player in (x, y)]
    for _ in range(steps):
        x.grad, y.grad = y.detach().clone(), -x.detach()
        for player in players:
            player.step()
    return torch.hypot(x.detach(), y.detach()).item()


def test_on_the_bilinear_game_it_converges_and_adam_does_not() -> None:
    assert play(OptimisticAdam, 1500) < 1e-4
    assert play(Adam, 1500) > 2**0.5


def test_state_is_plain_and_goes_on_bit_for_bit() -> None:
    gradients = [[torch.randn(3, dtype=torch.double), torch.randn(1, dtype=torch.double)] for _ in range(20)]
    whole, first = parameters([1.0, -2.0, 0.5], [3.0]), parameters([1.0, -2.0, 0.5], [3.0])
    descend(OptimisticAdam(whole, lr=0.03), gradients)
    stopped = OptimisticAdam(first, lr=0.03)
    descend(stopped, gradients[:8])
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    second = parameters(*[weight.tolist() for weight in first])
    resumed = OptimisticAdam(second, lr=0.7)  # the saved rate holds
    resumed.load_state_dict(torch.load(file, weights_only=True))
    descend(resumed, gradients[8:])
    assert_close(second, whole, rtol=0, atol=0)


def test_groups_have_their_own_options_and_counts() -> None:
    gradients = [[torch.randn(1, dtype=torch.double)] for _ in range(6)]
    early, late = parameters([1.0], [1.0])
    optimizer = OptimisticAdam([early], lr=0.1)
    descend(optimizer, gradients[:2])
    optimizer.add_param_group({"params": [late], "lr": 0.2})
    descend(optimizer, [gradient * 2 for gradient in gradients[2:]])
    numbers = [gradient[0].tolist() for gradient in gradients]
    assert early.item() == pytest.approx(by_hand([1.0], numbers, 0.1, 0.9, 0.999, 1e-8)[0], abs=1e-12)
    assert late.item() == pytest.approx(by_hand([1.0], numbers[2:], 0.2, 0.9, 0.999, 1e-8)[0], abs=1e-12)


def test_parameters_without_a_gradient_stay() -> None:
    moved, still = parameters([1.0], [1.0])
    optimizer = OptimisticAdam([moved, still], lr=0.1)
    optimizer.step()
    assert (moved.item(), still.item()) == (1.0, 1.0)
    moved.grad = torch.ones(1, dtype=torch.double)
    optimizer.step()
    assert (moved.item(), still.item()) == (pytest.approx(0.8), 1.0)


def test_closure_is_called_with_gradients() -> None:
    (weight,) = weights = parameters([3.0])
    optimizer = OptimisticAdam(weights, lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert weight.item() == pytest.approx(2.8)


def test_it_trains_a_gan() -> None:
    """In the GAN's own steps the discriminator moves as algorithm 1 says: 2 lr in every weight at first."""
    gan = small_gan(
        generator_optimizer=partial(SGD, lr=0.1), discriminator_optimizer=partial(OptimisticAdam, lr=0.01, eps=0.0)
    )
    before = nn.utils.parameters_to_vector(gan.game.discriminator.parameters()).detach().clone()
    fit(gan, GivenData(torch.randn(1, 4, 2, dtype=torch.double), 4), 1)
    after = nn.utils.parameters_to_vector(gan.game.discriminator.parameters()).detach()
    assert_close((after - before).abs(), torch.full_like(before, 0.02))
