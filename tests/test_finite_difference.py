"""R1 and R2 by finite differences against those by double backward, through the game, in float64."""

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.testing import assert_close

from gan_lightning.augment import DiffAugment
from gan_lightning.batch import Batch
from gan_lightning.finite_difference import R1Finite, R2Finite
from gan_lightning.game import Game
from gan_lightning.priors import Normal
from gan_lightning.regularizers import R1, R2, Regularizer
from gan_lightning.streams import Streams

N = 6


class Critic(nn.Module):
    """A smooth critic of images of 8 x 8, with whatever could make a second pass another than the first."""

    def __init__(self, *parts: Callable[[], nn.Module], patches: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 4, 2, 1), *(part() for part in parts), nn.Tanh(), nn.Flatten(), nn.Linear(64, patches)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten()


def norm() -> nn.Module:
    return nn.BatchNorm2d(4)


def dropout() -> nn.Module:
    return nn.Dropout(0.5)


def normalized() -> nn.Module:
    return spectral_norm(nn.Conv2d(4, 4, 3, padding=1))


CRITICS: dict[str, Callable[[], nn.Module]] = {
    "plain": Critic,
    "batch statistics": lambda: Critic(norm),
    "dropout": lambda: Critic(dropout),
    "spectral norm": lambda: Critic(normalized),
    "patches": lambda: Critic(patches=3),
}


def penalized(
    critic: Callable[[], nn.Module], penalties: dict[str, Regularizer], seed: int = 1, **options: object
) -> Game:
    """A game in double precision; of one seed all have the same weights."""
    torch.manual_seed(seed)
    return Game(nn.Linear(2, 64), critic(), Normal(2), regularizers=penalties, **options).double()


