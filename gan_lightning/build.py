"""From a configuration, or a checkpoint, to objects."""

import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar, RichModelSummary
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from gan_lightning import loggers
from gan_lightning.callbacks.checkpoint import AtomicCheckpointIO, checkpoints
from gan_lightning.callbacks.hyperparameters import HyperParameters
from gan_lightning.callbacks.summary import Throughput, why_stopped, write_metrics
from gan_lightning.config import OPTIMIZERS, PLACES, check, one_line
from gan_lightning.data.loader import RealData
from gan_lightning.errors import UsageError
from gan_lightning.gan import GAN
from gan_lightning.strategy import Replicas

# in manual optimization Lightning refuses these, and the module does them
MANUAL = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
OWN = (*MANUAL, "compile", "float32_matmul_precision")  # options of conf/trainer that are none of Lightning's Trainer's


def build_data(config: DictConfig) -> RealData:
    """The data module of a configuration."""
    options = {k: v for k, v in config.data.items() if k != "gives"}
    return _instantiate(options)


def build_gan(config: DictConfig, sample_shape: tuple[int, ...]) -> GAN:
    """The untrained GAN of a configuration for samples of that shape."""
    model = {k: v for k, v in config.model.items() if k not in ("needs", "lr", "betas", "latent_size")}
    generator = _instantiate(model.pop("generator"), sample_shape=sample_shape)
    discriminator = _instantiate(model.pop("discriminator"), sample_shape=sample_shape)
    manual = {name: config.trainer[name] for name in MANUAL if config.trainer[name] is not None}
    gan = GAN(
        generator,
        discriminator,
        loss=_instantiate(config.loss),
        prior=_instantiate(config.prior),
        generator_optimizer=_instantiate(config.generator_optimizer),
        discriminator_optimizer=_instantiate(config.discriminator_optimizer),
        regularizers=_instantiate_chosen(config.regularizer),
        schedule=_instantiate(config.schedule) if config.schedule else None,
        **model,
        **manual,
    )
    gan.config = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return gan


