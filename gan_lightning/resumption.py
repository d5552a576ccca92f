"""Resume an earlier run: its folder, its configuration and the options that may be changed."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gan_lightning import __version__
from gan_lightning.config import CHOICES, GROUPS, explain, guess, keep_typed_length
from gan_lightning.errors import UsageError
from gan_lightning.needs import missing
from gan_lightning.rules import PLACES, WRITTEN
from gan_lightning.trust import check_file, read_config

# options that a resumed run may change, as patterns of full names; it was trained with the others
CHANGEABLE = re.compile(
    r"name|objective|changed_data|trainer\.\w+|(callbacks|logger)\.[\w.]+|schedule\.\w+|model\.(lr|betas)|"
    r"(generator_)?regularizer\.\w+\.weight(\.\w+)?|augment\.p\.\w+|model\.ema_decay\.[\w.]+|"
    r"(generator|discriminator)_optimizer\.\w+|"
    r"data\.(batch_size|root|path|held_out|inception_weights|cache|download|workers|memory_limit|validation_samples)"
)
# those that affect training; changes to them are printed
SAID = re.compile(
    r"schedule\..+|(generator|discriminator)_optimizer\..+|(generator_)?regularizer\..+|data\.batch_size|"
    r"augment\..+|model\.ema_decay\..+|"
    r"trainer\.(devices|num_nodes|precision|accumulate_grad_batches|gradient_clip_\w+)"
)
# those under which a logger has registered the run elsewhere, where it continues
BEGUN = {"gan_lightning.loggers.MLflowRun": ("experiment", "name")}
# config.yaml is resolved, so optimizers' options that came from the model's are recognized by their equal values
LINKED = {"model.lr": "lr", "model.betas": "betas"}
OPTIMIZERS = ("generator_optimizer", "discriminator_optimizer")
# those that decide when a run ends
ENDING = re.compile(r"trainer\.(min|max)_\w+|callbacks\..+")
MOVABLE = ("inception_weights", "cache")  # data options that only say where files are


def run_folder(typed: str) -> Path:
    """The folder of the run that ``resume=`` names, directly or by its last checkpoint.

    Raises:
        UsageError: there is no such run, or it is named by another checkpoint than its last.
    """
    path = Path(os.path.expanduser(typed))
    if path.suffix == ".ckpt":
        if not path.is_file():
            raise UsageError(f"resume={typed} does not exist: give the folder of a run.")
        if path.name != "last.ckpt":
            raise UsageError(
                f"resume={typed} is not last.ckpt, from which a run continues: give the run's folder, or begin a new "
                f"run with start_from={typed}."
            )
        path = Path(os.path.abspath(path)).parent.parent
    if not typed or not (path / "config.yaml").is_file():
        raise UsageError(f"resume={typed} is not the folder of a run, which has a config.yaml: give one.")
    return path


def resume(folder: str | Path, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> DictConfig:
    """Read the configuration of an earlier run and apply the changes from the command line.

    Raises:
        UsageError: the folder holds no run, its configuration uses untrusted code, or a change is not allowed.
    """
    path = Path(folder) / "config.yaml"
    content = read_config(path)
    check_file(content, path, trust)
    config = OmegaConf.create(content)
    if absent := next((group for group in (*GROUPS, *CHOICES) if group not in config), None):
        raise UsageError(
            f"{path} has no {absent}, so it was written by another version of gan_lightning than {__version__}: resume "
            "it with that version."
        )
    config.resume = str(folder)
    config.changed_data = "refuse"  # data that were accepted before are in the checkpoint
    OmegaConf.set_struct(config, True)
    changed = {}
    for override in map(_parsed, overrides):
        name = override.key_or_group
        _check_change(config, override)
        changed[name] = override.value()
        for option in _linked(config, name, changed):
            OmegaConf.update(config, option, override.value())
        OmegaConf.update(config, name, override.value())
    keep_typed_length(config, changed)
    for override in map(_parsed, overrides):
        if lack := missing(override.key_or_group, config):
            raise UsageError(f"{override.input_line} {lack}.")
    return config


def check_length(config: DictConfig, saved: Mapping[str, Any]) -> None:
    """Refuse a length below the step or epoch that the run has reached; ``saved`` is empty without a checkpoint.

    Raises:
        UsageError: trainer.max_steps or trainer.max_epochs is below it.
    """
    reached = {"steps": saved.get("global_step", 0), "epochs": _epochs(saved)["started"]}
    for what, count in reached.items():
        limit = config.trainer[f"max_{what}"]
        if limit is not None and 0 <= limit < count:
            raise UsageError(
                f"trainer.max_{what} is {limit}, but the run is already at {what[:-1]} {count}: give more {what}."
            )


def is_done(saved: Mapping[str, Any], config: DictConfig, is_stopped: bool) -> bool:
    """Whether no steps remain after a checkpoint; ``is_stopped`` says that the run stopped early."""
    step, epochs, trainer = saved["global_step"], _epochs(saved)["processed"], config.trainer
    is_long = step >= (trainer.min_steps or 0) and epochs >= (trainer.min_epochs or 0)
    limits = ((trainer.max_steps, step), (-1 if trainer.max_epochs is None else trainer.max_epochs, epochs))
    is_over = any(0 <= limit <= count for limit, count in limits) or trainer.limit_train_batches == 0
    return is_over or (is_stopped and is_long)


def check_idle(saved: Mapping[str, Any], changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse changes that affect training when no steps remain.

    Raises:
        UsageError: there is such a change.
    """
    for name, (_, value) in changed.items():
        if SAID.fullmatch(name):
            step = saved["global_step"]
            raise UsageError(
                f"{name}={value} would have no effect, since the run finished at step {step}: also make the run "
                f"longer, such as trainer.max_steps={2 * step}."
            )