def images(n: int = N) -> tuple[Batch, Batch]:
    real, fake = torch.randn(2, n, 1, 8, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    return Batch(real), Batch(fake)


def slope(loss: Tensor, game: Game) -> Tensor:
    """d loss / dtheta of all of D's weights in a row."""
    gradients = torch.autograd.grad(loss, [*game.discriminator.parameters()], materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def learned(game: Game, real: Batch, fake: Batch, term: str, half: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """A term's value, and its gradient in all of D's weights, in a round of the run's streams."""
    streams = Streams(0, 0, 1, torch.device("cpu"))
    streams.begin(3)
    with streams.running(), torch.autocast("cpu", half, enabled=half is not None):
        loss = game.discriminator_terms(real, fake, 0).losses[term]
    return loss.detach(), slope(loss, game)


@pytest.mark.parametrize(("exact", "finite"), [(R1, R1Finite), (R2, R2Finite)])
@pytest.mark.parametrize("critic", CRITICS)
def test_value_and_derivative_are_those_by_double_backward(
    critic: str, exact: type[Regularizer], finite: type[R1Finite | R2Finite]
) -> None:
    """Both to the step. Nothing is drawn more, and statistics count samples once."""
    found = penalized(CRITICS[critic], {"penalty": finite(0.7, step=1e-6)})
    expected = penalized(CRITICS[critic], {"penalty": exact(0.7)})
    (value, gradient), (true_value, true_gradient) = (learned(game, *images(), "penalty") for game in (found, expected))
    assert true_gradient.abs().max() > 1e-3
    assert_close(value, true_value, rtol=1e-5, atol=0)
    assert_close(gradient, true_gradient, rtol=0, atol=1e-5 * true_gradient.abs().max().item())
    assert_close(dict(found.discriminator.named_buffers()), dict(expected.discriminator.named_buffers()))


def test_a_pass_sees_the_same_augmentation() -> None:
    games = [
        penalized(Critic, {"penalty": part}, augment=DiffAugment()) for part in (R1Finite(1.0, step=1e-6), R1(1.0))
    ]
    (value, gradient), (true_value, true_gradient) = (learned(game, *images(), "penalty") for game in games)
    assert_close(value, true_value, rtol=1e-5, atol=0)
    assert_close(gradient, true_gradient, rtol=0, atol=1e-5 * true_gradient.abs().max().item())


def test_packs_are_penalized_as_one() -> None:
    class Packed(Critic):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mean(1, keepdim=True))

    games = [penalized(Packed, {"penalty": part}, packing=2) for part in (R2Finite(1.0, step=1e-6), R2(1.0))]
    (value, gradient), (true_value, true_gradient) = (learned(game, *images(), "penalty") for game in games)
    assert_close(value, true_value, rtol=1e-5, atol=0)
    assert_close(gradient, true_gradient, rtol=0, atol=1e-5 * true_gradient.abs().max().item())


def test_the_bias_falls_with_the_step_and_random_directions_are_noisier() -> None:
    """The derivative errs by O(h), far less than that of two random directions does, which is unbiased."""
    real, fake = images()
    true = learned(penalized(Critic, {"penalty": R1(1.0)}), real, fake, "penalty")[1]
    errors = []
    for step in (1e-2, 1e-3):
        gradient = learned(penalized(Critic, {"penalty": R1Finite(1.0, step=step)}), real, fake, "penalty")[1]
        errors.append((gradient - true).norm() / true.norm())
    assert 8 < errors[0] / errors[1] < 12
    game = penalized(Critic, {})
    drawn = torch.stack([randomly(game, real.x) for _ in range(200)])
    noise = (drawn - true).square().sum(1).mean().sqrt() / true.norm()
    standard_error = noise / len(drawn) ** 0.5
    assert (drawn.mean(0) - true).norm() / true.norm() < 2 * standard_error
    assert errors[1] < 0.01 * noise


def randomly(game: Game, x: Tensor, directions: int = 2) -> Tensor:
    """The derivative of mean (v . grad_x D)^2 / 2 over random directions v ~ N(0, I), by central differences."""
    total = torch.zeros((), dtype=torch.double)
    for _ in range(directions):
        v = torch.randn_like(x)
        ahead, behind = (game.judge(Batch(x + h * v)) for h in (1e-5, -1e-5))
        total = total + 0.5 * ((ahead - behind) / 2e-5).square().mean() / directions
    return slope(total, game)


@pytest.mark.parametrize(
    ("step", "half", "limit", "computes_in"),
    [
        (1e-3, None, 5e-3, torch.float32),
        (1e-3, torch.bfloat16, 5e-3, torch.float32),  # a step that bfloat16 cannot resolve
        (0.1, None, 0.05, torch.float32),
        (0.1, torch.bfloat16, 0.05, torch.bfloat16),
        (0.1, torch.float16, 0.05, torch.float32),  # whose gradients may underflow
    ],
)
def test_single_precision_suffices_and_bfloat16_for_large_steps(
    step: float, half: torch.dtype | None, limit: float, computes_in: torch.dtype
) -> None:
    true = learned(penalized(Critic, {"penalty": R1(1.0)}), *images(), "penalty")[1]
    single = penalized(Critic, {"penalty": R1Finite(1.0, step=step)}).float()
    types = set()
    single.discriminator.layers[0].register_forward_hook(lambda _, inputs, output: types.add(output.dtype))  # type: ignore[union-attr, operator]
    real, fake = (Batch(batch.x.float()) for batch in images())
    value, gradient = learned(single, real, fake, "penalty", half)
    assert value.dtype == gradient.dtype == torch.float32
    assert types == {computes_in}
    assert (gradient - true).norm() < limit * true.norm()


def test_a_penalty_by_double_backward_keeps_the_others_in_single_precision() -> None:
    game = penalized(Critic, {"penalty": R1(1.0), "finite": R2Finite(1.0, step=0.1)}).float()
    types = set()
    game.discriminator.layers[0].register_forward_hook(lambda _, inputs, output: types.add(output.dtype))  # type: ignore[union-attr, operator]
    real, fake = (Batch(batch.x.float()) for batch in images())
    learned(game, real, fake, "penalty", torch.bfloat16)
    assert types == {torch.float32}


def test_with_kinks_a_large_step_is_nearer_to_double_backward() -> None:
    def kinked() -> nn.Module:
        layers = [nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 4, 3, 1, 1)]
        return nn.Sequential(*layers)

    errors = []
    for step in (1e-3, 0.1):
        games = [penalized(lambda: Critic(kinked), {"penalty": part}) for part in (R1Finite(1.0, step=step), R1(1.0))]
        gradient, true = (learned(game, *images(64), "penalty")[1] for game in games)
        errors.append((gradient - true).norm() / true.norm())
    assert errors[1] < 0.45
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("step", [0.01, 3.0])
def test_minimizing_a_penalty_flattens_the_critic_and_ends(step: float) -> None:
    """Also with a step much longer than the critic's features: |grad_x D|^2 falls too, and no weight grows."""
    game, exact = (penalized(lambda: Critic(norm), {"penalty": part}) for part in (R1Finite(1.0, step=step), R1(1.0)))
    weights = [*game.discriminator.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.3)
    first, largest = learned(exact, *images(), "penalty")[0], max(weight.abs().max().item() for weight in weights)
    for _ in range(300):
        game.discriminator_terms(*images(), 0).losses["penalty"].backward()
        optimizer.step()
        optimizer.zero_grad()
    exact.discriminator.load_state_dict(game.discriminator.state_dict())
    assert learned(exact, *images(), "penalty")[0] < 0.2 * first
    assert max(weight.abs().max().item() for weight in weights) < 2 * largest


def test_of_a_flat_critic_nothing_is_learned() -> None:
    game = penalized(Critic, {"penalty": R1Finite(1.0)})
    for weight in game.discriminator.parameters():
        nn.init.zeros_(weight)
    value, gradient = learned(game, *images(), "penalty")
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_generator_learns_from_a_second_derivative_without_double_backward() -> None:
    """d(|grad_x D|^2 / 2)/dx goes on into G."""
    slopes = []
    for part in (R2Finite(1.0, step=1e-6), R2(1.0)):
        torch.manual_seed(1)
        game = Game(
            nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, (1, 8, 8))),
            Critic(),
            Normal(2),
            generator_regularizers={"penalty": part},
        )
        game.double()
        fake = game.generate(torch.randn(N, 2, dtype=torch.double))
        loss = game.generator_terms(images()[0], fake, 0).losses["penalty"]
        slopes.append(torch.autograd.grad(loss, [*game.generator.parameters()]))
    for found, true in zip(*slopes, strict=True):
        assert_close(found, true, rtol=0, atol=1e-5 * true.abs().max().item())


def compile_by(network: nn.Module, backend: Callable[..., Any]) -> None:
    network._compiled_call_impl = torch.compile(network._call_impl, backend=backend)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
def test_compiled_networks_stay_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a penalty by double backward they do not."""
    from torch._dynamo.testing import CompileCounterWithBackend
    from torch._functorch import config

    for part, is_compiled in ((R1Finite(0.7, step=1e-6), True), (R1(0.7), False)):
        torch.compiler.reset()
        backend = CompileCounterWithBackend("aot_eager")
        plain, compiled = (penalized(CRITICS["batch statistics"], {"penalty": part}) for _ in range(2))
        monkeypatch.setattr(nn.Module, "compile", partialmethod(compile_by, backend))
        with config.patch(donated_buffer=config.donated_buffer):  # which compiling turns off
            compiled.compile_networks()
            found, expected = (learned(game, *images(), "penalty") for game in (compiled, plain))
        assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert (backend.frame_count > 0) == is_compiled
        assert_close(dict(compiled.discriminator.named_buffers()), dict(plain.discriminator.named_buffers()))


def test_a_step_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step is 0"):
        R1Finite(1.0, step=0)
