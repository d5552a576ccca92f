"""Going on with an earlier run: its folder, its own configuration, and what may be changed in it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gan_lightning.config import explain, guess
from gan_lightning.errors import UsageError
from gan_lightning.trust import check_file, read_config

# what a run that goes on can change, as patterns of whole names; the rest is what it has learnt with
CHANGEABLE = re.compile(
    r"name|objective|trainer\.\w+|(callbacks|logger)\.[\w.]+|schedule\.\w+|model\.(lr|betas)|(generator_)?regularizer\.\w+\.weight|"
    r"(generator|discriminator)_optimizer\.\w+|"
    r"data\.(batch_size|root|held_out|inception_weights|cache|download|workers|memory_limit|validation_samples)"
)
# config.yaml is resolved: the optimizers' options that came from one of the model's are found by their equal value
LINKED = {"model.lr": "lr", "model.betas": "betas"}
OPTIMIZERS = ("generator_optimizer", "discriminator_optimizer")
MOVABLE = ("inception_weights", "cache")  # options of data that only say where things lie


def run_folder(typed: str) -> Path:
    """The folder of the run that ``resume=`` names, by itself or by one of its checkpoints.

    Raises:
        UsageError: there is no such run.
    """
    path = Path(typed).expanduser()
    if path.name in ("last.ckpt", "best.ckpt"):
        if not path.is_file():
            raise UsageError(f"resume={typed} does not exist: give the folder of a run.")
        path = Path(os.path.abspath(path)).parent.parent
    if not typed or not (path / "config.yaml").is_file():
        raise UsageError(f"resume={typed} is not the folder of a run, which has a config.yaml: give such a folder.")
    return path


def resume(folder: str | Path, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> DictConfig:
    """The configuration of an earlier run, with what the command line changes in it.

    Raises:
        UsageError: the folder is no run's, its configuration makes what is not trusted, or a change is impossible.
    """
    path = Path(folder) / "config.yaml"
    content = read_config(path)
    check_file(content, path, trust)
    config = OmegaConf.create(content)
    config.resume = str(folder)
    OmegaConf.set_struct(config, True)
    changed = {}
    for override in map(_parsed, overrides):
        name = override.key_or_group
        _check_change(config, override)
        changed[name] = override.value()
        for option in _linked(config, name, changed):
            OmegaConf.update(config, option, override.value())
        OmegaConf.update(config, name, override.value())
    # a run has one length: the one that was asked for last
    if "trainer.max_steps" in changed and "trainer.max_epochs" not in changed:
        config.trainer.max_epochs = -1
    if "trainer.max_epochs" in changed and "trainer.max_steps" not in changed:
        config.trainer.max_steps = -1
    return config


def check_length(config: DictConfig, step: int) -> None:
    """Refuse to end before the step that the run has reached.

    Raises:
        UsageError: trainer.max_steps is below it.
    """
    if 0 <= config.trainer.max_steps < step:
        raise UsageError(
            f"trainer.max_steps is {config.trainer.max_steps}, but the run is at step {step} already: give more steps."
        )


def is_same_run(config: DictConfig, folder: Path) -> bool:
    """Whether a run folder holds a run of these options, wherever the folder, and data with a name, lie."""
    written = read_config(folder / "config.yaml")
    composed = OmegaConf.to_container(config, resolve=True)
    assert isinstance(composed, dict)
    return _compared(written) == _compared(composed)


def _compared(config: dict[Any, Any]) -> dict[Any, Any]:
    """The options without the places that do not matter, the others absolute, and not the names they came by."""
    # what can be downloaded is the same wherever it lies
    data = {
        k: v
        for k, v in config["data"].items()
        if k not in MOVABLE and not (k == "root" and "download" in config["data"])
    }
    for place in ("root", "held_out"):
        if isinstance(data.get(place), str):
            data[place] = os.path.abspath(os.path.expanduser(data[place]))
    return {k: v for k, v in config.items() if k != "choices"} | {"resume": None, "data": data}


def _parsed(line: str) -> Override:
    try:
        return OverridesParser.create().parse_override(line)
    except HydraException as error:
        raise UsageError(f"{line} cannot be read: {explain(error)}") from error


def _check_change(config: DictConfig, override: Override) -> None:
    """Refuse what is no single value of the run, or is one that it has learnt with."""
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
    if not single or override.package or not CHANGEABLE.fullmatch(name) or last.startswith("_"):
        raise UsageError(
            f"{line} cannot change a run that is resumed: change its length, learning rates, weights of penalties, the "
            "trainer, callbacks, loggers or where its data lies, such as trainer.max_steps=20000, or start a new run."
        )


def _linked(config: DictConfig, name: str, changed: dict[str, Any]) -> list[str]:
    """The optimizers' options that follow a changed option of the model's.

    Raises:
        UsageError: nothing follows it, so that the change would do nothing.
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
