"""Show progress: a bar in a terminal, and a line every few seconds elsewhere."""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.live import Live
from rich.progress_bar import ProgressBar as RichBar
from rich.table import Table

from gan_lightning.gan import GAN, total_steps

SHOWN = {"images/s": "images_per_second", "loss_d": "loss/discriminator", "loss_g": "loss/generator"}
SHORTEST, LONGEST = 8, 40  # columns of a bar


def progress(every_seconds: float = 5.0) -> ProgressBar:
    """A bar if the output is a terminal, else lines every ``every_seconds``."""
    return TerminalProgress() if sys.stdout.isatty() else ProgressLines(every_seconds)


def last_line(module: LightningModule) -> dict[str, Any]:
    """The values of the last log line that are shown."""
    assert isinstance(module, GAN)
    return {name: module.log_line[key] for name, key in SHOWN.items() if key in module.log_line}


class TerminalProgress(ProgressBar):
    """Shows one bar over the whole run, counted in generator updates, in one line that fits the terminal."""

    def __init__(self, every_seconds: float = 0.1) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._enabled = True
        self._live: Live | None = None
        self._total: int | None = None
        self._first = 0  # the step that this process started from
        self._began_at = self._drawn_at = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._enabled:
            return
        has_end = trainer.max_steps >= 0 or (trainer.max_epochs or -1) >= 0
        self._total = total_steps(trainer) if has_end else None
        self._first, self._began_at = trainer.global_step, time.monotonic()
        self._live = Live(auto_refresh=False)
        self._live.start()
        self._draw(trainer, module)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self._drawn_at >= self.every_seconds:
            self._draw(trainer, module)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._draw(trainer, module, "validating")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._draw(trainer, module)
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()  # leaves the last line in place
            self._live = None

    def _draw(self, trainer: Trainer, module: LightningModule, doing: str = "") -> None:
        if self._live is None:
            return
        self._drawn_at = time.monotonic()
        step, seconds = trainer.global_step, self._drawn_at - self._began_at
        speed = (step - self._first) / seconds if seconds else 0.0
        texts = [_clock(seconds), f"{_short(speed, 3)}/s" if speed else ""]
        if speed and self._total is not None:
            texts[0] += f" < {_clock((self._total - step) / speed)}"
        texts += [f"{name} {_short(value, 3)}" for name, value in self._values(trainer, module).items()]
        texts = [text for text in (doing, *texts) if text]
        self._live.update(bar(step, self._total, texts, self._live.console.width), refresh=True)

    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Both losses and two metrics, the data's monitor first."""
        line, metrics = last_line(module), self.get_metrics(trainer, module)
        monitor = getattr(getattr(trainer, "datamodule", None), "monitor", None) or ("",)
        names = sorted(metrics.keys() - {"v_num"}, key=lambda name: (name != monitor[0], name))
        losses = {short: line[name] for short, name in (("D", "loss_d"), ("G", "loss_g")) if name in line}
        return losses | {name.removeprefix("val/"): metrics[name] for name in names[:2]}


def bar(step: int, total: int | None, texts: Sequence[str], width: int) -> Table:
    """One line: the steps, a bar, and as many of the texts as fit."""
    steps = f"{step:,}" + ("" if total is None else f"/{total:,}")
    room, shown = width - len(steps) - 2 - SHORTEST, list[str]()
    for text in texts:
        room -= len(text) + 2
        if room < 0:
            break
        shown.append(text)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2 + len(shown)):
        grid.add_column(no_wrap=True)
    length = min(LONGEST, max(SHORTEST, SHORTEST + room))
    grid.add_row(steps, RichBar(total, step, width=length, pulse=total is None), *shown)
    return grid


def _clock(seconds: float) -> str:
    """Format as [hours:]minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressLines(ProgressBar):
    """Prints the step, the losses and the metrics every ``every_seconds``, for output that is not a terminal."""

    def __init__(self, every_seconds: float = 5.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._printed_at = 0.0
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._printed_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._printed_at >= self.every_seconds:
            self._printed_at = now
            self._print(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._print(trainer, module)

    def _print(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._enabled:
            return
        metrics = last_line(module) | self.get_metrics(trainer, module)
        metrics.pop("v_num", None)
        steps = f"step {trainer.global_step}" + (f"/{trainer.max_steps}" if trainer.max_steps >= 0 else "")
        epochs = f"epoch {trainer.current_epoch}" + (
            f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) >= 0 else ""
        )
        values = ", ".join(f"{k} {_short(v)}" for k, v in metrics.items())
        print(", ".join(part for part in (epochs, steps, values) if part), flush=True)


def _short(value: Any, digits: int = 4) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= value < math.inf else f"{value:.{digits}g}"
