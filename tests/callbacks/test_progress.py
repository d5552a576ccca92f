"""One line now and then where there is no terminal, a bar where there is one."""

import io
import os
import pty
import re
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback
from rich.console import Console
from rich.live import Live

from gan_lightning.callbacks import progress as module
from gan_lightning.callbacks.progress import ProgressLines, TerminalProgress, bar, progress
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
    assert isinstance(progress(2.0), TerminalProgress)
    monkeypatch.setattr(sys, "stdout", _Terminal(False))
    plain = progress(2.0)
    assert isinstance(plain, ProgressLines)
    assert plain.every_seconds == 2.0


def on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch, *callbacks: Callback, **options: Any) -> list[str]:
    """What a run writes to a pseudo-terminal of so many columns: its lines, each with every drawing of it."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        console = Console(file=terminal, width=width, height=24)
        monkeypatch.setattr(module, "Live", partial(Live, console=console))
        options = {"enable_progress_bar": True, "log_every_n_steps": 1, "steps": 10} | options
        fit(small_gan(), data(5), callbacks=[*callbacks, TerminalProgress(0.0)], **options)
    written = b""
    while chunk := _read(ours):
        written += chunk
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).split("\r\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # the other end is closed and all is read
        return b""


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_a_terminal_gets_one_line_for_the_whole_run(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    line, *rest = on_a_terminal(width, monkeypatch, _Metric())
    assert rest == [""]
    drawings = line.split("\r")
    steps = [int(re.match(r"(\d+)/10 ", drawing)[1]) for drawing in drawings if drawing]  # type: ignore[index]
    assert sorted(set(steps)) == list(range(11))  # over two epochs
    assert steps == sorted(steps)
    assert max(map(len, drawings)) <= width
    if width >= 80:
        assert re.search(r"━ +\d+:\d\d < 0:00 +[\d.,]+/s +D [-\d.]+ +G [-\d.]+ +quality 0.123 *$", drawings[-1])


def test_what_a_run_prints_stands_above_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Talk(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                print("a word")

    *above, last, end = on_a_terminal(80, monkeypatch, Talk())
    assert [line.split("\r")[-1].strip() for line in above] == ["a word"]
    assert last.split("\r")[-1].startswith("10/10 ")
    assert end == ""


def test_the_total_is_of_updates_by_whichever_limit_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    by_epochs = on_a_terminal(80, monkeypatch, steps=-1, max_epochs=2)
    assert by_epochs[0].split("\r")[-1].startswith("10/10 ")


def test_a_run_without_end_shows_no_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 5

    line = on_a_terminal(80, monkeypatch, Stop(), steps=-1, max_epochs=-1)[0].split("\r")[-1]
    assert re.match(r"5 +━+ +\d+:\d\d +[\d.,]+/s ", line)


def test_an_interrupted_run_leaves_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fail(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                raise ArithmeticError("by the user")

    stopped: list[bool] = []
    monkeypatch.setattr(Live, "stop", lambda live, stop=Live.stop: (stopped.append(True), stop(live)))
    with pytest.raises(ArithmeticError):
        on_a_terminal(80, monkeypatch, Fail())
    assert stopped


@pytest.mark.parametrize("width", range(1, 130))
def test_texts_that_do_not_fit_are_left_out_from_the_last(width: int) -> None:
    texts = ["0:10:00 < 2:00:00", "12,345/s", "D 1.39", "G -0.693", "reverse_kl 0.00144", "fid 12.3"]
    with Console(file=io.StringIO(), width=width, force_terminal=False) as console, console.capture() as capture:
        console.print(bar(10_000, 10_000, texts, width))
    (line,) = capture.get().splitlines()
    assert len(line) <= width
    shown = [text in line for text in texts]
    assert shown == sorted(shown, reverse=True)
    assert shown[:4] == [True] * 4 or width < 80
    assert all(shown) == (width >= 100)
