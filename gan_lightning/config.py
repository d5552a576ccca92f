"""What the command line may say, checked before anything slow is imported."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gan_lightning.errors import UsageError

EPOCHS = 20  # of a run that is given neither trainer.max_epochs nor trainer.max_steps
LONGEST_NAME = 200  # of a folder

# a run's folder is a new one, but for a resumed run
OmegaConf.register_new_resolver("run_folder", lambda resume, new: resume or new, replace=True)
OmegaConf.register_new_resolver("bits", lambda integers: integers.bit_length() - 1, replace=True)
OmegaConf.register_new_resolver("epochs", lambda max_steps: EPOCHS if max_steps == -1 else -1, replace=True)


def _job_folder(overrides: str) -> str:
    """The name of a sweep's run: its options, or, where no folder can be called that, their beginning and a digest."""
    name = overrides.replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME and name == overrides:
        return name
    digest = hashlib.blake2b(overrides.encode(), digest_size=6).hexdigest()
    return f"{name[:LONGEST_NAME]},{digest}"


OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: _is_whole(v) and v >= least, f"a whole number, at least {least}"


def _one_of(*options: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in options, f"one of {', '.join(map(str, options))}"


SIZE = _whole(1)
COUNT = _whole(0)
POSITIVE = (lambda v: _is_number(v) and v > 0, "a number above 0")
NOT_NEGATIVE = (lambda v: _is_number(v) and v >= 0, "a number, at least 0")
SHARE = (lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 up to, not including, 1")
KEEP = (lambda v: _is_number(v) and 0 < v <= 1, "a number above 0, at most 1")
FLAG = (lambda v: isinstance(v, bool), "true or false")
SEED = (lambda v: _is_whole(v) and 0 <= v < 2**32, "a whole number from 0 to 4294967295")
SIZES = (lambda v: isinstance(v, ListConfig) and all(map(SIZE[0], v)), "a list of whole numbers, each at least 1")
NUMBERS = (lambda v: isinstance(v, ListConfig) and all(map(_is_number, v)), "a list of numbers")
POSITIVES = (lambda v: isinstance(v, ListConfig) and all(map(POSITIVE[0], v)), "a list of numbers above 0")
BETAS = (
    lambda v: isinstance(v, ListConfig) and len(v) == 2 and all(map(SHARE[0], v)),
    "a list of two numbers from 0 up to, not including, 1",
)
DEVICES = (
    lambda v: (
        v in ("auto", "-1", -1)
        or (_is_whole(v) and v >= 1)
        or (isinstance(v, ListConfig) and len(v) > 0 and all(map(COUNT[0], v)))
        or (isinstance(v, str) and re.fullmatch(r"\d+(,\d+)*,?", v) is not None)
    ),
    "a whole number, at least 1, -1 or auto for all, or a list of devices",
)
UNLIMITED = (lambda v: _is_whole(v) and (v >= 1 or v == -1), "a whole number, at least 1, or -1 for no limit")

# by the last part of an option's name, so that a new network or data set is checked as soon as its YAML is there
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("batch_size", "critic_steps", "latent_size", "rounds_per_batch", "rounds_per_epoch"), SIZE),
    **dict.fromkeys(("size", "width", "modes", "side", "interval", "images", "points"), SIZE),
    **dict.fromkeys(("every_n_steps", "log_every_n_steps", "accumulate_grad_batches"), SIZE),
    **dict.fromkeys(("blocks", "pieces", "units", "unit_pieces", "saturate"), SIZE),
    "seed": SEED,
    **dict.fromkeys(("workers", "validation_samples"), COUNT),
    **dict.fromkeys(("lr", "std", "sigma", "spacing", "radius", "memory_limit"), POSITIVE),
    **dict.fromkeys(("weight", "every_seconds", "weight_decay", "momentum", "slope", "final"), NOT_NEGATIVE),
    **dict.fromkeys(("init_range", "output_range", "min_lr"), POSITIVE),
    **dict.fromkeys(("keep_input", "keep_hidden"), KEEP),
    **dict.fromkeys(("ema_decay", "label_smoothing", "start", "final_momentum"), SHARE),
    **dict.fromkeys(("reuse_fakes", "ema_warmup", "batch_norm", "horizontal_flips"), FLAG),
    **dict.fromkeys(("download", "fused", "compile"), FLAG),
    **dict.fromkeys(("max_steps", "max_epochs"), UNLIMITED),
    "devices": DEVICES,
    "num_nodes": SIZE,
    "widths": SIZES,
    "betas": BETAS,
    "means": NUMBERS,
    **dict.fromkeys(("stds", "weights"), POSITIVES),
    "gradient_clip_val": POSITIVE,
    "channels": _one_of(1, 3),
    "order": _one_of("discriminator_first", "generator_first", "simultaneous"),
    "decay": (lambda v: _is_number(v) and v >= 1, "a number, at least 1"),
    "pooling": _one_of("max", "mean"),
    "unreadable": _one_of("refuse", "skip"),
    "features": _one_of("own", "inception"),
    "gradient_clip_algorithm": _one_of("norm", "value"),
    "float32_matmul_precision": _one_of("highest", "high", "medium"),
    "precision": _one_of("32-true", "bf16-mixed", "16-mixed", "64-true"),
    "profiler": _one_of("simple", "advanced", "pytorch"),
    "offline": FLAG,
}
OPTIONAL = {"gradient_clip_val", "gradient_clip_algorithm", "max_epochs", "weights", "profiler"}
# arguments of the Trainer that have one value here: what to do instead of another
LOGGER = "choose loggers by logger=csv, logger=[tensorboard,csv] or logger=none"
FIXED = {
    "logger": (None, LOGGER),
    "barebones": (False, "leave out what takes time by logger=none and callbacks=none"),
    "overfit_batches": (0, "an epoch's data are new ones; shorten it by trainer.limit_train_batches"),
    "model_registry": (None, "a run uploads nothing: its checkpoints are in its folder"),
}
PLACES = ("root", "held_out", "inception_weights")  # options of data that name files
GROUPS = ("data", "model", "prior", "loss", "regularizer", "schedule", "trainer", "callbacks", "logger")
OPTIMIZERS = ("generator_optimizer", "discriminator_optimizer")