def _epochs(saved: Mapping[str, Any]) -> Mapping[str, int]:
    """The epoch counters of a checkpoint."""
    if not saved:
        return {"started": 0, "processed": 0}
    counts: Mapping[str, int] = saved["loops"]["fit_loop"]["epoch_progress"]["current"]
    return counts


def check_checkpoint(path: Path, saved: Mapping[str, Any], config: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The options that have changed since a checkpoint of the run: by name, the values before and after.

    Raises:
        UsageError: the checkpoint belongs to another run, or was written by an earlier version.
    """
    if "built" not in saved["gan"]:
        raise UsageError(f"{path} was written by an earlier version: use that version, or start a new run.")
    former = deepcopy(saved["gan"]["config"])
    make_absolute(former)  # earlier versions did not
    before, after = (_leaves(c) for c in (former, OmegaConf.to_container(config, resolve=True)))
    absent = object()
    names = [name for name in before | after if before.get(name, absent) != after.get(name, absent)]
    options = [name for name in names if name.partition(".")[0] not in ("resume", "choices")]  # only names
    changed = {name: (before.get(name), after.get(name)) for name in options}
    for name, (trained, present) in changed.items():
        if not _can_change(name):
            raise UsageError(
                f"{path} was trained with {name}={trained}, but this run has {name}={present}: it is another run's "
                "checkpoint, or config.yaml was changed: restore the right one."
            )
    return changed


def stays_stopped(saved: Mapping[str, Any], changed: Mapping[str, Any]) -> bool:
    """Whether a run stopped early, for example by EarlyStopping, and no option that decides this has changed."""
    stopped: bool = saved["callbacks"].get("RunCheckpoint", {}).get("stopped", False)
    return stopped and not any(map(ENDING.fullmatch, changed))


def say_changes(
    changed: Mapping[str, tuple[Any, Any]], saved: Mapping[str, Any], fingerprint: str | None, joint_batch: int
) -> None:
    """Print one line with the changes that affect training from here on."""
    former = saved["gan"]["data"]
    said = {name: values for name, values in changed.items() if SAID.fullmatch(name)}
    batches = (former["joint_batch"], joint_batch)
    said |= {"samples per update": batches} if batches[0] != batches[1] else {}
    said |= {"data": (former["fingerprint"], fingerprint)} if is_other_data(former["fingerprint"], fingerprint) else {}
    if said:
        parts = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in said.items())
        print(f"{parts} from step {saved['global_step']} on")


def check_data(saved: Mapping[str, Any], fingerprint: str | None, config: DictConfig) -> None:
    """Refuse data that have changed since the checkpoint, unless changed_data=accept.

    Raises:
        UsageError: the data have changed.
    """
    former = saved["gan"]["data"]["fingerprint"]
    if is_other_data(former, fingerprint) and config.changed_data != "accept":
        place = config.data.get("root") or config.data.get("path") or "data.dataset"
        raise UsageError(
            f"{place} has changed: the run was trained on {former}, but now there are {fingerprint}: restore the data, "
            "or accept the change with changed_data=accept."
        )


def is_other_data(former: str | None, present: str | None) -> bool:
    """Whether two fingerprints differ; if one is of files that were too large to read, only the counts are compared."""
    if former is None or present is None:
        return False
    kinds = [re.sub(r"\d+ |, .*", "", fingerprint) for fingerprint in (former, present)]
    return former != present if kinds[0] == kinds[1] else former.split()[0] != present.split()[0]


def _can_change(name: str) -> bool:
    return CHANGEABLE.fullmatch(name) is not None and (
        name.startswith(("callbacks.", "logger.")) or not name.rpartition(".")[2].startswith("_")
    )


def _leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """All single values and lists, by dotted name."""
    if not isinstance(config, dict) or not config:
        return {prefix[:-1]: list(config) if isinstance(config, tuple) else config}
    return {name: value for key, inner in config.items() for name, value in _leaves(inner, f"{prefix}{key}.").items()}


def is_same_run(config: DictConfig, folder: Path) -> bool:
    """Whether a run folder holds a run with these options, wherever the folder and downloadable data are."""
    written = read_config(folder / "config.yaml")
    composed = OmegaConf.to_container(config, resolve=True)
    assert isinstance(composed, dict)
    return _compared(written) == _compared(composed)


def make_absolute(config: Any) -> None:
    """Make the paths in a configuration absolute, with ~ expanded: those of data, loggers and callbacks."""
    parts = [part for group in ("logger", "callbacks") for part in (config.get(group) or {}).values()]
    for part, places in ((config, ("start_from",)), (config["data"], PLACES), *((part, WRITTEN) for part in parts)):
        for place in places:
            path = part.get(place) if isinstance(part, dict | DictConfig) else None
            if isinstance(path, str) and path and "://" not in path:
                part[place] = os.path.abspath(os.path.expanduser(path))


def _compared(config: dict[Any, Any]) -> dict[Any, Any]:
    """The options without choices and locations that do not matter; all other locations are absolute."""
    make_absolute(config)
    # data that can be downloaded are the same wherever they are
    data = {
        k: v
        for k, v in config["data"].items()
        if k not in MOVABLE and not (k == "root" and "download" in config["data"])
    }
    kept = {k: v for k, v in config.items() if k != "choices"}
    return kept | {"resume": None, "changed_data": None, "data": data, "start_from": kept.get("start_from") or None}


def _parsed(line: str) -> Override:
    try:
        return OverridesParser.create().parse_override(line)
    except HydraException as error:
        raise UsageError(f"{line} cannot be read: {explain(error)}") from error


def _check_change(config: DictConfig, override: Override) -> None:
    """Refuse an override that is not of a single value, or that changes what the run was trained with."""
    name, line = override.key_or_group, override.input_line
    absent = object()
    present = OmegaConf.select(config, name, default=absent)
    if override.is_sweep_override():
        raise UsageError(f"{line} gives several values, but one run is resumed: give one, or quote it.")
    single = not isinstance(present, DictConfig) and not override.is_delete() and not override.is_add()
    if single and present is absent:
        option = str(line).partition("=")[0]
        raise UsageError(f"{option} is not an option of this run: {guess(name, option_names(config))}")
    last = name.rpartition(".")[2]
    part = OmegaConf.select(config, name.rpartition(".")[0])
    is_begun = OmegaConf.is_dict(part) and last in BEGUN.get(part.get("_target_"), ())
    if name == "trainer.fast_dev_run" and override.value():
        raise UsageError(f"{line} cannot resume a run, since it saves nothing: try it in a new run.")
    if not single or override.package or not CHANGEABLE.fullmatch(name) or last.startswith("_") or is_begun:
        raise UsageError(
            f"{line} cannot change a resumed run: change its length, learning rates, weights of penalties, the "
            "trainer, callbacks, loggers or where its data lies, such as trainer.max_steps=20000, or start a new run."
        )


def _linked(config: DictConfig, name: str, changed: dict[str, Any]) -> list[str]:
    """The optimizers' options that follow a changed option of the model.

    Raises:
        UsageError: no option follows it, so the change would have no effect.
    """
    if name not in LINKED:
        return []
    options = [f"{optimizer}.{LINKED[name]}" for optimizer in OPTIMIZERS]
    former = OmegaConf.select(config, name)
    followers = [option for option in options if OmegaConf.select(config, option) == former or option in changed]
    if not followers:
        raise UsageError(f"{name} is read by neither optimizer of this run: give {options[0]} or {options[1]}.")
    return [option for option in followers if option not in changed]


def option_names(config: DictConfig) -> list[str]:
    """The dotted names of all single values."""
    return _names(OmegaConf.to_container(config))


def _names(config: Any, prefix: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        if str(key).startswith("_"):
            continue  # Hydra's own, such as _target_
        names += _names(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return names
