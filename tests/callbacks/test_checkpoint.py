"""Checkpoints that a full disk, a divergence or a signal cannot spoil."""

import errno
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback
from torch import Tensor
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from gan_lightning.data.loader import Batches
from gan_lightning.errors import Diverged, Fault, Stopped
from gan_lightning.gan import GAN


class Scripted(Metric):
    """A metric whose value at each validation is written down beforehand."""

    def __init__(self, values: Iterator[float]) -> None:
        super().__init__()
        self.values = values

    def update(self, generated: Batch, real: Batch) -> None:
        """Nothing is measured."""

    def compute(self) -> Tensor:
        return torch.tensor(next(self.values))


class JudgedData(GivenData):
    """Data of which a script says how good the generator is."""

    def __init__(self, rounds: Tensor, script: list[float], mode: str) -> None:
        super().__init__(rounds, 4)
        self.script = iter(script)
        self.monitor = ("val/script", mode)

    def metrics(self) -> dict[str, Metric]:
        return {"script": Scripted(self.script)}

    def val_dataloader(self) -> Batches:
        return Batches(Batch(torch.zeros(4, 2, dtype=torch.double)), 4)


def rounds(n: int) -> Tensor:
    return torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(7), dtype=torch.double)


def run(folder: Path, *callbacks: Callback, steps: int = 4, **options: Any) -> Any:
    defaults: dict[str, Any] = {"data": GivenData(rounds(4), 4), "gan": small_gan()}
    options = {"num_sanity_val_steps": 0} | options
    data, gan = (options.pop(name, default) for name, default in defaults.items())
    return fit(
        gan,
        data,
        steps,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=True,
        plugins=[AtomicCheckpointIO()],
        **options,
    )