def build_trainer(config: DictConfig, folder: Path, callbacks: list[Callback]) -> Trainer:
    """The Trainer of a configuration, for a run folder."""
    options: dict[str, Any] = {k: v for k, v in _plain(config.trainer).items() if k not in OWN}
    if options["fast_dev_run"] or not options["enable_checkpointing"]:
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    if not options["enable_progress_bar"]:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    is_alone = options["devices"] == 1 and options["num_nodes"] == 1
    if options["strategy"] == "ddp" or (options["strategy"] == "auto" and not is_alone):
        options["strategy"] = Replicas()
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(checkpoints(folder))  # whatever the loggers' folders are
    if options["enable_model_summary"]:
        callbacks = [*callbacks, RichModelSummary()]  # Lightning's choice would be to print nothing here
    # what conf/callbacks leaves out, Lightning must not put in
    options["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
    options["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in callbacks)
    options["profiler"] = _profiler(options["profiler"], folder)
    options["plugins"] = _plugins(options["plugins"])
    logger = build_loggers(config.logger, folder)
    return _call(Trainer, **options, logger=logger, callbacks=callbacks, default_root_dir=str(folder))


def build_loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """The loggers of a configuration, each in the run's folder unless it is given another."""
    made = []
    for part in config.values():
        if "_target_" in part:
            takes_folder = "save_dir" in inspect.signature(get_object(part._target_)).parameters
            own_folder = {"save_dir": str(folder)} if takes_folder and part.get("save_dir") is None else {}
            made.append(_instantiate(part, **own_folder))
    return made


def _profiler(config: Any, folder: Path) -> Profiler | None:
    """The profiler, whose report goes into the run's folder."""
    if isinstance(config, dict):
        return _instantiate({"dirpath": str(folder), "filename": "profile", **config})
    return PROFILERS[config](dirpath=folder, filename="profile") if config else None


def _plugins(config: Any) -> list[Any]:
    """The plugins, with our own for checkpoints where they have none."""
    parts = [config] if isinstance(config, dict) else config or []
    plugins = [_instantiate(part) for part in parts]
    return plugins if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [AtomicCheckpointIO(), *plugins]


def train(
    config: DictConfig,
    folder: Path,
    extra_callbacks: Sequence[Callback] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, float]:
    """Train what the configuration says in a run folder, from the beginning or on from its last checkpoint.

    ``options`` are what loggers get to know of the configuration besides the seed and the learning rates.
    Returns the final metrics by name.

    Raises:
        UsageError: before training, where the configuration, the data or the checkpoint cannot be used.
        Diverged: a loss or a weight is no longer finite.
    """
    quiet()
    if not torch.cuda.is_available():
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # else torch's Adam looks for a driver at every step
    checkpoint = _last_checkpoint(folder) if config.resume else None
    # the other processes of a run start when the first has written its configuration
    if not config.resume and _is_first_process() and (folder / "config.yaml").exists():
        raise UsageError(
            f"{folder} holds a run already: go on with it by resume={folder}, or choose another hydra.run.dir."
        )
    for place in PLACES:
        if config.data.get(place) is not None:
            config.data[place] = os.path.abspath(os.path.expanduser(config.data[place]))

    torch.set_float32_matmul_precision(config.trainer.get("float32_matmul_precision", "highest"))
    seed_everything(config.seed, verbose=False)
    data = build_data(config)
    gan = build_gan(config, data.sample_shape)
    for module in gan.modules():
        if layout := getattr(module, "memory_format", None):
            module.to(memory_format=layout)
    if config.trainer.get("compile"):
        print("The networks are compiled while they first run, which may take some minutes")
        gan.compile_networks()
    throughput = Throughput()
    callbacks = [throughput, *_instantiate_chosen(config.callbacks), *extra_callbacks]
    if config.trainer.enable_autolog_hparams:
        callbacks.append(HyperParameters(_hyperparameters(config, options)))
    saved = _read_checkpoint(checkpoint, gan) if checkpoint else {}
    trainer = build_trainer(config, folder, callbacks)
    data.trainer = trainer
    _call(data.prepare_data)
    _call(data.setup, "fit")
    trainer.strategy.connect(gan)  # which tells the data how many samples a round takes
    _call(data.check_size)
    if trainer.is_global_zero:
        if trainer.world_size > 1:
            n, k = data.batch_size, trainer.world_size
            print(f"data.batch_size={n} is each device's: an update sees {n * k} samples on {k} devices")
        _write_config(config, folder)
        if config.resume:
            loggers.go_on(trainer.loggers, saved)

    try:
        with _monitors_checked(trainer):
            trainer.fit(gan, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        reason = why_stopped(trainer)
        metrics = final_metrics(trainer, gan, data)
        if trainer.is_global_zero and not config.trainer.fast_dev_run:
            write_metrics(folder / "metrics.json", trainer, gan, throughput.seconds, metrics)
            report(folder, trainer, gan, metrics, reason)
    finally:
        loggers.finish(trainer.loggers)
    return metrics


def load(path: str | Path) -> GAN:
    """The trained GAN of a checkpoint, or of a run folder's last one, in evaluation mode.

    Raises:
        UsageError: it is no checkpoint of this package.
    """
    path = Path(path)
    path = checkpoints(path) / "last.ckpt" if path.is_dir() else path
    saved = _read_checkpoint(path)
    config = OmegaConf.create(saved["gan"]["config"])
    check(config, {})
    gan = build_gan(config, tuple(saved["gan"]["sample_shape"]))
    _check_architecture(path, saved, gan)
    gan.load_state_dict(saved["state_dict"])
    gan.loaded_step = saved["global_step"]
    return gan.eval()


def final_metrics(trainer: Trainer, gan: GAN, data: RealData) -> dict[str, float]:
    """The metrics of the weights that the run ended with."""
    if data.monitor is None:
        return {}
    if gan.validated_step != trainer.global_step:
        trainer.validate(gan, datamodule=data, verbose=False)
    return {k: v.item() for k, v in sorted(trainer.callback_metrics.items()) if k.startswith("val/")}


def report(folder: Path, trainer: Trainer, gan: GAN, metrics: dict[str, float], reason: str = "") -> None:
    """The metrics, where everything is, how to look at it, of what the run has written; first why it stopped early."""
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
    if (profile := folder / "fit-profile.txt").exists():
        print(f"Profile: {profile}")
    for line in filter(None, (loggers.where(logger, folder) for logger in trainer.loggers)):
        print(line)


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def _instantiate(config: Any, **extra: Any) -> Any:
    """Hydra's instantiate with plain containers, and with the constructor's own sentence where it refuses."""
    try:
        return instantiate(config, _convert_="all", **extra)
    except InstantiationException as error:
        target = str(config.get("_target_")).rpartition(".")[2]
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            raise UsageError(str(cause)) from error
        raise UsageError(f"{target} cannot be made: {one_line(cause)}.") from error


def _instantiate_chosen(group: DictConfig) -> list[Any]:
    """The parts of a group, but for those that an experiment sets options of and the command line has left out."""
    return [_instantiate(part) for part in group.values() if "_target_" in part]


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A call whose refusals are the user's to mend."""
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError, OSError, MisconfigurationException) as error:
        raise UsageError(f"{one_line(error)}.") from error


@contextmanager
def _monitors_checked(trainer: Trainer) -> Iterator[None]:
    """One sentence where a callback of Lightning's monitors what is not there, which Lightning sees only then."""
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


def _last_checkpoint(folder: Path) -> Path | None:
    """The run's last checkpoint; None where it was stopped before the first, so that it starts again."""
    for aside in checkpoints(folder).glob(".*.ckpt.*"):
        aside.unlink()  # half a checkpoint, from a process that was killed while it wrote
    last = checkpoints(folder) / "last.ckpt"
    return last if last.exists() else None


def _read_checkpoint(path: Path, gan: GAN | None = None) -> dict[str, Any]:
    """A checkpoint's content, checked to be one, and to fit ``gan`` where that is given."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a checkpoint or the folder of a run.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved["gan"]["config"], saved["gan"]["sample_shape"], saved["state_dict"]
    except Exception as error:  # torch.load raises many kinds, all with the same meaning here
        raise UsageError(f"{path} is not a checkpoint of this package: give one that train.py wrote.") from error
    if gan is not None:
        _check_architecture(path, saved, gan)
    return saved


def _check_architecture(path: Path, saved: dict[str, Any], gan: GAN) -> None:
    expected = {name: tuple(t.shape) for name, t in gan.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in saved["state_dict"].items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UsageError(
                f"{path} belongs to another architecture: its {name} is {found.get(name, 'absent')} and the "
                f"configuration's is {expected.get(name, 'absent')}; resume with the model's own options."
            )


def _write_config(config: DictConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".config.yaml"
    OmegaConf.save(OmegaConf.create(_plain(config)), aside)
    aside.replace(folder / "config.yaml")


def _hyperparameters(config: DictConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """What makes this run another than its neighbours, by the options' names."""
    rates = {f"{group}.lr": config[group].lr for group in OPTIMIZERS if "lr" in config[group]}
    return {"seed": config.seed, **rates, **options}


def quiet() -> None:
    """Lightning's greetings and advice that does not hold here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # torch deprecated what this release of Lightning calls
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")


def _is_first_process() -> bool:
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]
