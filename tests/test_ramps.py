"""Numbers that change over a run, each against its formula at every update."""

import math
from typing import Any

import pytest
import torch
from helpers import GivenData, Lines, fit, small_gan
from torch import Tensor, nn
from torch.testing import assert_close

from gan_lightning.ema import MovingAverage
from gan_lightning.errors import UsageError
from gan_lightning.regularizers import R1, R2
from gan_lightning.schedules import HalfLife, Ramp

N = 4


def rounds(n: int, samples: int = N) -> Tensor:
    return torch.randn(n, samples, 2, generator=torch.Generator().manual_seed(7), dtype=torch.double)


def formula(initial: float, final: float, steps: int, step: int) -> float:
    """The released code's cosine_decay_with_warmup, in updates instead of images and without its warm-up."""
    decay = 0.5 * (1 + math.cos(math.pi * step / steps))
    return final if step > steps else initial + (1 - decay) * (final - initial)


def test_a_ramp_at_its_landmarks() -> None:
    ramp = Ramp(1.0, 0.1, 12)
    values = {0: 1.0, 4: 0.1 + 0.9 * 0.75, 6: 0.55, 8: 0.1 + 0.9 * 0.25, 12: 0.1, 13: 0.1, 10**9: 0.1}
    assert [ramp.at(step) for step in values] == pytest.approx(list(values.values()), abs=1e-15)
    assert [Ramp(0.0, 2.0, 1).at(step) for step in (0, 1, 2)] == [0, 2, 2]


@pytest.mark.parametrize(("initial", "final"), [(0.05, 0.005), (0.9, 0.99), (0.0, 5e6), (3.0, 3.0)])
def test_a_ramp_is_the_released_codes(initial: float, final: float) -> None:
    ramp = Ramp(initial, final, 7)
    assert float(ramp) == initial
    for step in range(12):
        ramp.step = step
        assert float(ramp) == pytest.approx(formula(initial, final, 7, step), rel=1e-12)
    assert not ramp.state_dict()


def test_half_as_much_after_the_half_life_whatever_the_batch() -> None:
    for n in (1, 64, 1000):
        assert HalfLife(1000)(n) ** (1000 / n) == pytest.approx(0.5, rel=1e-12)
    assert HalfLife(0)(64) == 0.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ramp(-1, 1, 3), "A ramp's initial value is -1: give a number of at least 0."),
        (lambda: Ramp(1, -0.5, 3), "A ramp's final value is -0.5: give a number of at least 0."),
        (lambda: Ramp(1, 1, 0), "A ramp takes 0 steps: give a whole number of generator updates, at least 1."),
        (lambda: Ramp(1, 1, None), "A ramp takes None steps: give a whole number of generator updates"),  # type: ignore[arg-type]
        (lambda: HalfLife(-2), "A half-life is -2 images: give a number of at least 0."),
    ],
)
def test_nonsense_is_refused(make: Any, says: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(says)


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("critic_steps", [1, 2])
def test_a_penaltys_weight_is_on_its_ramp_at_every_update_of_g(interval: int, critic_steps: int) -> None:
    """gamma_t/2 |grad D|^2, interval times as strong where it is due; D stands still, so that it is known."""
    data, lines = rounds(8, critic_steps * N), Lines()
    penalty = R1(Ramp(2.0, 0.5, 5), interval)
    gan = small_gan(regularizers=[penalty], critic_steps=critic_steps, discriminator_optimizer=_still)
    fit(gan, GivenData(data, N), 8, callbacks=[lines], log_every_n_steps=1)
    slopes = torch.autograd.grad(gan.game.discriminator(x := data.flatten(0, 1).requires_grad_()).sum(), x)[0]
    squares = slopes.square().sum(1).view(8 * critic_steps, N).mean(1)
    for step, line in enumerate(lines.lines):
        gamma = formula(2.0, 0.5, 5, step)
        due = [u for u in range(step * critic_steps, (step + 1) * critic_steps) if u % interval == 0]
        assert line["ramp/regularizers.r1.weight"] == pytest.approx(gamma, rel=1e-12)
        assert ("loss/discriminator/r1" in line) == bool(due)
        if due:
            expected = interval * gamma / 2 * squares[due].mean().item()
            assert line["loss/discriminator/r1"] == pytest.approx(expected, rel=1e-6)  # a line is of float32


def _still(weights: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=0.0)


def test_a_ramp_that_stays_is_a_number() -> None:
    """Bit for bit, of penalties of both players, where one that moves is not."""

    def trained(weight: Any, of_g: Any) -> Tensor:
        torch.manual_seed(0)
        gan = small_gan(regularizers=[R1(weight), R2(0.2)], generator_regularizers=[R2(of_g)])
        fit(gan, GivenData(rounds(4), N), 4)
        return nn.utils.parameters_to_vector(gan.game.parameters()).detach()

    number = trained(0.7, 0.1)
    assert torch.equal(trained(Ramp(0.7, 0.7, 3), Ramp(0.1, 0.1, 2)), number)
    assert not torch.allclose(trained(Ramp(0.7, 0.1, 3), 0.1), number)
    assert not torch.allclose(trained(0.7, Ramp(0.1, 0.9, 3)), number)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_follows_a_half_life_in_images(accumulate: int) -> None:
    """a <- d a + (1 - d) w, d = 0.5^(images of a round / half-life); at first it is the network itself."""
    lines, images = Lines(), 2 * accumulate * N
    gan = small_gan(
        critic_steps=2,
        accumulate_grad_batches=accumulate,
        ema_decay=HalfLife(Ramp(0.0, 100.0, 4)),
        ema_warmup=False,
    )
    fit(gan, GivenData(rounds(6, images), N), 6, callbacks=[lines], log_every_n_steps=1)
    assert gan.average is not None
    expected = lines.weights[0]
    for step, weights in enumerate(lines.weights[1:], 1):
        half_life = formula(0.0, 100.0, 4, step)
        assert lines.lines[step]["ramp/average.decay.images"] == pytest.approx(half_life, rel=1e-12)
        d = 0.5 ** (images / half_life)
        expected = d * expected + (1 - d) * weights
    assert_close(nn.utils.parameters_to_vector(gan.average.parameters()), expected, rtol=1e-12, atol=1e-12)


def test_a_half_life_warms_up_as_a_decay_does() -> None:
    net = nn.Linear(2, 2).double()
    start = net.weight.detach().clone()
    average = MovingAverage(net, HalfLife(8))
    nn.init.zeros_(net.weight)
    average.follow(net)
    average.update(0, 8)  # a tenth, not a half
    assert_close(average.network.weight, 0.1 * start)
    average.update(100, 8)
    assert_close(average.network.weight, 0.05 * start)
