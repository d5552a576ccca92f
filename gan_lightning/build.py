"""Build objects from a configuration."""

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    ProgressBar,
    RichModelSummary,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf
from torch import nn

from gan_lightning.callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint, checkpoints
from gan_lightning.config import one_line
from gan_lightning.data.loader import RealData
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.gan import GAN
from gan_lightning.loggers import WRITING, spare
from gan_lightning.networks.frozen import freeze
from gan_lightning.networks.spectral import spectrally_normalized
from gan_lightning.regularizers import Regularizer
from gan_lightning.strategy import Replicas
from gan_lightning.trust import PACKAGE, is_defined

# implemented by our module; Lightning refuses them in manual optimization or does not have them
MANUAL = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "cuda_graphs")
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
# options of conf/trainer that Lightning's Trainer does not take
OWN = (*MANUAL, "threads", "compile", "float32_matmul_precision")
OF_DATA = ("sample_shape", "classes", "blocks")  # arguments of networks that come from the data
T = TypeVar("T")
FAILED_TARGET = re.compile(r"(?:call to target|locating target) '([^']+)'")


def build_data(config: DictConfig) -> RealData:
    """Build the data module of a configuration."""
    check_takes(config.data, gives=None)
    data = made({name: with_tensors(plain(value)) for name, value in config.data.items() if name != "gives"})
    return of_kind(data, RealData)


def with_tensors(part: Any) -> Any:
    """Convert lists of numbers to tensors in the arguments of torch's distributions, which require tensors."""
    if isinstance(part, list):
        return [with_tensors(item) for item in part]
    if not isinstance(part, dict):
        return part
    wants = str(part.get("_target_")).startswith("torch.distributions.")
    return {
        name: {"_target_": "torch.tensor", "data": value, "dtype": {"_target_": "torch.get_default_dtype"}}
        if wants and _is_numbers(value)
        else with_tensors(value)
        for name, value in part.items()
    }


def _is_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers or a nested one."""
    return isinstance(value, list) and all(isinstance(v, int | float) or _is_numbers(v) for v in value)


def build_gan(config: DictConfig, sample_shape: tuple[int, ...], classes: int, blocks: Sequence[int] = ()) -> GAN:
    """Build the untrained GAN of a configuration; ``blocks`` are the widths of a table's columns."""
    parts = {str(name): part for name, part in config.model.items() if OmegaConf.is_dict(part) and "_target_" in part}
    parts.pop("ema_decay", None)  # may be a half-life
    # read by its parts, its game or config.check
    not_the_gans = {"needs", "conditional", "packing", "spectral_norm", "freeze_discriminator", "lr", "betas"}
    not_the_gans |= {"latent_size", *parts}
    options = {name: value for name, value in config.model.items() if name not in not_the_gans}
    # an older run's configuration does not have all of them
    manual = {name: value for name in MANUAL if (value := config.trainer.get(name)) is not None}
    kind = located(config.model._target_)
    if isinstance(kind, type) and not issubclass(kind, GAN):
        raise UsageError(f"model._target_={config.model._target_} is not a GAN: let it extend gan_lightning.GAN.")
    check_takes(config.model, **dict.fromkeys(not_the_gans))
    gan = made(
        options,
        game=build_game(config, parts, sample_shape, classes, blocks),
        generator_optimizer=made(config.generator_optimizer),
        discriminator_optimizer=made(config.discriminator_optimizer),
        schedule=made(config.schedule) if "_target_" in config.schedule else None,
        **manual,
    )
    of_kind(gan, GAN).config = OmegaConf.to_container(config, resolve=True)
    return gan


def build_game(
    config: DictConfig, parts: dict[str, Any], sample_shape: tuple[int, ...], classes: int, blocks: Sequence[int] = ()
) -> Game:
    """Build the game of a configuration with the networks of its model."""
    kind: type[Game] = located(config.game._target_)
    check_parts(kind, parts)
    options = {k: v for k, v in config.game.items() if not str(k).startswith("_")}
    prior, packing = made(config.prior), config.model.get("packing", 1)
    networks = {}
    for name, part in parts.items():
        given = kind.network_options(name, sample_shape, classes, prior=prior, **options)
        if name == "discriminator" and packing > 1:
            first, *others = given["sample_shape"]
            given["sample_shape"] = (packing * first, *others)
        networks[name] = build_network(part, given | {"blocks": tuple(blocks)})
    if layers := config.model.get("freeze_discriminator"):
        freeze(networks["discriminator"], layers)
    if config.model.get("spectral_norm"):
        networks["discriminator"] = spectrally_normalized(networks["discriminator"])
    # a user's own game need not take what is not chosen
    chosen: dict[str, Any] = {"packing": packing} if packing > 1 else {}
    chosen |= {"augment": made(config.augment)} if config.get("augment") else {}
    game = made(
        config.game,
        **networks,
        prior=prior,
        loss=made(config.loss),
        regularizers=made_parts(config.regularizer, Regularizer),
        generator_regularizers=made_parts(config.generator_regularizer, Regularizer),
        **chosen,
    )
    return of_kind(game, Game)


