"""The adversarial step against loops written out by hand, and against what is known to go wrong in others."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch.testing import assert_close
from torch.utils.data import DataLoader, SubsetRandomSampler

from gan_lightning import losses, optim, priors
from gan_lightning.batch import Batch
from gan_lightning.errors import Diverged, UsageError
from gan_lightning.finite_difference import R1Finite, R2Finite
from gan_lightning.game import Game
from gan_lightning.gan import GAN, PLAYERS
from gan_lightning.player import Player
from gan_lightning.regularizers import R1, R2, GradientPenalty, Regularizer
from gan_lightning.streams import Streams

N = 4
ORDERS = ("discriminator_first", "generator_first", "simultaneous")

# each loss once more, as a mean over logits
FORMULAS = {
    losses.NonSaturating: (lambda r, f: (softplus(-r) + softplus(f)).mean(), lambda r, f: softplus(-f).mean()),
    losses.Minimax: (
        lambda r, f: -(torch.sigmoid(r).log() + (1 - torch.sigmoid(f)).log()).mean(),
        lambda r, f: (1 - torch.sigmoid(f)).log().mean(),
    ),
    losses.LeastSquares: (
        lambda r, f: ((r - 1) ** 2 + f**2).mean() / 2,
        lambda r, f: ((f - 1) ** 2).mean() / 2,
    ),
    losses.Wasserstein: (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    losses.Hinge: (lambda r, f: relu(1 - r).mean() + relu(1 + f).mean(), lambda r, f: -f.mean()),
    losses.Relativistic: (
        lambda r, f: -torch.sigmoid(r - f).log().mean(),
        lambda r, f: -torch.sigmoid(f - r).log().mean(),
    ),
}


def rounds(n: int, samples: int = N) -> Tensor:
    return torch.randn(n, samples, 2, generator=torch.Generator().manual_seed(7), dtype=torch.double)


def weights(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def by_hand(
    gan: GAN, data: Tensor, critic_steps: int, order: str, reuse: bool, penalty: float = 0.0, lr: float = 0.1
) -> tuple[Tensor, Tensor]:
    """The weights of G and D after the rounds of ``data``, by plain gradient descent on the written-out losses."""
    g, d = copy.deepcopy(gan.game.generator), copy.deepcopy(gan.game.discriminator)
    loss_d, loss_g = FORMULAS[type(gan.game.loss)]
    streams = Streams(torch.initial_seed(), 0, 1, torch.device("cpu"))

    def fakes() -> Tensor:
        return g(gan.game.prior.sample(N, streams.generator).double())

    def gradient(network: nn.Module, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(network.parameters())))

    def of_d(real: Tensor, fake: Tensor) -> list[Tensor]:
        real = real.clone().requires_grad_()
        loss = loss_d(d(real), d(fake.detach()))
        if penalty:
            slope = torch.autograd.grad(d(real).sum(), real, create_graph=True)[0]
            loss = loss + penalty / 2 * (slope**2).sum(1).mean()
        return gradient(d, loss)

    def of_g(real: Tensor, fake: Tensor) -> list[Tensor]:
        return gradient(g, loss_g(d(real), d(fake)))

    def descend(network: nn.Module, gradients: list[Tensor]) -> None:
        with torch.no_grad():
            for weight, slope in zip(network.parameters(), gradients, strict=True):
                weight -= lr * slope

    for step, round_ in enumerate(data):
        streams.begin(step)
        reals = round_.view(critic_steps, N, 2)
        if order == "generator_first":
            shared = fakes()
            descend(g, of_g(reals[0], shared))
            descend(d, of_d(reals[0], shared if reuse else fakes()))
            for real in reals[1:]:
                descend(d, of_d(real, fakes()))
            continue
        for real in reals[:-1]:
            descend(d, of_d(real, fakes()))
        if order == "discriminator_first":
            shared = fakes()
            descend(d, of_d(reals[-1], shared))
            descend(g, of_g(reals[-1], shared if reuse else fakes()))
        else:
            for_d = fakes()
            for_g = for_d if reuse else fakes()
            slopes = of_d(reals[-1], for_d), of_g(reals[-1], for_g)
            descend(d, slopes[0])
            descend(g, slopes[1])
    return weights(g), weights(d)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("critic_steps", "reuse"), list(product((1, 3), (False, True))))
def test_rounds_are_the_written_out_descent(order: str, critic_steps: int, reuse: bool) -> None:
    gan = small_gan(order=order, critic_steps=critic_steps, reuse_fakes=reuse)
    data = rounds(5, critic_steps * N)
    expected = by_hand(gan, data, critic_steps, order, reuse)
    fit(gan, GivenData(data, N), 5)
    assert_close((weights(gan.game.generator), weights(gan.game.discriminator)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_shared_samples_may_carry_what_the_generator_has_learned(order: str) -> None:
    """D's update takes no gradient through any part of them."""

    class Marked(Game):
        def generate(self, z: Tensor, y: Tensor | None = None) -> Batch:
            x, mark = self.generator(z).split(2, 1)
            return Batch(x, y, mark)

        def read(self, sample: Batch) -> Tensor:
            mark = torch.zeros_like(sample.x) if sample.z is None else sample.z
            return super().read(sample._replace(x=torch.cat([sample.x, mark], 1)))

    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    gan = small_gan(Marked, generator=nn.Linear(3, 4), discriminator=critic, order=order, reuse_fakes=True)
    before = weights(gan.game.generator)
    fit(gan, GivenData(rounds(3, N), N), 3)
    assert (weights(gan.game.generator) != before).all()


