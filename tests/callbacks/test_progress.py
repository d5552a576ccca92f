"""One line now and then where there is no terminal, a bar where there is one."""

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback
from lightning.pytorch.callbacks import RichProgressBar

from gan_lightning.callbacks import progress as module
from gan_lightning.callbacks.progress import ProgressLines, progress
from gan_lightning.gan import GAN


class Clock(Callback):
    """A clock that a batch moves on by some seconds."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.seconds = 100.0, seconds
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def on_train_batch_end(self, *_: Any) -> None:
        self.now += self.seconds


def data(n: int) -> GivenData:
    noise = torch.Generator().manual_seed(7)
    return GivenData(torch.randn(n, 4, 2, generator=noise, dtype=torch.double), 4)


def lines(capsys: pytest.CaptureFixture[str], *callbacks: Callback, steps: int = 10, **options: Any) -> list[str]:
    options = {"enable_progress_bar": True, "log_every_n_steps": 1} | options
    fit(small_gan(), data(5), steps, callbacks=list(callbacks), **options)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("every_seconds", "seconds", "steps"),
    [
        (3.0, 1.0, [3, 6, 9, 10]),
        (5.0, 2.0, [3, 6, 9, 10]),
        (1e6, 1.0, [10]),
        (4.0, 4.0, [*range(1, 11), 10]),
        (5.0, 100.0, [*range(1, 11), 10]),
    ],
)
def test_at_most_one_line_in_every_so_many_seconds_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    every_seconds: float,
    seconds: float,
    steps: list[int],
) -> None:
    printed = lines(capsys, Clock(seconds, monkeypatch), ProgressLines(every_seconds))
    assert [int(re.search(r"step (\d+)/10", line)[1]) for line in printed] == steps  # type: ignore[index]


class _Metric(Callback):
    def on_train_batch_start(self, trainer: Any, module: GAN, *_: Any) -> None:
        module.log("val/quality", 0.123456789, prog_bar=True, logger=False)


def test_a_line_has_the_epoch_the_step_the_losses_and_the_metrics(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = lines(capsys, Clock(1.0, monkeypatch), _Metric(), ProgressLines(1.0), steps=7)
    number = r"-?\d+(\.\d+)?(e-?\d+)?"
    pattern = rf"epoch \d+, step \d+/7, .*loss_d {number}, loss_g {number}"
    for line in printed:
        assert re.match(pattern, line), line
        assert "val/quality 0.1235" in line
        assert "v_num" not in line
    assert printed[0].startswith("epoch 0, step 1/7")
    assert printed[5].startswith("epoch 1, step 6/7")


def test_the_losses_of_a_line_are_those_that_are_logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, module: GAN, *_: Any) -> None:
            losses = [module.log_line[f"loss/{name}"] for name in ("discriminator", "generator")]
            seen.append("loss_d {:.4g}, loss_g {:.4g}".format(*losses))

    printed = lines(capsys, Clock(1.0, monkeypatch), Watch(), ProgressLines(1.0), steps=5)
    assert len(set(seen)) == 5
    for line, losses in zip(printed, seen, strict=False):
        assert losses in line


def test_a_run_of_epochs_shows_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, ProgressLines(1e6), steps=-1, max_epochs=2)
    assert re.match(r"epoch \d/2, step 10, ", line)


def test_disabled_lines_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    silent = ProgressLines(0.0)
    silent.disable()
    assert lines(capsys, silent) == []
    silent.enable()
    assert lines(capsys, silent)


class _Terminal(io.StringIO):
    def __init__(self, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


def test_a_terminal_gets_a_bar_and_anything_else_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", _Terminal(True))
    assert isinstance(progress(2.0), RichProgressBar)
    monkeypatch.setattr(sys, "stdout", _Terminal(False))
    plain = progress(2.0)
    assert isinstance(plain, ProgressLines)
    assert plain.every_seconds == 2.0
