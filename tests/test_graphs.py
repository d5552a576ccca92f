"""Replayed updates train as eager ones do; the graph of the GPU itself is tested by scripts/gpu.py."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback, Trainer
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from gan_lightning import gan as gan_module
from gan_lightning import graphs
from gan_lightning.augment import ADA, Augment, DiffAugment
from gan_lightning.batch import Batch
from gan_lightning.diversity import GDPP, ModeSeeking
from gan_lightning.errors import UsageError
from gan_lightning.finite_difference import R1Finite
from gan_lightning.game import Game
from gan_lightning.gan import GAN
from gan_lightning.graphs import Graphs, check_graphs
from gan_lightning.losses import Relativistic
from gan_lightning.player import Move
from gan_lightning.regularizers import R1, R2, GradientPenalty
from gan_lightning.rounds import Order
from gan_lightning.schedules import Ramp

STEPS = 23
QUIET: dict[str, Any] = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    "accelerator": "cpu",
}


class OnCPU:
    """Stands for CUDA: a replay reads and writes the buffers of the capture, by running the computation again.

    Unlike a graph, it runs Python again, so that only scripts/gpu.py finds what Python would have changed.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.weights = weights
        self.captures = self.replays = 0

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        compute()
        places = [(weight, weight.grad) for weight in self.weights]

        def replay() -> None:
            self.replays += 1
            compute()  # reads the tape again
            for weight, place in places:
                if place is not None and weight.grad is not None:
                    place.copy_(weight.grad)

        return replay


class Labeled(nn.Module):
    """A network that is called with a class."""

    conditional = True

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, 8)
        self.first, self.last = nn.Linear(inputs, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.classes(y))).squeeze(1)


class OwnAugment(Augment):
    """Its strength may change between calls, which a graph would not follow."""

    strength = 0.0

    def transform(self, images: Tensor) -> Tensor:
        return images + self.strength


def noisy_gan(is_replayed: bool) -> GAN:
    """Every draw and kind of update at once: penalties with intervals, interpolation, critic steps, micro-batches."""
    torch.manual_seed(0)
    penalties = {"r1": R1(0.3, interval=3), "r2": R2(0.2), "gradient_penalty": GradientPenalty(0.1, interval=2)}
    return small_gan(
        loss=Relativistic(),
        regularizers=penalties,
        critic_steps=2,
        accumulate_grad_batches=2,
        ema_decay=0.9,
        cuda_graphs=is_replayed,
    )


