"""Train a run from start to finish."""

import logging
import math
import os
import shlex
import signal
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf

from gan_lightning import loggers
from gan_lightning.build import build_data, build_gan, build_trainer, called, made_parts, plain
from gan_lightning.callbacks.checkpoint import RunCheckpoint, checkpoints
from gan_lightning.callbacks.game import GamePictures
from gan_lightning.callbacks.hyperparameters import HyperParameters
from gan_lightning.callbacks.periodic import Periodic
from gan_lightning.callbacks.summary import METRICS, Throughput, why_stopped, write_metrics
from gan_lightning.checkpoints import check_architecture, last_checkpoint, read_checkpoint, tidy
from gan_lightning.config import OPTIMIZERS
from gan_lightning.data.loader import RealData
from gan_lightning.errors import Stopped, UsageError, signal_name
from gan_lightning.files import needed, written_aside
from gan_lightning.gan import GAN, measured, total_steps
from gan_lightning.graphs import check_graphs
from gan_lightning.labels import said
from gan_lightning.launcher import together
from gan_lightning.lock import locked
from gan_lightning.loops import ResumedLoop
from gan_lightning.processor import advice, threads_for
from gan_lightning.rehearsal import check_networks, check_optimizers
from gan_lightning.resumption import (
    check_checkpoint,
    check_data,
    check_idle,
    check_length,
    is_done,
    make_absolute,
    say_changes,
    stays_stopped,
)
from gan_lightning.runs import read_mapping
from gan_lightning.warm_start import start_from


def train(
    config: DictConfig,
    folder: Path,
    extra_callbacks: Sequence[Callback] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, float]:
    """Train a configuration in a run folder, from the start or from its last checkpoint.

    ``options`` are logged as hyperparameters, together with the seed and the learning rates.
    Returns the final metrics by name.

    Raises:
        UsageError: before training, if the configuration, the data or the checkpoint cannot be used.
        Diverged: a loss or a weight is no longer finite.
    """
    quiet()
    with locked(folder):
        return _train(config, folder, extra_callbacks, options)


def _train(
    config: DictConfig, folder: Path, extra_callbacks: Sequence[Callback], options: Mapping[str, Any]
) -> dict[str, float]:
    """Train in a folder that this run has locked."""
    tidy(folder)
    checkpoint = last_checkpoint(folder) if config.resume else None
    check_folder(config, folder)
    data, gan = data_and_gan(config)
    throughput = Throughput()
    callbacks = [throughput, *made_parts(config.callbacks, Callback).values(), *extra_callbacks]
    callbacks.append(HyperParameters(hyperparameters(config, options) if config.trainer.enable_autolog_hparams else {}))
    saved = read_checkpoint(checkpoint) if checkpoint else {}
    if checkpoint:
        check_samples(saved, data, gan)
        check_architecture(checkpoint, saved, gan)
    if config.get("start_from") and not saved:
        start_from(gan, config.start_from)
    check_length(config, saved)
    changed = check_checkpoint(checkpoint, saved, config) if checkpoint else {}
    trainer = build_trainer(config, folder, callbacks)
    is_stopped = stays_stopped(saved, changed) if saved else False
    is_idle = bool(saved) and is_done(saved, config, is_stopped)
    if is_idle:
        check_idle(saved, changed)
    if is_idle and (folder / METRICS).exists():
        return nothing_left(folder, saved["global_step"])
    if saved:
        trainer.fit_loop = ResumedLoop(trainer, is_stopped, (folder / METRICS).exists)
        data.recall(saved["gan"]["data"])
    set_up(data, trainer, gan)
    rehearse(trainer, gan, data)
    if saved:
        check_data(saved, data.fingerprint, config)
    if saved and trainer.is_global_zero:
        say_changes(changed, saved, data.fingerprint, data.joint_batch)
    if trainer.is_global_zero:
        loggers.claim(trainer.loggers, folder, is_new=not config.resume)
    if trainer.is_global_zero and not is_idle:  # else it would state changes that no step was trained with
        write_config(config, folder)
    with together(trainer):
        metrics = _fit(config, folder, trainer, gan, data, throughput, saved)
    check_signals(trainer)
    return metrics


def data_and_gan(config: DictConfig) -> tuple[RealData, GAN]:
    """Prepare the process, and build the data and the untrained GAN of a configuration."""
    prepare_process(config)
    data = build_data(config)
    classes = called(data.__getattribute__, "classes")  # may read the names of folders
    gan = build_gan(config, data.sample_shape, classes, data.blocks)
    lay_out(gan, config)
    return data, gan


