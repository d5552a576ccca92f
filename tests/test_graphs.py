"""Replayed updates train as eager ones do; the graph of the GPU itself is tested by scripts/gpu.py."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.testing import assert_close

from gan_lightning import gan as gan_module
from gan_lightning import graphs
from gan_lightning.augment import ADA
from gan_lightning.errors import UsageError
from gan_lightning.finite_difference import R1Finite
from gan_lightning.gan import GAN
from gan_lightning.graphs import Graphs, check_graphs
from gan_lightning.losses import Relativistic
from gan_lightning.regularizers import R1, R2, GradientPenalty
from gan_lightning.schedules import Ramp

STEPS = 23


class OnCPU:
    """Stands for CUDA: a replay reads and writes the memory of the capture, by running the computation again."""

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


def trainer(**changes: Any) -> Any:
    """A Trainer on a GPU, as far as the check reads it."""
    usual = {
        "strategy": SingleDeviceStrategy(device=torch.device("cuda", 0)),
        "world_size": 1,
        "precision_plugin": Precision(),
        "profiler": PassThroughProfiler(),
        "callbacks": [],
    }
    return SimpleNamespace(**(usual | changes))


def test_a_gan_on_a_gpu_may_be_replayed() -> None:
    check_graphs(noisy_gan(True), trainer())


HALF = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize(
    ("gan", "changes", "named"),
    [
        ({}, {"strategy": SingleDeviceStrategy(device=torch.device("cpu"))}, "a run on cpu"),
        ({}, {"world_size": 2}, "several devices"),
        ({}, {"precision_plugin": HALF}, "trainer.precision=16-mixed"),
        ({}, {"profiler": SimpleProfiler()}, "a profiler"),
        ({"order": "simultaneous"}, {}, "model.order=simultaneous"),
        ({"reuse_fakes": True}, {}, "model.reuse_fakes=true"),
        ({"regularizers": {"r1": R1(Ramp(1.0, 0.1, 9))}}, {}, "a scheduled value of the game"),  # type: ignore[arg-type]
        ({"regularizers": {"r1": R1Finite(1.0)}}, {}, "a penalty that repeats a pass"),
        ({"augment": ADA()}, {}, "an augmentation that adjusts p"),
    ],
    ids=lambda part: part.replace(" ", "_") if isinstance(part, str) else "",
)
def test_what_a_graph_would_leave_as_it_was_is_refused(
    gan: dict[str, Any], changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=f"cannot be combined with {named}: leave out one of the two"):
        check_graphs(small_gan(**gan), trainer(**changes))


def test_compiled_networks_are_refused() -> None:
    gan = small_gan()
    gan.game.is_compiled = True
    with pytest.raises(UsageError, match=r"trainer\.compile=true"):
        check_graphs(gan, trainer())