def check_parts(kind: type[Game], parts: Iterable[str]) -> None:
    """Raise a UsageError if the model has a network that the game does not use."""
    takes = inspect.signature(kind).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    if others := [name for name in parts if name not in takes and not takes_any]:
        raise UsageError(
            f"model.{others[0]} is a network that {kind.__name__} does not use: choose the game that the model is "
            "designed for, such as game=bigan for model=bigan, or another model."
        )


def build_network(config: Any, given: dict[str, Any]) -> nn.Module:
    """Build a network from its options and ``given``, without arguments of the data that it does not take."""
    asked = inspect.signature(located(config._target_)).parameters
    given = {k: v for k, v in given.items() if k not in config and (k in asked or k not in OF_DATA)}
    return made(config, **given)


def build_trainer(config: DictConfig, folder: Path, callbacks: list[Callback]) -> Trainer:
    """Build the Trainer of a configuration for a run folder."""
    options: dict[str, Any] = {k: v for k, v in plain(config.trainer).items() if k not in OWN}
    if options["fast_dev_run"] or not options["enable_checkpointing"]:
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    if not options["enable_progress_bar"]:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    is_alone = options["devices"] == 1 and options["num_nodes"] == 1
    if options["strategy"] == "ddp" or (options["strategy"] == "auto" and not is_alone):
        options["strategy"] = Replicas()
    for callback in callbacks:
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise UsageError(
                f"{type(callback).__name__} works with a single optimizer, and a GAN has two: leave it out, and "
                "sweep over data.batch_size or model.lr with -m."
            )
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(checkpoints(folder))  # not in a logger's folder
        wait_for_validation(callback)
    if options["enable_model_summary"]:
        callbacks = [*callbacks, RichModelSummary(max_depth=2)]  # Lightning's own would print nothing here
    # last, so that what it saves, or stops after, has been seen by other callbacks; Lightning keeps this order
    callbacks = sorted(callbacks, key=lambda callback: isinstance(callback, RunCheckpoint))
    # Lightning must not add what conf/callbacks leaves out
    options["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
    options["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in callbacks)
    options["profiler"] = _profiler(options["profiler"], folder)
    options["plugins"] = _plugins(options["plugins"])
    logger = build_loggers(config.logger, folder)
    trainer: Trainer = called(Trainer, **options, logger=logger, callbacks=callbacks, default_root_dir=str(folder))
    if options["precision"] == "16-mixed" and trainer.strategy.root_device.type == "cpu":
        raise UsageError(
            "trainer.precision=16-mixed needs a GPU, and Lightning would use bf16-mixed instead: choose "
            "trainer.precision=bf16-mixed or 32-true."
        )
    return trainer


def wait_for_validation(callback: Callback) -> None:
    """Let a callback look at a metric of validation when it is computed, unless it was told when to look.

    Lightning lets it look when an epoch of training ends, also one that the end of the run cuts short.
    """
    monitor = str(getattr(callback, "monitor", None))
    if isinstance(callback, EarlyStopping) and monitor.startswith("val/"):
        callback._check_on_train_epoch_end = callback._check_on_train_epoch_end or False
    if isinstance(callback, ModelCheckpoint) and monitor.startswith("val/"):
        callback._save_on_train_epoch_end = callback._save_on_train_epoch_end or False


def build_loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """Build the loggers of a configuration; by default they write to the run's folder under its name."""
    found = []
    for part in config.values():
        if "_target_" in part:
            takes = inspect.signature(located(part._target_)).parameters
            own = {"save_dir": str(folder)}
            if part._target_.startswith(f"{PACKAGE}."):  # to Lightning's loggers, a name is a folder
                own["name"] = "/".join(folder.absolute().parts[-2:])
            one = made(part, **{k: v for k, v in own.items() if k in takes and part.get(k) is None})
            found.append(of_kind(one, Logger))
            spare(found[-1], f"The log of {type(found[-1]).__name__}", WRITING)
    return found


def _profiler(config: Any, folder: Path) -> Profiler | None:
    """Build the profiler, which writes its report to the run's folder."""
    if isinstance(config, dict):
        profiler = made({"dirpath": str(folder), "filename": "profile", **config})
    else:
        profiler = PROFILERS[config](dirpath=folder, filename="profile") if config else None
    spare(profiler, "The profile", ("describe", "teardown"))
    return profiler


def _plugins(config: Any) -> list[Any]:
    """Build the plugins, including AtomicCheckpointIO unless another CheckpointIO is given."""
    parts = [config] if isinstance(config, dict) else config or []
    plugins = [made(part) for part in parts]
    return plugins if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [AtomicCheckpointIO(), *plugins]


def plain(config: Any) -> Any:
    """Convert a configuration to plain containers."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def made(config: Any, **extra: Any) -> Any:
    """Instantiate a configuration with Hydra, using plain containers.

    Raises:
        UsageError: the target does not exist or does not take an option, or a constructor that is not the user's own
            rejects its arguments.
    """
    check_takes(config, **extra)
    try:
        return instantiate(config, _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__ or error
        found = FAILED_TARGET.search(str(error))
        target = found[1] if found else str(config.get("_target_"))
        if isinstance(cause, UsageError):
            raise UsageError(str(cause)) from error
        if isinstance(cause, ImportError) and not is_defined(target):
            raise UsageError(
                f"_target_={target} is not found: correct the name, or run the command in the folder that contains it."
            ) from error
        if is_of_package(target):
            raise UsageError(f"{target.rpartition('.')[2]} cannot be created: {one_line(cause)}.") from error
        raise cause.__cause__ or cause  # noqa: B904  the user's own error keeps its traceback


def check_takes(config: Any, **extra: Any) -> None:
    """Raise a UsageError if a class or function of the user's own does not take an option of its configuration."""
    target = str(config.get("_target_"))
    if not OmegaConf.is_config(config) or is_of_package(target):
        return
    if not callable(kind := located(target)):
        raise UsageError(f"_target_={target} is not a class or a function: give one.")
    try:
        takes = inspect.signature(kind).parameters
    except ValueError:  # of some types written in C
        return
    if getattr(kind, "__init__", None) is nn.Module.__init__:  # which accepts any option and then refuses it
        takes = MappingProxyType({})
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for name in config:
        if not str(name).startswith("_") and name not in takes and name not in extra:
            raise UsageError(
                f"{target} does not take {name}, which the configuration gives: let it take that, or remove the option "
                f"by ~{config._get_full_key(name)}."
            )


def of_kind(part: T, kind: type) -> T:
    """Return a part, or raise a UsageError if it is not of this kind."""
    if not isinstance(part, kind):
        raise UsageError(
            f"{type(part).__name__}, which a _target_ of the configuration gives, is not a {kind.__name__}: let it "
            f"extend {kind.__module__}.{kind.__name__}."
        )
    return part


def located(target: str) -> Any:
    """Import the class or function of a dotted name.

    Raises:
        UsageError: it does not exist; errors in its own module are raised unchanged.
    """
    try:
        return get_object(target)
    except ImportError as error:
        if is_defined(target):
            raise error.__cause__ or error  # noqa: B904
        raise UsageError(
            f"_target_={target} is not found: correct the name, or run the command in the folder that contains it."
        ) from error


def is_of_package(target: str) -> bool:
    """Whether a dotted name belongs to this package, Lightning, torch or torchvision."""
    return target.partition(".")[0] in (PACKAGE, "lightning", "torch", "torchvision")


def made_parts(group: DictConfig, kind: type) -> dict[str, Any]:
    """Build the chosen parts of a group, by name; parts that only have options set by an experiment are skipped."""
    return {str(name): of_kind(made(part), kind) for name, part in group.items() if "_target_" in part}


def called(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function and report errors of this package's or Lightning's functions as the user's to fix.

    Raises:
        UsageError: such a function rejects its arguments.
    """
    if not is_of_package(getattr(function, "__self__", function).__module__):
        return function(*args, **kwargs)
    try:
        return function(*args, **kwargs)
    except (ValueError, TypeError, OSError, ImportError, MisconfigurationException) as error:
        raise UsageError(f"{one_line(error)}.") from error