@pytest.mark.parametrize("loss", list(FORMULAS))
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_every_loss_trains_by_its_formula(loss: type[losses.Loss], penalty: float) -> None:
    gan = small_gan(loss=loss(), regularizers=[R1(penalty)] if penalty else [])
    data = rounds(4)
    expected = by_hand(gan, data, 1, "discriminator_first", False, penalty)
    fit(gan, GivenData(data, N), 4)
    assert_close((weights(gan.game.generator), weights(gan.game.discriminator)), expected, rtol=1e-11, atol=1e-12)


def test_generator_first_with_shared_samples_is_simultaneous() -> None:
    data = rounds(6)
    trained = []
    for order in ("generator_first", "simultaneous"):
        torch.manual_seed(3)
        gan = small_gan(order=order, reuse_fakes=True)
        fit(gan, GivenData(data, N), 6)
        trained.append((weights(gan.game.generator), weights(gan.game.discriminator)))
    assert_close(trained[0], trained[1], rtol=0, atol=0)


def test_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'sideways'.*simultaneous"):
        small_gan(order="sideways")


@pytest.mark.parametrize("rounds_per_batch", [1, 4])
def test_steps_count_generator_updates(rounds_per_batch: int) -> None:
    adam = partial(torch.optim.Adam, lr=1e-3)
    gan = small_gan(critic_steps=5, generator_optimizer=adam, discriminator_optimizer=adam)
    trainer = fit(gan, GivenData(rounds(40, 5 * N), N, rounds_per_batch), 10)
    updates = [{int(s["step"]) for s in optimizer.state.values()} for optimizer in trainer.optimizers]
    assert (trainer.global_step, updates) == (10, [{10}, {50}])
    assert int(gan.images_seen) == 10 * 5 * N


@pytest.mark.parametrize("hook", ["on_before_backward", "on_after_backward", "on_before_optimizer_step"])
def test_who_listens_hears_every_update_and_changes_nothing(hook: str) -> None:
    """The step goes around Lightning's wrappers where nobody listens to them, and must come to the same."""
    results, heard = [], []
    listener = type("Listener", (Callback,), {hook: lambda *_: heard.append(hook)})
    for callbacks in ([], [listener()]):
        torch.manual_seed(0)
        gan = small_gan(critic_steps=2, regularizers=[R1(0.3)], gradient_clip_val=0.2)
        trainer = fit(gan, GivenData(rounds(6, 2 * N), N, rounds_per_batch=3), 6, callbacks=callbacks)
        assert trainer.global_step == 6
        results.append(torch.cat([weights(gan.game.generator), weights(gan.game.discriminator)]))
    assert heard == [hook] * 6 * 3
    assert_close(*results, rtol=0, atol=0)


def test_batching_of_rounds_changes_nothing() -> None:
    trained = []
    for rounds_per_batch in (1, 3, 8):
        torch.manual_seed(5)
        gan = small_gan(ema_decay=0.9)
        fit(gan, GivenData(rounds(8), N, rounds_per_batch), 8)
        trained.append(weights(gan))
    assert_close(trained[1:], [trained[0]] * 2, rtol=0, atol=0)