def check_samples(saved: Mapping[str, Any], data: RealData, gan: GAN) -> None:
    """Refuse data that the networks of the run to resume cannot see.

    Raises:
        UsageError: its samples have another shape, or conditional networks would have other classes.
    """
    former = saved["gan"]["data"]
    shapes = tuple(former["sample_shape"]), tuple(data.sample_shape)
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"The data have samples of shape {shapes[1]}, but the run was trained on samples of shape {shapes[0]}: "
            "give data of the same shape, or start a new run."
        )
    classes = len(former["class_names"]), called(data.__getattribute__, "classes")
    if gan.game.is_conditional and classes[0] != classes[1]:
        raise UsageError(
            f"The data have {classes[1]} classes, but the run was trained on {classes[0]}: give data of the same "
            "classes, or start a new run."
        )


def _fit(
    config: DictConfig,
    folder: Path,
    trainer: Trainer,
    gan: GAN,
    data: RealData,
    throughput: Throughput,
    saved: Mapping[str, Any],
) -> dict[str, float]:
    """Train, from a checkpoint if there is one, then compute the final metrics and write them."""
    checkpoint = checkpoints(folder) / "last.ckpt" if saved else None
    if trainer.is_global_zero and config.resume:
        loggers.go_on(trainer.loggers, saved, was_done=(folder / METRICS).exists())
    try:
        threads = threads_for(gan, data, config.trainer.get("threads"))
        with told_where(trainer, data, folder), monitors_checked(trainer), threads:
            trainer.fit(gan, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        reason = why_stopped(trainer)
        metrics = final_metrics(trainer, gan, data)
        if trainer.is_global_zero and not config.trainer.fast_dev_run:
            with needed(folder / METRICS):
                write_metrics(folder / METRICS, trainer, gan, throughput.seconds, metrics)
            report(folder, trainer, gan, metrics, reason)
    finally:
        loggers.finish(trainer.loggers)
    return metrics


def rehearse(trainer: Trainer, gan: GAN, data: RealData) -> None:
    """Try networks, optimizers and pictures once, before anything is written.

    Raises:
        UsageError: one of them does not work.
    """
    if gan.cuda_graphs:
        check_graphs(gan, trainer)
    check_networks(gan, data)
    check_optimizers(gan, trainer, data)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GamePictures):
            callback.rehearse(gan, data)
    if gan.game.is_conditional and data.class_names and trainer.is_global_zero:  # pix2pix is conditioned on images
        print(said(data.class_names))
    if trainer.is_global_zero and (faster := advice(trainer, gan, data)):
        print(faster)


@contextmanager
def told_where(trainer: Trainer, data: RealData, folder: Path) -> Iterator[None]:
    """When a signal stops the run, say at which step and how to resume it."""
    try:
        yield
    except Stopped as stopped:
        requeue(trainer, stopped.signum)
        length = f" of {steps:,}" if (steps := planned_steps(trainer, data)) else ""
        place = shlex.quote(os.path.relpath(folder))
        raise Stopped(
            stopped.signum,
            f"Stopped by {signal_name(stopped.signum)} at step {trainer.global_step:,}{length}, with a checkpoint: "
            f"resume with python train.py resume={place}, or repeat the command of a sweep.",
        ) from None


def nothing_left(folder: Path, step: int) -> dict[str, float]:
    """Say that a run has finished and how to train longer; returns its final metrics."""
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        print(
            f"Nothing is left to train: the run finished at step {step:,}; to train longer, run "
            f"python train.py resume={shlex.quote(os.path.relpath(folder))} trainer.max_steps={2 * step}"
        )
    metrics = read_mapping(folder / METRICS) or {}
    return {name: value for name, value in metrics.items() if name.startswith("val/")}


def requeue(trainer: Trainer, signum: int) -> None:
    """Ask SLURM to requeue this job if it has announced the end of the job's time."""
    slurm: Any = trainer._accelerator_connector.cluster_environment
    if not isinstance(slurm, SLURMEnvironment) or not slurm.auto_requeue or not trainer.is_global_zero:
        return
    if signum == (slurm.requeue_signal or signal.SIGUSR1):
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
        subprocess.run(["scontrol", "requeue", job], check=False)


def planned_steps(limits: Any, data: Any) -> int | None:
    """The number of generator updates in the whole run, by a Trainer's limits; None if only a time limit ends it."""
    if limits.max_steps < 0 and limits.max_epochs in (None, -1):
        return None
    return total_steps(SimpleNamespace(max_steps=limits.max_steps, max_epochs=limits.max_epochs, datamodule=data))


