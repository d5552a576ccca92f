"""The clock of a race: seconds of training alone, whatever else takes time and however often a run is resumed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback
from omegaconf import DictConfig
from torch import Tensor

from gan_lightning.callbacks import clock
from gan_lightning.callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from gan_lightning.callbacks.clock import Clock, mean_over_ranks
from gan_lightning.callbacks.summary import why_stopped
from gan_lightning.errors import UsageError


class Time:
    """A second passes whenever it is looked at: a batch takes one, and one passes before the next."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now


class Slow(Callback):
    """A neighbor whose work takes a hundred seconds after each batch."""

    def __init__(self, time: Time) -> None:
        self.time = time

    def on_train_batch_end(self, *_: Any) -> None:
        self.time.now += 100


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "time", time)
    return time


def run(folder: Path, time: Time, *at_seconds: float, steps: int = 20, checkpoint: Path | None = None) -> Any:
    torch.manual_seed(0)
    rounds = torch.randn(20, 4, 2, generator=torch.Generator().manual_seed(7), dtype=torch.double)
    return fit(
        small_gan(),
        GivenData(rounds, 4),
        steps,
        checkpoint,
        callbacks=[Clock(at_seconds), Slow(time), RunCheckpoint(0)],
        default_root_dir=folder,
        enable_checkpointing=True,
        plugins=[AtomicCheckpointIO()],
    )


def saved(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def reached(folder: Path, name: str) -> tuple[int, float]:
    content = saved(folder, name)
    return content["global_step"], content["callbacks"]["Clock"]["seconds"]


def test_a_checkpoint_is_kept_after_each_time_and_the_last_ends_the_run(tmp_path: Path, time: Time) -> None:
    trainer = run(tmp_path, time, 4.5, 2, 2)
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == {"at_2s", "at_4.5s", "last", "previous"}
    assert reached(tmp_path, "at_2s") == (2, 2.0)
    assert reached(tmp_path, "at_4.5s") == reached(tmp_path, "last") == (5, 5.0)
    assert saved(tmp_path, "last")["callbacks"]["RunCheckpoint"]["stopped"] is True
    assert why_stopped(trainer) == "Stopped by callbacks.clock after 5.0 s of training."


def test_a_run_that_ends_before_keeps_what_it_has_reached(tmp_path: Path, time: Time) -> None:
    assert why_stopped(run(tmp_path, time, 2, 5, steps=3)) == ""
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == {"at_2s", "last", "previous"}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_resumed_clock_goes_on(tmp_path: Path, time: Time, steps: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, time, 2, 5)
    run(parts, time, 2, 5, steps=steps)
    run(parts, time, 2, 5, checkpoint=parts / "checkpoints" / "last.ckpt")
    for name in ("at_2s", "at_5s"):
        assert reached(parts, name) == reached(whole, name)
        one, other = saved(whole, name)["state_dict"], saved(parts, name)["state_dict"]
        assert all(torch.equal(other[key], value) for key, value in one.items())


def test_processes_go_by_their_mean() -> None:
    def reduce(seconds: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "mean"
        return (seconds + 3) / 2

    trainer: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce))
    module: Any = SimpleNamespace(device="cpu")
    assert mean_over_ranks(trainer, module, 1.0) == 2.0


def test_the_clock_comes_before_what_it_does_not_count(configure: Callable[..., DictConfig]) -> None:
    callbacks = configure("experiment=mnist_10_minutes", "callbacks=race").callbacks
    assert list(callbacks) == ["clock", *configure().callbacks]
    assert callbacks.samples.n == 100


@pytest.mark.parametrize("at_seconds", [[], [60, 0], [-1]])
def test_times_that_never_come_are_refused(at_seconds: list[float]) -> None:
    with pytest.raises(UsageError, match=r"^callbacks\.clock\.at_seconds is \[.*\]: give a list of numbers above 0\.$"):
        Clock(at_seconds)