def test_accumulated_micro_batches_are_one_batch() -> None:
    data = rounds(5, 3 * N)
    trained = []
    for accumulate, n in ((1, 3 * N), (3, N)):
        torch.manual_seed(11)
        gan = small_gan(accumulate_grad_batches=accumulate, loss=losses.Relativistic(), prior=_Shuffleproof(3))
        fit(gan, GivenData(data, n), 5)
        trained.append((weights(gan.game.generator), weights(gan.game.discriminator)))
    assert_close(trained[0], trained[1], rtol=1e-12, atol=1e-12)


class _Shuffleproof(priors.Prior):
    """Latents whose i-th row since the start is the same however many are drawn at once."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([torch.randn(self.size, generator=generator) for _ in range(n)])


class _Watch(Callback):
    """Looks at gradients and weights at each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, bool]] = []
        self.d_before_g: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, module: GAN, optimizer: Any) -> None:
        owner = "generator" if optimizer is trainer.optimizers[0] else "discriminator"
        has_gradient = [
            any(p.grad is not None for p in network.parameters())
            for network in (module.game.generator, module.game.discriminator)
        ]
        self.seen.append((owner, *has_gradient))
        if owner == "generator":
            self.d_before_g.append(weights(module.game.discriminator))

    def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
        assert_close(weights(module.game.discriminator), self.d_before_g[-1], rtol=0, atol=0)
        assert all(p.requires_grad for p in module.game.discriminator.parameters())


def test_each_step_touches_its_own_network_only() -> None:
    watch = _Watch()
    fit(small_gan(regularizers=[R1(1.0), R2(1.0), GradientPenalty(1.0)]), GivenData(rounds(1), N), 1, callbacks=[watch])
    assert watch.seen == [("discriminator", False, True), ("generator", True, True)]


def test_discriminator_is_trainable_after_an_error() -> None:
    gan = small_gan()
    gan.game.loss.generator = lambda **_: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        fit(gan, GivenData(rounds(1), N), 1)
    assert all(p.requires_grad for p in gan.game.discriminator.parameters())


def test_weights_frozen_by_the_user_stay_frozen() -> None:
    gan = small_gan()
    gan.game.discriminator[0].requires_grad_(False)
    first = gan.game.discriminator[0].weight.clone()
    fit(gan, GivenData(rounds(3), N), 3)
    assert not gan.game.discriminator[0].weight.requires_grad
    assert_close(gan.game.discriminator[0].weight, first, rtol=0, atol=0)


class SameLatents(priors.Normal):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.linspace(-1, 1, n * self.size).view(n, self.size)


def test_weights_frozen_and_thawed_while_training() -> None:
    """Whether a weight trains is asked at every update; where nothing moves, D's gradient is the same in each."""
    still = partial(torch.optim.SGD, lr=0.0)
    gan = small_gan(prior=SameLatents(3), generator_optimizer=still, discriminator_optimizer=still)
    first, last = gan.game.discriminator[0], gan.game.discriminator[2]
    first.requires_grad_(False)
    seen = []

    def ended(trainer: Any, *_: Any) -> None:
        seen.append(first.weight.grad)
        if trainer.global_step == 2:
            first.requires_grad_(True)
            last.requires_grad_(False)

    fit(gan, GivenData(rounds(1).expand(6, -1, -1), N), 6, callbacks=[LambdaCallback(on_train_batch_end=ended)])
    assert seen[:2] == [None, None]
    assert seen[2].abs().max() > 0
    assert_close(seen[3:], [seen[2]] * 3, rtol=0, atol=0)
    assert [weight.requires_grad for weight in last.parameters()] == [False, False]


