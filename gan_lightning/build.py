"""From a configuration, or a checkpoint, to objects."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from gan_lightning.callbacks.checkpoint import AtomicCheckpointIO, checkpoints
from gan_lightning.callbacks.summary import Throughput, write_metrics
from gan_lightning.config import PLACES, check, one_line
from gan_lightning.data.loader import RealData
from gan_lightning.errors import UsageError
from gan_lightning.gan import GAN
from gan_lightning.resumption import check_length
from gan_lightning.strategy import Replicas
from gan_lightning.trust import check_file

# in manual optimization Lightning refuses these, and the module does them
MANUAL = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
OWN = (*MANUAL, "compile", "float32_matmul_precision")  # options of conf/trainer that are none of Lightning's Trainer's


class EventFile(TensorBoardLogger):
    """TensorBoard's file without the hparams.yaml that Lightning puts beside it: config.yaml has the options."""

    def save(self) -> None:
        self.experiment.flush()


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
    if not options["enable_checkpointing"]:
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    if not options["enable_progress_bar"]:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    is_alone = options["devices"] == 1 and options["num_nodes"] == 1
    if options["strategy"] == "ddp" or (options["strategy"] == "auto" and not is_alone):
        options["strategy"] = Replicas()
    # what conf/callbacks leaves out, Lightning must not put in
    options["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
    options["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in callbacks)
    if options["logger"]:
        options["logger"] = EventFile(folder, name="", version="", default_hp_metric=False)
    options["plugins"] = [AtomicCheckpointIO(), *(options["plugins"] or [])]
    return _call(Trainer, **options, callbacks=callbacks, default_root_dir=str(folder))


def train(config: DictConfig, folder: Path, extra_callbacks: Sequence[Callback] = ()) -> dict[str, float]:
    """Train what the configuration says in a run folder, from the beginning or on from its last checkpoint.

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
    saved = _read_checkpoint(checkpoint, gan) if checkpoint else {}
    check_length(config, saved.get("global_step", 0))
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
        if saved:
            # TensorBoard forgets what the interrupted run wrote after its checkpoint
            SummaryWriter(folder, purge_step=saved["global_step"] + 1).close()
        else:
            _log_hyperparameters(trainer, data, config)

    trainer.fit(gan, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    metrics = final_metrics(trainer, gan, data)
    if trainer.is_global_zero and not config.trainer.fast_dev_run:
        write_metrics(folder / "metrics.json", trainer, gan, throughput.seconds, metrics)
        report(folder, trainer, gan, metrics)
    return metrics


def load(path: str | Path, trust: Sequence[str] = ()) -> GAN:
    """The trained GAN of a checkpoint, or of a run folder's last one, in evaluation mode.

    ``trust`` names packages whose classes and functions the checkpoint may use, besides this package's and torch's.

    Raises:
        UsageError: it is no checkpoint of this package.
    """
    path = Path(path)
    path = checkpoints(path) / "last.ckpt" if path.is_dir() else path
    saved = _read_checkpoint(path)
    check_file(saved["gan"]["config"], path, trust)
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


def report(folder: Path, trainer: Trainer, gan: GAN, metrics: dict[str, float]) -> None:
    """Three lines: the metrics, where everything is, how to look at it; of what the run has written."""
    folder = Path(os.path.relpath(folder))
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    print(
        f"Trained to step {trainer.global_step} on {int(gan.images_seen):,} samples" + (f": {values}" if values else "")
    )
    written = {"Pictures in": folder / "samples", "Checkpoint": checkpoints(folder) / "last.ckpt"}
    if places := [f"{what} {path}" for what, path in written.items() if path.exists()]:
        print(", ".join(places).replace(", Checkpoint", ", checkpoint"))
    if trainer.loggers:
        print(f"Curves and pictures: tensorboard --logdir {folder}")


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


def _log_hyperparameters(trainer: Trainer, data: RealData, config: DictConfig) -> None:
    """Fill TensorBoard's HPARAMS tab: the options, beside the curve of the metric that ranks runs."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            name = data.monitor[0] if data.monitor else "loss/generator"
            options = {k: v for k, v in _flat(_plain(config)) if isinstance(v, int | float | str | bool)}
            for summary in hparams(options, {name: 0.0}):  # only the name is kept: the curve has the value
                logger.experiment.file_writer.add_summary(summary)


def _flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in config.items():
        leaves += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return leaves


def quiet() -> None:
    """Lightning's greetings and advice that does not hold here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # torch deprecated what this release of Lightning calls
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")


def _is_first_process() -> bool:
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]
