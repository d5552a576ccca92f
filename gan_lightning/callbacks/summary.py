"""Summaries of a run: its speed during training, and ``metrics.json`` at the end."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from gan_lightning.callbacks.clock import Clock
from gan_lightning.files import written_aside
from gan_lightning.gan import GAN

METRICS = "metrics.json"  # exists only once a run has finished


class Throughput(Callback):
    """Logs real images per second on all devices, and counts the run's seconds across resumes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._clock = 0.0
        self._images = 0
        self._logged_step = 0
        self._logged_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._clock = time.monotonic()
        self._mark(trainer, module)
        if trainer.is_global_zero:  # of a finished run that is extended
            (Path(trainer.default_root_dir) / METRICS).unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step // every == self._logged_step // every:
            return
        images, seconds = self._images, self._logged_seconds
        self._mark(trainer, module)
        speed = (self._images - images) / max(self._logged_seconds - seconds, 1e-9)
        module.log_line["images_per_second"] = speed  # type: ignore[index,operator]
        for logger in trainer.loggers:
            logger.log_metrics({"images_per_second": speed}, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.seconds, self._clock = self._elapsed(), 0.0

    def _elapsed(self) -> float:
        return self.seconds + (time.monotonic() - self._clock if self._clock else 0.0)

    def _mark(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GAN)
        self._images = int(module.images_seen)
        self._logged_step = trainer.global_step
        self._logged_seconds = self._elapsed()


def write_metrics(path: Path, trainer: Trainer, module: GAN, seconds: float, metrics: dict[str, float]) -> None:
    """Write ``metrics.json``: step, images_seen, seconds, images_per_second, peak_memory_bytes and final ``val/...``.

    ``monitor`` names the metric by which runs are compared. With image metrics, ``features`` names the network whose
    features they compare.
    """
    images = int(module.images_seen)
    data = trainer.datamodule  # type: ignore[attr-defined]
    summary = {
        "step": trainer.global_step,
        "images_seen": images,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / max(seconds, 1e-9), 1),
        "peak_memory_bytes": peak_memory(module.device),
        **({"monitor": data.monitor[0]} if data.monitor else {}),
        **({"features": data.features_name} if data.features_name else {}),
        **metrics,
    }
    with written_aside(path) as aside:
        aside.write_text(json.dumps(summary, indent=2) + "\n")


def why_stopped(trainer: Trainer) -> str:
    """Say in a sentence what stopped the run early; empty for other callbacks than these."""
    if not trainer.should_stop:
        return ""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"Stopped early: {callback.stopping_reason_message.removesuffix(' Signaling Trainer to stop.')}"
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            return "Stopped by trainer.max_time."
        if isinstance(callback, Clock) and callback.is_over:
            return f"Stopped by callbacks.clock after {callback.seconds:.1f} s of training."
    return ""


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on the GPU if it is used, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