def saved(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# ------------------------------------------------------------------------------------------------------- the file


def test_a_checkpoint_is_written_as_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.arange(3)}, path)
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.arange(3))
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "a.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"x": 1}, path)

    def full_disk(_: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(Fault if isinstance(error, OSError) else type(error)):
        io.save_checkpoint({"x": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_full_disk_in_the_run_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = torch.save, []

    def full_at_the_third(content: Any, file: Any) -> None:
        written.append(content["global_step"])
        if len(written) == 3:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, file)

    monkeypatch.setattr(torch, "save", full_at_the_third)
    with pytest.raises(Fault, match="no space left"):
        run(tmp_path, RunCheckpoint(0))
    assert written == [1, 2, 3]
    assert saved(tmp_path)["global_step"] == 2
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt"]


# -------------------------------------------------------------------------------------------------- last and best


@pytest.mark.parametrize(
    ("mode", "script", "best"),
    [
        ("min", [3.0, 1.0, 2.0, 0.5, 4.0], 4),
        ("max", [3.0, 1.0, 5.0, 0.5, 4.0], 3),
        ("min", [1.0, 1.0, 1.0, 1.0, 1.0], 1),
        ("min", [float("nan"), 2.0, 1.0, float("nan"), 3.0], 3),
        ("max", [float("nan"), 2.0, 1.0, float("nan"), 1.5], 2),
    ],
)
def test_best_is_the_epoch_with_the_best_metric_and_last_the_end(
    tmp_path: Path, mode: str, script: list[float], best: int
) -> None:
    run(tmp_path, RunCheckpoint(), steps=20, data=JudgedData(rounds(4), script, mode))
    assert names(tmp_path) == ["best.ckpt", "last.ckpt"]
    assert saved(tmp_path, "best")["global_step"] == 4 * best
    assert saved(tmp_path)["global_step"] == 20
    (state,) = (s for name, s in saved(tmp_path)["callbacks"].items() if name.startswith("RunCheckpoint"))
    assert state == {"best": script[best - 1], "measured_by": ["val/script", 0, None], "stopped": False}


def test_the_sanity_check_of_untrained_weights_is_no_validation(tmp_path: Path) -> None:
    data = JudgedData(rounds(4), [0.0, 3.0, 2.0], "min")
    run(tmp_path, RunCheckpoint(), steps=8, data=data, num_sanity_val_steps=1)
    assert saved(tmp_path, "best")["global_step"] == 8


def test_without_a_metric_there_is_no_best(tmp_path: Path) -> None:
    run(tmp_path, RunCheckpoint())
    assert names(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("steps", [3, 4, 6, 8])
def test_the_end_of_the_run_is_saved_wherever_it_lies_in_the_epoch(tmp_path: Path, steps: int) -> None:
    trainer = run(tmp_path, RunCheckpoint(), steps=steps)
    content = saved(tmp_path)
    assert content["global_step"] == steps
    for name, weight in trainer.lightning_module.state_dict().items():
        assert torch.equal(content["state_dict"][name], weight), name


def test_a_run_of_epochs_is_saved_at_its_end(tmp_path: Path) -> None:
    run(tmp_path, RunCheckpoint(), steps=-1, max_epochs=2)
    assert saved(tmp_path)["global_step"] == 8


class _Steps(Callback):
    """Which step the last checkpoint has after each batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer: Any, module: GAN, *_: Any) -> None:
        exists = (self.folder / "checkpoints" / "last.ckpt").exists()
        self.seen.append(saved(self.folder)["global_step"] if exists else 0)


@pytest.mark.parametrize(("every_seconds", "expected"), [(0, [0, 1, 2, 3, 4, 5]), (1e9, [0] * 6)])
def test_last_is_written_when_its_time_has_come(tmp_path: Path, every_seconds: float, expected: list[int]) -> None:
    steps = _Steps(tmp_path)
    run(tmp_path, RunCheckpoint(every_seconds), steps, steps=6)
    assert steps.seen == expected


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.checkpoint\.every_seconds is -1"):
        RunCheckpoint(-1)


# ------------------------------------------------------------------------------------------------------ divergence


class _At(Callback):
    """Does something after the batch that ends at a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.action(module)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_weight_that_is_not_finite_is_never_saved(tmp_path: Path, network: str, value: float) -> None:
    def poison(module: GAN) -> None:
        with torch.no_grad():
            getattr(module.game, network)[0].weight[0, 0] = value

    with pytest.raises(
        Diverged, match=r"weight is no longer finite at step 3: .*last good checkpoint, if any, is kept"
    ):
        run(tmp_path, RunCheckpoint(0), _At(3, poison))
    assert saved(tmp_path)["global_step"] == 2
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt"]
    assert all(weight.isfinite().all() for weight in saved(tmp_path)["state_dict"].values())


def test_an_optimizers_state_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    """Adam's second moments, if infinite, freeze the weights, which stay finite."""

    def poison(module: GAN) -> None:
        state = module.round.g.optimizer.state[module.game.generator[0].weight]
        state["exp_avg_sq"].fill_(float("inf"))

    gan = small_gan(generator_optimizer=partial(torch.optim.Adam, lr=0.1))
    with pytest.raises(Diverged, match=r"optimizer state exp_avg_sq of weight 0 is no longer finite at step 3: "):
        run(tmp_path, RunCheckpoint(0), _At(3, poison), gan=gan)
    assert saved(tmp_path)["global_step"] == 2


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    gan = small_gan()
    of_g, calls = gan.game.loss.generator, []

    def broken(**logits: Any) -> Tensor:
        calls.append(1)
        return of_g(**logits) + (float("nan") if len(calls) == 3 else 0.0)

    gan.game.loss.generator = broken  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="generator's loss is nan at step 3"):
        run(tmp_path, RunCheckpoint(0), gan=gan)
    assert saved(tmp_path)["global_step"] == 2


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_ends_the_run_after_the_batch_with_a_checkpoint(
    tmp_path: Path, signum: signal.Signals, step: int
) -> None:
    def mine(*_: Any) -> None:
        raise AssertionError("the former handler was called")

    former = signal.signal(signum, mine)
    try:
        with pytest.raises(Stopped):
            run(tmp_path, RunCheckpoint(), _At(step, lambda _: os.kill(os.getpid(), signum)), steps=20)
        assert signal.getsignal(signum) is mine
    finally:
        signal.signal(signum, former)
    assert saved(tmp_path)["global_step"] == step


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def twice(_: GAN) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs do not have
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(tmp_path, RunCheckpoint(), _At(2, twice), steps=20)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, former)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("steps", [4, 20])
def test_handlers_are_restored_after_a_run_and_after_an_error(tmp_path: Path, steps: int) -> None:
    former = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def fail(_: GAN) -> None:
        raise RuntimeError("in the middle")

    if steps == 4:
        run(tmp_path, RunCheckpoint(), steps=4)
    else:
        with pytest.raises(RuntimeError, match="in the middle"):
            run(tmp_path, RunCheckpoint(), _At(6, fail), steps=20)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == former


def test_a_stop_at_a_validation_keeps_its_best(tmp_path: Path) -> None:
    """The last checkpoint is of before that validation, and a resumed run must not forget what it found."""
    data = JudgedData(rounds(4), [3.0, 2.0], "min")
    run(tmp_path, RunCheckpoint(), steps=2, data=data, val_check_interval=1)
    states = [saved(tmp_path, name)["callbacks"]["RunCheckpoint"] for name in ("last", "best")]
    assert [state["best"] for state in states] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("features", "samples", "digest", "best"),
    [("a", 4, "d", 1.0), ("b", 4, "d", 5.0), ("a", 8, "d", 5.0), ("a", 4, "e", 5.0)],
)
def test_scores_that_cannot_be_compared_do_not_rank_checkpoints(
    tmp_path: Path, features: str, samples: int, digest: str, best: float
) -> None:
    callback = RunCheckpoint()
    callback.load_state_dict({"best": 1.0, "measured_by": ["a", 4, "d"], "stopped": False})
    data = JudgedData(rounds(4), [5.0], "min")
    data.features_name, data.validation_samples, data.held_out_digest = features, samples, digest
    run(tmp_path, callback, data=data)
    assert callback.best == best