EXTRAS = {"hydra/sweeper=optuna": "optuna"} | dict.fromkeys(
    ("hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm"), "sweeps"
)
NULL_GROUP = "Config group override must be a string or a list"  # Hydra's ValueError for regularizer=null

PACKAGE = Path(__file__).parent
OUTSIDE_TARGETS = re.compile(
    r"torch\.optim\.[A-Z]\w*|lightning\.pytorch\.(callbacks|loggers|profilers|strategies|plugins)\.[A-Z]\w*"
)


def check(config: DictConfig, choices: dict[str, Any]) -> None:
    """Find what is wrong with a composed configuration; ``choices`` are the groups' chosen options.

    Raises:
        UsageError: an option has a value that it cannot have, or two options do not go together.
    """
    _check_parts(config)
    for option, (value, instead) in FIXED.items():
        if config.trainer.get(option, value) != value:
            raise UsageError(f"trainer.{option}={config.trainer[option]} is not possible here: {instead}.")
    for name, value in _leaves(config):
        key = name.rsplit(".", maxsplit=1)[-1]
        if key == "_target_":
            _check_target(name, value)
        elif key in RULES and not (value is None and key in OPTIONAL):
            fits, expected = RULES[key]
            if not fits(value):
                raise UsageError(f"{name} is {value!r}: give {expected}.")
    needs, gives = config.model.get("needs"), config.data.get("gives")
    if needs and needs != gives:
        raise UsageError(
            f"model={choices.get('model')} makes {needs}, but data={choices.get('data')} has {gives}: "
            f"choose another model, such as model=points, or data with {needs}, such as data=mnist."
        )


def _check_parts(config: DictConfig) -> None:
    """Refuse a single value where a whole part of the configuration belongs."""
    for group in (*GROUPS, *OPTIMIZERS):
        if not isinstance(config.get(group), DictConfig):
            option = f"optimizer@{group}" if group in OPTIMIZERS else group
            raise UsageError(
                f"{group} is {config.get(group)!r}: choose {option}=OPTION, which `python train.py --help` lists."
            )
    for group in ("callbacks", "regularizer", "logger"):
        for name, part in config[group].items():
            if not isinstance(part, DictConfig):
                raise UsageError(f"{group}.{name} is {part!r}: leave it out by ~{group}.{name}, or give a _target_.")
    for name in ("generator", "discriminator"):
        if not isinstance(config.model.get(name), DictConfig):
            raise UsageError(f"model.{name} is {config.model.get(name)!r}: give a _target_ and its options.")


def _leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a list is a value."""
    for key in config:
        name = prefix + str(key)
        if OmegaConf.is_missing(config, key):
            raise UsageError(f"{name} is not set: give {name}=VALUE.")
        try:
            value = config[key]
        except OmegaConfBaseException as error:
            raise UsageError(f"{name} cannot be read: {one_line(error)}.") from error
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _check_target(name: str, target: Any) -> None:
    """Allow what this package's modules define, torch's optimizers and Lightning's parts, not what those import."""
    if not _is_own(str(target)) and not OUTSIDE_TARGETS.fullmatch(str(target)):
        raise UsageError(
            f"{name} is {target!r}: give something defined in {PACKAGE.name}, an optimizer of torch.optim or a part of "
            "lightning.pytorch."
        )