def test_an_optimizers_state_may_hold_numbers() -> None:
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters())
    optimizer.state[network.weight] = {"step": 3, "none": None, "mean": torch.ones(1, 2)}
    gan = small_gan()
    fit(gan, GivenData(rounds(1), N), 1)
    assert Player("generator", list(network.parameters()), optimizer, gan).weights[0] is network.weight
    assert optimizer.state[network.weight]["step"] == 3


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped(algorithm: str) -> None:
    sgd = partial(torch.optim.SGD, lr=1.0)
    gan = small_gan(
        generator_optimizer=sgd,
        discriminator_optimizer=sgd,
        gradient_clip_val=1e-3,
        gradient_clip_algorithm=algorithm,  # type: ignore[arg-type]
    )
    before = weights(gan.game.generator), weights(gan.game.discriminator)
    fit(gan, GivenData(rounds(1), N), 1)
    for old, network in zip(before, (gan.game.generator, gan.game.discriminator), strict=True):
        step = weights(network) - old
        size = step.norm() if algorithm == "norm" else step.abs().max()
        assert_close(size.item(), 1e-3, rtol=1e-3, atol=0)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_one_player_alone_follows_the_schedule(player: Any) -> None:
    gan = small_gan(schedule=partial(optim.linear, start=0.0), scheduled=player)
    trainer = fit(gan, GivenData(rounds(4), N), 4)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in zip(PLAYERS, trainer.optimizers, strict=True)}
    assert rates == {name: pytest.approx(0.0 if name == player else 0.1, abs=1e-12) for name in PLAYERS}


def test_a_run_with_schedules_of_other_players_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    schedule = partial(optim.linear, start=0.0)
    fit(small_gan(schedule=schedule), GivenData(rounds(4), N), 2).save_checkpoint(path)
    with pytest.raises(UsageError, match=r"is of a run with scheduled='both': resume it with the same\."):
        fit(small_gan(schedule=schedule, scheduled="generator"), GivenData(rounds(4), N), 4, path)


def test_a_wrong_choice_of_scheduled_players_is_refused() -> None:
    with pytest.raises(UsageError, match=r"scheduled is 'nobody': give one of both, generator, discriminator\."):
        small_gan(scheduled="nobody")


def test_schedules_follow_generator_updates() -> None:
    gan = small_gan(schedule=partial(optim.linear, start=0.0), critic_steps=2)
    trainer = fit(gan, GivenData(rounds(4, 2 * N), N), 4, max_epochs=2)
    assert_close([o.param_groups[0]["lr"] for o in trainer.optimizers], [0.0, 0.0])
    gan = small_gan(schedule=partial(optim.linear, start=0.0))
    trainer = fit(gan, GivenData(rounds(4), N), -1, max_epochs=1)  # the length follows from the epochs
    assert_close([o.param_groups[0]["lr"] for o in trainer.optimizers], [0.0, 0.0])


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 8),
        ({"max_epochs": 2, "limit_train_batches": 1}, 4),
        ({"max_epochs": 1}, 8),
    ],
)
def test_a_schedule_ends_with_the_run(limits: dict[str, Any], steps: int) -> None:
    gan = small_gan(schedule=partial(optim.linear, start=0.0))
    trainer = fit(gan, GivenData(rounds(8), N, rounds_per_batch=2), 100, **limits)
    assert trainer.global_step == steps
    assert_close([o.param_groups[0]["lr"] for o in trainer.optimizers], [0.0, 0.0])


def test_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_steps or trainer\.max_epochs"):
        fit(small_gan(schedule=optim.cosine), GivenData(rounds(1), N), -1, max_epochs=-1)


@pytest.mark.parametrize(("warms_up", "critic_steps"), [(False, 1), (True, 1), (True, 3)])
def test_average_follows_the_generator(warms_up: bool, critic_steps: int) -> None:
    class Trace(Callback):
        weights: list[Tensor] = []

        def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
            self.weights.append(weights(module.game.generator))

    trace = Trace()
    gan = small_gan(ema_decay=0.3, ema_warmup=warms_up, critic_steps=critic_steps)
    expected = weights(gan.game.generator)
    fit(gan, GivenData(rounds(6, critic_steps * N), N), 6, callbacks=[trace])
    assert len(trace.weights) == 6
    for n, weight in enumerate(trace.weights):
        decay = min(0.3, (1 + n) / (10 + n)) if warms_up else 0.3
        expected = decay * expected + (1 - decay) * weight
    assert gan.average is not None
    assert_close(weights(gan.average), expected, rtol=1e-12, atol=1e-12)
    assert not any(p.requires_grad for p in gan.average.parameters())