def check_signals(trainer: Trainer) -> None:
    """Start nothing after the run if a signal arrived during its last batch.

    Raises:
        Stopped: a signal arrived.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunCheckpoint) and callback.signum is not None:
            raise Stopped(callback.signum)


def check_folder(config: DictConfig, folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        UsageError: the folder holds a run, or checkpoints of one.
    """
    # the other processes of a run start after the first one has written the configuration
    if config.resume or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return
    if (folder / "config.yaml").exists():
        raise UsageError(
            f"{folder} already holds a run: resume it with {shlex.quote(f'resume={folder}')}, or choose another "
            "hydra.run.dir."
        )
    if found := next(checkpoints(folder).glob("*.ckpt"), None):
        raise UsageError(
            f"{found} belongs to a run whose config.yaml is missing: restore that file to resume the run, or choose "
            "another hydra.run.dir."
        )


def prepare_process(config: DictConfig) -> None:
    """Set the seed and the precision of matrix products for the whole process, and make paths absolute."""
    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # else torch's Adam looks for a driver at every step
    make_absolute(config)  # else the paths would follow the folder in which the run is resumed
    torch.set_float32_matmul_precision(config.trainer.get("float32_matmul_precision", "highest"))
    seed_everything(config.seed, verbose=False)


def lay_out(gan: GAN, config: DictConfig) -> None:
    """Apply the memory formats that networks ask for, and compile the networks if requested."""
    compiles = config.trainer.get("compile")
    for module in gan.modules():
        # on a GPU, compiled networks fail with weights in channels-last format
        if (layout := getattr(module, "memory_format", None)) and not (compiles and torch.cuda.is_available()):
            module.to(memory_format=layout)
    if compiles:
        print("The networks are compiled during the first steps, which may take a few minutes")
        gan.game.compile_networks()


def set_up(data: RealData, trainer: Trainer, gan: GAN) -> None:
    """Download and read the data, and check that there is enough, before anything is written."""
    data.trainer = trainer
    called(data.prepare_data)
    called(data.setup, "fit")
    trainer.strategy.connect(gan)  # tells the data how many samples a round takes
    called(data.check_size)
    check_validation(data, trainer)
    check_least(data, trainer)
    check_periods(data, trainer)
    if trainer.world_size > 1 and trainer.is_global_zero:
        n, k = data.batch_size, trainer.world_size
        print(f"data.batch_size={n} is per device: an update uses {n * k} samples on {k} devices")