def _is_own(target: str) -> bool:
    package, *modules, attribute = target.split(".") if target.count(".") else ("", target)
    path = PACKAGE.joinpath(*modules).with_suffix(".py")
    if package != PACKAGE.name or not all(map(str.isidentifier, [*modules, attribute])) or not path.is_file():
        return False
    return re.search(rf"^(class|def) {attribute}\b", path.read_text(), re.MULTILINE) is not None


def options_of(config: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The groups' chosen options, and every value that the command line has changed, by their names."""
    options: dict[str, Any] = {
        k.rpartition("@")[2]: str(v) for k, v in choices.items() if v and not k.startswith("hydra/")
    }
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = OmegaConf.select(config, override.key_or_group)
        if isinstance(value, bool | int | float | str) and override.key_or_group != "resume":
            options[override.key_or_group] = value
    return options


def resume(folder: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of an earlier run, with what the command line changes in it.

    Raises:
        UsageError: the folder is no run's, or a change that a resumed run cannot make.
    """
    path = Path(str(folder)) / "config.yaml"
    if not path.is_file():
        raise UsageError(f"resume={folder} is not the folder of a run, which has a config.yaml: give such a folder.")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or not {"model", "data", "trainer"} <= set(config):
        raise UsageError(f"{path} is not the configuration of a run: give the folder of a run.")
    config.resume = folder
    OmegaConf.set_struct(config, True)
    changed = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        name = override.key_or_group
        if name == "resume":
            continue
        present = OmegaConf.select(config, name, default=override)
        if present is override or isinstance(present, DictConfig) or override.is_delete() or override.is_add():
            raise UsageError(
                f"{override.input_line} cannot change a run that is resumed: give single values, such as "
                "trainer.max_steps=20000, or start a new run."
            )
        OmegaConf.update(config, name, override.value())
        changed[name] = override.value()
    # a run has one length: the one that was asked for last
    if "trainer.max_steps" in changed and "trainer.max_epochs" not in changed:
        config.trainer.max_epochs = -1
    if "trainer.max_epochs" in changed and "trainer.max_steps" not in changed:
        config.trainer.max_steps = -1
    return config


def is_same_run(config: DictConfig, folder: Path) -> bool:
    """Whether a run folder holds a run of these options, wherever its data and the folder lie."""
    described = []
    for options in (config, OmegaConf.load(folder / "config.yaml")):
        plain = OmegaConf.to_container(options, resolve=True)
        assert isinstance(plain, dict)
        for place in PLACES:
            plain["data"].pop(place, None)
        described.append(plain | {"resume": None})
    return bool(described[0] == described[1])


def one_line(error: BaseException) -> str:
    """An error's text without its line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def explain(error: Exception) -> str:
    """One sentence for a composition error of Hydra's, which take several lines."""
    text = str(error)
    if missing := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, option = missing[1].rpartition("/")
        if extra := EXTRAS.get(group + "=" + option):
            return f"{group}={option} needs a package that is not installed: pip install -e '.[{extra}]'."
        listed = re.search(r"Available options in [^\n]*\n((?:\t[^\n]*\n?)*)", text)
        if group and listed:
            return f"{group}={option} does not exist: choose one of {', '.join(listed[1].split())}."
        if group:
            return f"{group}={option} does not exist: `python train.py --help` lists what does."
    if unknown := re.search(r"Could not override '([^']+)'", text):
        if unknown[1] == "trainer.logger":
            return f"trainer.logger is not an option here: {LOGGER}."
        meant = re.search(r"Did you mean to override (?:one of )?([^\n]+)\?", text)
        hint = f"did you mean {meant[1]}?" if meant else "`python train.py --cfg job` prints all of them."
        return f"{unknown[1]} is not an option here: {hint}"
    if absent := re.search(r"Key '[^']+' is not in struct\s+full_key: (\S+)", text):
        return f"{absent[1]} is not set: give it a value."
    if twice := re.search(r"Multiple values for ([\w@/]+)", text):
        return f"{twice[1]} has an option already: choose another with {twice[1]}=OPTION, without a plus sign."
    if NULL_GROUP in text:
        return "A group cannot be null: choose one of its options, such as regularizer=none, callbacks=none."
    return f"{one_line(error)}."