def test_lazy_penalty_is_due_on_every_interval_of_critic_updates() -> None:
    class Counting(R1):
        calls: list[int] = []

        def penalty(self, critic: Any) -> Tensor:
            self.calls.append(len(critic.real.x))
            return super().penalty(critic)

    regularizer = Counting(1.0, interval=4)
    fit(small_gan(critic_steps=2, regularizers=[regularizer]), GivenData(rounds(6, 2 * N), N), 6)
    assert len(regularizer.calls) == 3  # updates 0, 4 and 8 of 12


def test_lazy_penalty_of_the_generator_is_due_on_every_interval_of_its_own_updates() -> None:
    class Counting(R2):
        calls: list[int] = []

        def penalty(self, critic: Any) -> Tensor:
            self.calls.append(1)
            return super().penalty(critic)

    regularizer = Counting(1.0, interval=3)
    fit(small_gan(critic_steps=3, generator_regularizers=[regularizer]), GivenData(rounds(7, 3 * N), N), 7)
    assert len(regularizer.calls) == 3  # updates 0, 3 and 6


def image_gan(regularizers: Sequence[Regularizer] = (), **options: Any) -> GAN:
    """A float32 GAN with BatchNorm in G, to be trained in mixed precision."""
    generator = nn.Sequential(nn.Linear(3, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), nn.Flatten(0))
    sgd = partial(torch.optim.SGD, lr=0.05)
    penalties = {type(penalty).__name__.lower(): penalty for penalty in regularizers}
    return GAN(Game(generator, discriminator, priors.Normal(3), regularizers=penalties), sgd, sgd, **options)


@pytest.mark.parametrize("penalties", [[], [R1(0.5), R2(0.5)], [R1Finite(0.5, step=0.1), R2Finite(0.5, step=0.1)]])
def test_bfloat16_trains_both_networks_as_float32_does(penalties: list[Any]) -> None:
    # a stale cast of the weights, kept by autocast over an update, would show as a missing or wrong step
    trained = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(2)
        gan = image_gan(critic_steps=2, regularizers=penalties)
        before = weights(gan.game.generator), weights(gan.game.discriminator)
        fit(gan, GivenData(rounds(20, 64).float(), 32), 20, precision=precision)
        after = weights(gan.game.generator), weights(gan.game.discriminator)
        trained.append([new - old for new, old in zip(after, before, strict=True)])
    for exact, rounded in zip(*trained, strict=True):
        assert (exact - rounded).norm() < 0.05 * exact.norm()


def test_penalty_is_differentiated_in_full_precision() -> None:
    class Looking(R1):
        types: list[torch.dtype] = []

        def penalty(self, critic: Any) -> Tensor:
            self.types += [critic.real_logits.dtype, critic.judge(critic.real).dtype]
            return super().penalty(critic)

    looking = Looking(1.0)
    fit(image_gan(regularizers=[looking]), GivenData(rounds(1).float(), N), 1, precision="bf16-mixed")
    assert set(looking.types) == {torch.float32}


def half_precision(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3))


@pytest.mark.parametrize("order", ORDERS)
def test_float16_follows_float32(order: str) -> None:
    # the scale doubles every third step, between the steps of the two networks too
    trained = []
    for plugins in ([], [half_precision(16.0)]):
        torch.manual_seed(2)
        gan = image_gan(order=order)
        before = weights(gan)
        fit(gan, GivenData(rounds(10, 32).float(), 32), 10, plugins=plugins)
        trained.append(weights(gan) - before)
    assert (trained[0] - trained[1]).norm() < 0.02 * trained[0].norm()


@pytest.mark.parametrize("fused", [False, True])  # a fused optimizer unscales in its own step, which is too late
def test_float16_clips_unscaled_gradients(fused: bool) -> None:
    sgd = partial(torch.optim.SGD, lr=1.0, fused=fused)
    gan = image_gan(gradient_clip_val=1e-3)
    gan.generator_optimizer = gan.discriminator_optimizer = sgd
    before = weights(gan.game.generator), weights(gan.game.discriminator)
    fit(gan, GivenData(rounds(1, 32).float(), 32), 1, plugins=[half_precision(1024.0)])
    for old, network in zip(before, (gan.game.generator, gan.game.discriminator), strict=True):
        assert_close((weights(network) - old).norm().item(), 1e-3, rtol=1e-2, atol=0)