def test_replayed_updates_train_the_same_weights_and_log_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randn(STEPS, 16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trained, lines = [], []
    gans = [noisy_gan(is_replayed) for is_replayed in (False, True)]
    cpu = OnCPU(list(gans[1].parameters()))
    monkeypatch.setattr(gan_module, "Graphs", partial(Graphs, cpu))
    monkeypatch.setattr(gan_module, "check_graphs", lambda *_: None)
    for gan in gans:
        fit(gan, GivenData(data, 4, rounds_per_batch=5), STEPS, log_every_n_steps=4)
        trained.append(gan.state_dict())
        lines.append(gan.log_line)
    assert_close(trained[1], trained[0], rtol=0, atol=0)
    assert lines[1] == lines[0]
    # one graph for G and one for each set of D's penalties that are due together
    assert cpu.captures == 5
    eager = cpu.captures * graphs.EAGER
    logged = STEPS // 4 * 3  # updates of rounds that measure gradients
    assert cpu.replays == 3 * STEPS - eager - logged


@pytest.mark.parametrize(
    ("order", "reuse_fakes"), [*((order, False) for order in get_args(Order)), ("simultaneous", True)]
)
def test_every_order_is_replayed(order: Order, reuse_fakes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With samples that both players share, and penalties of both players that are due at different updates."""
    data = torch.randn(STEPS, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trained = []
    for cuda_graphs in (False, True):
        torch.manual_seed(0)
        penalties = {"r1": R1(0.3, interval=2)}, {"mode_seeking": ModeSeeking(0.1, interval=3)}
        gan = small_gan(
            regularizers=penalties[0],
            generator_regularizers=penalties[1],
            critic_steps=3,
            order=order,
            reuse_fakes=reuse_fakes,
            cuda_graphs=cuda_graphs,
        )
        cpu = OnCPU(list(gan.parameters()))
        monkeypatch.setattr(gan_module, "Graphs", partial(Graphs, cpu))
        monkeypatch.setattr(gan_module, "check_graphs", lambda *_: None)
        fit(gan, GivenData(data, 4, rounds_per_batch=5), STEPS)
        trained.append(gan.state_dict())
    assert_close(trained[1], trained[0], rtol=0, atol=0)
    assert cpu.replays == 4 * STEPS - graphs.EAGER * cpu.captures  # every kind is due more often than it runs eagerly


def test_updates_of_another_shape_have_their_own_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain loader's last batch is smaller; and the labels of each batch reach the networks."""
    points = torch.randn(22, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(points, torch.arange(22) % 3), batch_size=8)
    trained = []
    for cuda_graphs in (False, True):
        torch.manual_seed(0)
        gan = small_gan(generator=Labeled(3, 2), discriminator=Labeled(2, 1), cuda_graphs=cuda_graphs)
        cpu = OnCPU(list(gan.parameters()))
        monkeypatch.setattr(gan_module, "Graphs", partial(Graphs, cpu))
        monkeypatch.setattr(gan_module, "check_graphs", lambda *_: None)
        Trainer(max_epochs=8, **QUIET).fit(gan, loader)
        trained.append(gan.state_dict())
    assert_close(trained[1], trained[0], rtol=0, atol=0)
    assert cpu.captures == 4  # G and D, for 8 and for 6 samples


def test_weights_that_are_replaced_or_frozen_are_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Change(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: GAN, batch: Any, batch_idx: int) -> None:
            weights = list(module.game.discriminator.parameters())
            if batch_idx == 5:
                weights[0].requires_grad_(False)
            if batch_idx == 10:
                weights[1].data = weights[1].data.clone()

    data = torch.randn(16, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trained = []
    for cuda_graphs in (False, True):
        torch.manual_seed(0)
        gan = small_gan(cuda_graphs=cuda_graphs)
        monkeypatch.setattr(gan_module, "Graphs", partial(Graphs, OnCPU(list(gan.parameters()))))
        monkeypatch.setattr(gan_module, "check_graphs", lambda *_: None)
        fit(gan, GivenData(data, 8, rounds_per_batch=1), 16, callbacks=[Change()])
        trained.append(gan.state_dict())
    assert_close(trained[1], trained[0], rtol=0, atol=0)


def test_many_kinds_of_updates_run_eagerly() -> None:
    weight = nn.Parameter(torch.ones(()))
    cpu = OnCPU([weight])
    runs = Graphs(cpu)

    def compute(reals: Sequence[Batch]) -> list[dict[str, Tensor]]:
        weight.grad = None
        loss = weight * reals[0].x.sum()
        loss.backward()
        return [{"loss": loss.detach()}]

    player: Any = SimpleNamespace(weights=[weight])
    move, seen = Move(player, 0, compute), []
    for n in range(1, graphs.KINDS + 4):
        for i in range(graphs.EAGER + 2):
            x = torch.full((n,), float(i))
            runs.run("generator", [move], [Batch(x)], lambda _, terms: seen.extend(terms))
            assert (seen.pop()["loss"].item(), weight.grad) == (n * i, torch.tensor(float(n * i)))
    assert cpu.captures == graphs.KINDS


class Layered(nn.Module):
    """A discriminator with features for GDPP."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)


class OwnGame(Game):
    pass


class OwnReplayableGame(Game):
    replayable = True


class Hooked(Callback):
    def on_after_backward(self, *_: Any) -> None:
        pass


SIMULTANEOUS = {"order": "simultaneous", "reuse_fakes": True}


def trainer(**changes: Any) -> Any:
    """A Trainer on a GPU, as far as the check reads it."""
    usual = {
        "strategy": SingleDeviceStrategy(device=torch.device("cuda", 0)),
        "world_size": 1,
        "precision_plugin": Precision(),
        "profiler": PassThroughProfiler(),
        "callbacks": [],
        "log_every_n_steps": 50,
        "_detect_anomaly": False,
    }
    return SimpleNamespace(**(usual | changes))


@pytest.mark.parametrize(
    "options", [{}, {"game": OwnReplayableGame}, {"augment": DiffAugment()}, SIMULTANEOUS], ids=str
)
def test_a_gan_on_a_gpu_may_be_replayed(options: dict[str, Any]) -> None:
    check_graphs(small_gan(**options), trainer())


def test_a_run_on_the_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cuda_graphs=true needs a GPU, but this run trains on cpu: leave it out\.$"):
        check_graphs(small_gan(), trainer(strategy=SingleDeviceStrategy(device=torch.device("cpu"))))


SCALED = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
RAMP: Any = Ramp(1.0, 0.1, 9)


@pytest.mark.parametrize(
    ("gan", "changes", "named"),
    [
        ({}, {"world_size": 2}, "several devices"),
        ({}, {"precision_plugin": SCALED}, "trainer.precision=16-mixed"),
        ({}, {"precision_plugin": HalfPrecision("bf16-true")}, "HalfPrecision"),
        ({}, {"profiler": SimpleProfiler()}, "SimpleProfiler"),
        ({}, {"callbacks": [Hooked()]}, "a callback or module with hooks around backward passes"),
        ({}, {"log_every_n_steps": 1}, "trainer.log_every_n_steps=1, since logged updates are not replayed"),
        ({}, {"_detect_anomaly": True}, "trainer.detect_anomaly=true"),
        ({"reuse_fakes": True}, {}, "model.reuse_fakes=true, unless model.order=simultaneous"),
        ({"regularizers": {"r1": R1(RAMP)}}, {}, "a Ramp in the game"),
        ({"regularizers": {"r1": R1Finite(1.0)}}, {}, "R1Finite, whose class does not say replayable = True"),
        (
            {"generator_regularizers": {"gdpp": GDPP(1.0)}, "discriminator": Layered()},
            {},
            "GDPP, whose class does not say replayable = True",
        ),
        ({"game": OwnGame}, {}, "OwnGame, whose class does not say replayable = True"),
        ({"augment": OwnAugment()}, {}, "OwnAugment, whose class does not say replayable = True"),
        ({"augment": ADA()}, {}, "augment=ada"),
        ({"augment": ADA(target=None, p=0.3)}, {}, "augment=ada"),
    ],
    ids=lambda part: part.split(",")[0].replace(" ", "_") if isinstance(part, str) else "",
)
def test_what_a_graph_would_not_follow_is_refused(gan: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be combined with {named}: leave out one of the two"):
        check_graphs(small_gan(**gan), trainer(**changes))


def test_compiled_networks_are_refused() -> None:
    gan = small_gan()
    gan.game.compile_networks()
    with pytest.raises(UsageError, match=r"trainer\.compile=true"):
        check_graphs(gan, trainer())