def check_validation(data: RealData, trainer: Trainer) -> None:
    """Refuse a validation that a callback waits for and that never comes, or not to all processes at the same batch.

    Raises:
        UsageError: a callback monitors a metric though nothing is validated; the interval is counted within epochs and
            longer than an epoch, or it is a duration, which each of several processes measures by itself.
    """
    validates = is_overridden("val_dataloader", data) and trainer.limit_val_batches != 0
    for callback in () if validates else trainer.callbacks:  # type: ignore[attr-defined]
        if str(monitor := getattr(callback, "monitor", None)).startswith("val/"):
            raise UsageError(
                f"{type(callback).__name__} has monitor={monitor}, but nothing is validated: give "
                "data.validation_samples or trainer.limit_val_batches above 0, or monitor a loss."
            )
    if trainer._val_check_time_interval is not None and trainer.world_size > 1:  # type: ignore[attr-defined]
        raise UsageError("trainer.val_check_interval is a duration, which several devices cannot share: give batches.")
    check_shares(data, trainer, validates)
    interval, batches = trainer.val_check_interval, -(-data.rounds_in_epoch() // data.rounds_per_batch)
    within_epochs = trainer.check_val_every_n_epoch is not None
    overfits = trainer.overfit_batches  # type: ignore[attr-defined]
    if isinstance(interval, int) and interval > batches and within_epochs and not overfits:
        raise UsageError(
            f"trainer.val_check_interval is {interval}, but an epoch has {batches} batches: give at most that many, or "
            "trainer.check_val_every_n_epoch=null to count the batches of all epochs."
        )


def check_shares(data: RealData, trainer: Trainer, validates: bool) -> None:
    """Refuse a share of the batches that is less than one batch, before Lightning does so in the middle of a start.

    Raises:
        UsageError: there is one.
    """
    for stage in ("train", "val") if validates else ("train",):
        share = getattr(trainer, f"limit_{stage}_batches")
        if not isinstance(share, float) or not 0 < share < 1:
            continue
        n = len(data.val_dataloader()) if stage == "val" else -(-data.rounds_per_epoch // data.rounds_per_batch)
        if int(share * n) == 0:
            raise UsageError(
                f"trainer.limit_{stage}_batches or trainer.overfit_batches is {share}, which is less than one of the "
                f"{n} batches: give at least {math.ceil(100 / n) / 100}, or a whole number of batches."
            )


def check_least(data: RealData, trainer: Trainer) -> None:
    """Refuse a least length above the run's length, which Lightning would ignore.

    Raises:
        UsageError: trainer.min_steps or trainer.min_epochs is above it.
    """
    planned, fit = planned_steps(trainer, data), trainer.fit_loop
    if planned is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    least = {"min_steps": fit.min_steps or 0, "min_epochs": (fit.min_epochs or 0) * data.rounds_in_epoch()}
    for name, steps in least.items():
        if steps > planned:
            raise UsageError(
                f"trainer.{name} asks for at least {steps:,} updates, but the run has {planned:,}: give "
                f"trainer.max_steps={steps} or more."
            )


def check_periods(data: RealData, trainer: Trainer) -> None:
    """Refuse a callback that is to draw more often than batches end.

    Raises:
        UsageError: a batch has more rounds than the callback's period.
    """
    rounds = min(data.rounds_per_batch, data.rounds_in_epoch())  # a batch is of one epoch
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Periodic) and callback.every_n_steps < rounds:
            raise UsageError(
                f"{type(callback).__name__} has every_n_steps={callback.every_n_steps}, but draws after whole batches, "
                f"of {rounds} updates: give at least {rounds}, or start a new run with "
                f"data.rounds_per_batch={callback.every_n_steps}."
            )


@contextmanager
def monitors_checked(trainer: Trainer) -> Iterator[None]:
    """Report in one sentence that a callback monitors a metric that does not exist, which Lightning finds out late."""
    try:
        yield
    except (RuntimeError, MisconfigurationException) as error:
        kinds = {"Early stopping conditioned": "EarlyStopping", "`ModelCheckpoint(monitor": "ModelCheckpoint"}
        kind = next((kind for start, kind in kinds.items() if str(error).startswith(start)), None)
        if kind is None:
            raise
        names = trainer.callback_metrics
        monitors = [getattr(c, "monitor", None) for c in trainer.callbacks if type(c).__name__ == kind]  # type: ignore[attr-defined]
        absent = next(name for name in monitors if name not in names)
        raise UsageError(
            f"{kind} has monitor={absent}, which nothing logs: give one of {', '.join(sorted(names))}."
        ) from error


def final_metrics(trainer: Trainer, gan: GAN, data: RealData) -> dict[str, float]:
    """Compute the metrics of the run's final weights."""
    if data.monitor is None:
        return {}
    if gan.validated_step != trainer.global_step:
        trainer.validate(gan, datamodule=data, verbose=False)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunCheckpoint):
                callback.keep_final(trainer)
    return dict(sorted((gan.validated | measured(trainer)).items()))


def report(folder: Path, trainer: Trainer, gan: GAN, metrics: dict[str, float], reason: str = "") -> None:
    """Print why the run stopped early, if it did, its metrics, and where its files are and how to view them."""
    folder = Path(os.path.relpath(folder))
    if reason:
        print(reason)
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    print(
        f"Trained to step {trainer.global_step} on {int(gan.images_seen):,} samples" + (f": {values}" if values else "")
    )
    written = {"Pictures in": folder / "samples", "Checkpoint": checkpoints(folder) / "last.ckpt"}
    if places := [f"{what} {path}" for what, path in written.items() if path.exists()]:
        print(", ".join(places).replace(", Checkpoint", ", checkpoint"))
    for profile in sorted(folder.glob("fit-profile*")):
        print(f"Profile: {profile}")
    for line in filter(None, (loggers.where(logger, folder) for logger in trainer.loggers)):
        print(line)


def write_config(config: DictConfig, folder: Path) -> None:
    """Write the resolved configuration to ``config.yaml``."""
    path = folder / "config.yaml"
    with needed(path), written_aside(path) as aside:
        OmegaConf.save(OmegaConf.create(plain(config)), aside)


def hyperparameters(config: DictConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that distinguish this run from others, by name."""
    rates = {f"{group}.lr": config[group].lr for group in OPTIMIZERS if "lr" in config[group]}
    return {"seed": config.seed, **rates, **options}


def quiet() -> None:
    """Silence Lightning's greetings and advice that does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # this release of Lightning uses a class that torch has deprecated
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", "GPU available but not used")  # trainer.accelerator=cpu was a choice
    warnings.filterwarnings("ignore", ".*AMP with fp16 is not supported on CPU")  # it is refused
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