def test_float16_overflow_in_one_network_does_not_stop_the_other() -> None:
    class Overflow(Callback):
        def on_after_backward(self, trainer: Any, module: GAN) -> None:
            gradient = next(module.game.discriminator.parameters()).grad
            if gradient is not None and next(module.game.generator.parameters()).grad is None:
                gradient.fill_(float("inf"))

    gan = image_gan()
    before = weights(gan.game.generator), weights(gan.game.discriminator)
    plugin = half_precision(1024.0)
    fit(gan, GivenData(rounds(1, 32).float(), 32), 1, plugins=[plugin], callbacks=[Overflow()])
    assert_close(weights(gan.game.discriminator), before[1], rtol=0, atol=0)
    assert (weights(gan.game.generator) - before[0]).norm() > 0
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 512.0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile's own
@pytest.mark.parametrize("penalties", [[], [R1(0.3, interval=2)]], ids=["plain", "r1"])
def test_compiled_networks_train_as_they_are(penalties: list[Any]) -> None:
    """With a penalty too, whose double backward torch.compile refuses; and under the same names."""
    trained = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        gan = small_gan(regularizers=penalties, ema_decay=0.9)
        if is_compiled:
            gan.game.compile_networks()
        fit(gan, GivenData(rounds(4), N), 4)
        trained.append(gan.state_dict())
    assert trained[0].keys() == trained[1].keys()
    assert_close(trained[1], trained[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("column", ["discriminator", "generator"])
def test_divergence_names_step_and_loss(column: str) -> None:
    class Broken(losses.NonSaturating):
        calls = 0

        def _maybe(self, value: Tensor) -> Tensor:
            self.calls += 1
            return value * float("nan") if self.calls == 7 else value

    loss = Broken()
    original = getattr(loss, column)
    setattr(loss, column, lambda **logits: loss._maybe(original(**logits)))
    with pytest.raises(Diverged, match=f"{column}'s loss is nan at step 7:.*learning rate"):
        fit(small_gan(loss=loss), GivenData(rounds(10), N), 10, log_every_n_steps=5)


def test_a_trainer_that_never_logs_trains() -> None:
    logging, silent = small_gan(), small_gan()
    silent.load_state_dict(logging.state_dict())
    fit(logging, GivenData(rounds(4), N), 4, log_every_n_steps=1)
    fit(silent, GivenData(rounds(4), N), 4, log_every_n_steps=0)
    for name, value in logging.state_dict().items():
        assert torch.equal(value, silent.state_dict()[name])


@pytest.mark.parametrize(("chosen", "fails"), [(64, False), (63, True)])
def test_batches_are_counted_by_the_loaders_sampler(chosen: int, fails: bool, tmp_path: Path) -> None:
    sampler = SubsetRandomSampler(range(chosen))
    loader = DataLoader(torch.randn(101, 2, dtype=torch.double), 32, sampler=sampler)
    options: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, **options)
    with pytest.raises(UsageError, match="A batch of 31 samples cannot") if fails else nullcontext():
        trainer.fit(small_gan(critic_steps=2), loader)
    assert trainer.global_step == (0 if fails else 2)


def test_sampling_is_seeded_and_leaves_modes_and_random_state_alone() -> None:
    gan = image_gan(ema_decay=0.9)
    gan.train()
    state = torch.get_rng_state()
    first = gan.sample(5, torch.Generator().manual_seed(1))
    assert_close(gan.sample(5, torch.Generator().manual_seed(1)), first, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in gan.modules())
    torch.manual_seed(9)
    drawn = gan.sample(5)
    torch.manual_seed(9)
    assert_close(gan.sample(5), drawn, rtol=0, atol=0)


def test_sampling_uses_the_averaged_running_statistics() -> None:
    gan = image_gan(ema_decay=0.5)
    fit(gan, GivenData(rounds(8, 32).float(), 32), 8)
    latents = torch.randn(6, 3)
    assert gan.average is not None
    expected = copy.deepcopy(gan.average.network["generator"]).eval()(latents)
    assert_close(gan.sample(6, latents=latents), expected)
    assert (expected - copy.deepcopy(gan.game.generator).eval()(latents)).abs().max() > 1e-4
