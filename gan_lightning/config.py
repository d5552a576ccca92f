"""Check the composed configuration before anything slow is imported."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from gan_lightning.checks import SIZE
from gan_lightning.errors import UsageError
from gan_lightning.names import job_name, run_name
from gan_lightning.needs import missing, unread
from gan_lightning.rules import HYDRAS, OPTIONAL, PLACES, RULES, SCHEDULED, TEXTS
from gan_lightning.trust import DOTTED, PACKAGE, find_source

# data to suggest for a model, by what it needs; mnist for all others
SUITABLE = {"pairs": "mnist_edges", "table": "table", "sequences": "sines"}
NOT_FOUND = re.compile(r"Interpolation key '(.+?)' not found")
EPOCHS = 20  # default length, if neither trainer.max_epochs nor trainer.max_steps is given

OmegaConf.register_new_resolver("bits", lambda integers: integers.bit_length() - 1, replace=True)
OmegaConf.register_new_resolver("epochs", lambda max_steps: EPOCHS if max_steps == -1 else -1, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("job_name", job_name, replace=True)

# Trainer arguments that are fixed here, each with its value and what to do instead of changing it
LOGGER = "choose loggers by logger=csv, logger=[tensorboard,csv] or logger=none"
FIXED = {
    "logger": (None, LOGGER),
    "barebones": (False, "use logger=none and callbacks=none to save time"),
    "model_registry": (None, "a run uploads nothing: its checkpoints are in its folder"),
}
GROUPS = (
    *("data", "model", "prior", "game", "loss", "regularizer", "augment", "schedule", "trainer", "callbacks"),
    "logger",
)
OF_CLASSES = {"generator.conditional_norm": False, "discriminator.conditioning": "projection"}  # values without classes
OPTIMIZERS = ("generator_optimizer", "discriminator_optimizer")
# how to choose the groups whose place in the configuration is not named like the group
CHOICES = {
    **{place: f"optimizer@{place}" for place in OPTIMIZERS},
    "generator_regularizer": "regularizer@generator_regularizer",
}

EXTRAS = {"hydra/sweeper=optuna": "optuna"} | dict.fromkeys(
    ("hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm"), "sweeps"
)
NULL_GROUP = "Config group override must be a string or a list"  # Hydra's ValueError for regularizer=null

RULED = (f"{PACKAGE}.", "torch.optim.")  # the rules apply to the options of these targets
# groups of any number of named parts
COLLECTIONS = ("callbacks", "logger", "regularizer", "generator_regularizer")
# names in other programs
ALIASES = {
    **dict.fromkeys(("lr", "learning_rate"), "model.lr"),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("steps", "iterations", "max_steps"), "trainer.max_steps"),
    **dict.fromkeys(("batch_size", "batch"), "data.batch_size"),
}


def check(config: DictConfig, choices: dict[str, Any]) -> None:
    """Check a composed configuration; ``choices`` are the chosen options of the groups.

    Raises:
        UsageError: an option has an invalid value, or two options are incompatible.
    """
    _check_parts(config)
    for option, (value, instead) in FIXED.items():
        if config.trainer.get(option, value) != value:
            raise UsageError(f"trainer.{option}={config.trainer[option]} is not supported: {instead}.")
    for name, value, is_ruled in _options(config):
        _check_option(name, value, is_ruled)
    needs, gives = config.model.get("needs"), config.data.get("gives")
    if needs and gives and needs != gives:  # if null, the sample shape decides
        raise UsageError(
            f"model={choices.get('model')} makes {needs}, but data={choices.get('data')} has {gives}: "
            f"choose another model, such as model=points, or data with {needs}, such as "
            f"data={SUITABLE.get(needs, 'mnist')}."
        )
    _check_conditional(config, choices)
    least, most = config.trainer.get("min_steps") or 0, config.trainer.get("max_steps", -1)
    if 0 <= most < least:
        raise UsageError(f"trainer.min_steps is {least}, above trainer.max_steps={most}: leave out one of them.")
    m, n = config.model.get("packing"), config.data.get("batch_size")
    if SIZE[0](m) and SIZE[0](n) and n % m:
        raise UsageError(
            f"model.packing is {m} and does not divide data.batch_size={n}: give data.batch_size={n - n % m or m}."
        )


def _check_option(name: str, value: Any, is_ruled: bool) -> None:
    parent, _, key = name.rpartition(".")
    is_schedule = SCHEDULED.fullmatch(name) and OmegaConf.is_dict(value) and "_target_" in value
    if key == "_target_":
        _check_target(name, value)
    elif key in PLACES and parent == "data" and value == "":
        raise UsageError(f"{name} is empty: give a path.")
    elif key in HYDRAS and not HYDRAS[key][0](value):
        raise UsageError(f"{name} is {value!r}: give {HYDRAS[key][1]}.")
    elif not is_ruled or parent in COLLECTIONS or is_schedule:
        return
    elif key in TEXTS and OmegaConf.is_config(value):
        raise UsageError(f"{name} is {value!r}: give a string.")
    elif key in RULES and not (value is None and key in OPTIONAL and name not in RULES):
        fits, expected = RULES.get(name, RULES[key])
        if not fits(value):
            raise UsageError(f"{name} is {value!r}: give {expected}.")


def _check_conditional(config: DictConfig, choices: dict[str, Any]) -> None:
    """Refuse class conditioning of networks that do not support it."""
    players = [config.model.generator, config.model.discriminator]
    if config.model.get("conditional") and not any("conditional" in player for player in players):
        raise UsageError(
            f"model.conditional is true, but the networks of model={choices.get('model')} do not take classes: choose "
            "mlp, points, dcgan, resnet, infogan or r3gan."
        )
    for option, without in OF_CLASSES.items():
        player, _, name = option.partition(".")
        options = config.model[player]
        value = options.get(name, without)
        if value != without and "conditional" in options and not options.conditional:
            raise UsageError(f"model.{option}={str(value).lower()} needs classes: set model.conditional=true too.")


def keep_typed_length(config: DictConfig, typed: Mapping[str, Any]) -> None:
    """Let a typed number of updates replace a number of epochs from elsewhere, and the other way round."""
    steps, epochs = "trainer.max_steps", "trainer.max_epochs"
    for name, other in ((steps, epochs), (epochs, steps)):
        if name in typed and other not in typed and typed[name] not in (-1, None):
            OmegaConf.update(config, other, -1)


def check_changes(
    overrides: Iterable[Override],
    config: DictConfig,
    names: Callable[[], Sequence[str]],
    swept: Collection[str] = (),
) -> None:
    """Refuse command-line overrides that add options that nothing uses, or delete options that are needed.

    ``names`` returns the names of all options without those that the command line adds; ``swept`` are the options that
    differ between the jobs of a sweep, which may compare settings of which only some read another option.

    Raises:
        UsageError: an override does so.
    """
    overrides = list(overrides)
    typed = [override.key_or_group for override in overrides]
    for override in overrides:
        name, line = override.key_or_group, override.input_line
        parent = name.rpartition(".")[0]
        if override.is_delete():
            _check_deletion(name, str(line))
            continue
        _check_chosen(name, str(line), config)
        if lack := missing(name, config, swept) or unread(name, config, typed, swept):
            raise UsageError(f"{line} {lack}.")
        node = OmegaConf.select(config, parent)
        is_part = isinstance(node, DictConfig) and "_target_" in node
        if parent == "model":  # the package's GAN takes only the options in conf/; a user's own class may take others
            is_part = not str(node.get("_target_")).startswith(f"{PACKAGE}.")
        is_free = parent.partition(".")[0] in COLLECTIONS or (is_part and parent)
        is_new = override.is_add() or override.is_force_add()
        if is_new and not is_free and not any(f"{known}.".startswith(f"{name}.") for known in names()):
            raise UsageError(f"{line} sets an option that nothing uses: {guess(name, names())}")


def _check_deletion(name: str, line: str) -> None:
    """Refuse to delete options that every run needs, and keys such as ``_target_``."""
    parent, _, last = name.rpartition(".")
    is_everywhere = name.partition(".")[0] in ("model", "trainer") if parent else name not in (*GROUPS, *CHOICES)
    if is_everywhere or (last.startswith("_") and last.endswith("_")):
        raise UsageError(f"{line} removes what every run needs: set it by {name}=VALUE.")


def _check_chosen(name: str, line: str, config: DictConfig) -> None:
    """Refuse options of parts that are not chosen; an experiment's YAML may set them in case a part is chosen."""
    group, _, rest = name.partition(".")
    if group == "schedule" and rest and "_target_" not in config.schedule:
        raise UsageError(f"{line} sets an option of a schedule, but none is chosen: choose one with schedule=OPTION.")
    key = rest.partition(".")[0]
    part = config[group].get(key) if key and group in COLLECTIONS else None
    if isinstance(part, DictConfig) and "_target_" not in part:
        chosen = f"choose {CHOICES.get(group, group)}={key}" if group != "callbacks" else f"choose {group}=default"
        raise UsageError(
            f"{line} sets an option of {group}.{key}, which is not chosen: {chosen}, or give "
            f"+{group}.{key}._target_=CLASS."
        )


def _check_parts(config: DictConfig) -> None:
    """Refuse a single value in place of a part of the configuration."""
    for group in (*GROUPS, *CHOICES):
        if not isinstance(config.get(group), DictConfig):
            option = CHOICES.get(group, group)
            raise UsageError(
                f"{group} is {config.get(group)!r}: choose {option}=OPTION; `python train.py --help` lists the options."
            )
    for group in COLLECTIONS:
        for name, part in config[group].items():
            if not isinstance(part, DictConfig):
                raise UsageError(f"{group}.{name} is {part!r}: remove it with ~{group}.{name}, or give a _target_.")
    parts = {name: OmegaConf.select(config, name) for name in ("model.generator", "model.discriminator")}
    if "distribution" in config.data:
        parts["data.distribution"] = config.data.distribution
    for name, part in parts.items():
        if not isinstance(part, DictConfig):
            raise UsageError(f"{name} is {part!r}: give a _target_ and its options.")


def _options(config: DictConfig, prefix: str = "", is_ruled: bool = True) -> Iterator[tuple[str, Any, bool]]:
    """Dotted names and values of all options, mappings and lists included, and whether this package's rules apply."""
    if "_target_" in config:
        is_ruled = str(_value(config, "_target_", f"{prefix}_target_")).startswith(RULED)
    for key in config:
        name = prefix + str(key)
        value = _value(config, key, name)
        yield name, value, is_ruled
        for inner, node in ((name, value), *_nodes_of(name, value)):
            if isinstance(node, DictConfig):
                yield from _options(node, f"{inner}.", is_ruled)


def _nodes_of(name: str, value: Any) -> Iterator[tuple[str, DictConfig]]:
    """The mappings in a list or in nested lists."""
    for i, item in enumerate(value if isinstance(value, ListConfig) else ()):
        if isinstance(item, DictConfig):
            yield f"{name}[{i}]", item
        yield from _nodes_of(f"{name}[{i}]", item)


def _value(config: DictConfig, key: Any, name: str) -> Any:
    if OmegaConf.is_missing(config, key):
        raise UsageError(f"{name} is not set: give {name}=VALUE.")
    try:
        return config[key]
    except InterpolationKeyError as error:
        key = NOT_FOUND.findall(str(error))[0]
        raise UsageError(
            f"{name} refers to {key}, which does not exist: add {key} to your YAML file or by +{key}=VALUE, or give "
            f"{name}=VALUE."
        ) from error
    except OmegaConfBaseException as error:
        raise UsageError(f"{name} cannot be read: {one_line(error)}.") from error


def _check_target(name: str, target: Any) -> None:
    """Refuse a ``_target_`` that cannot exist here, without importing anything."""
    if not isinstance(target, str) or not DOTTED.fullmatch(target):
        raise UsageError(
            f"{name} is {target!r}: give the dotted name of a class or a function, such as my_lab.nets.Net."
        )
    package = target.partition(".")[0]
    if package != "__main__" and find_spec(package) is None:
        raise UsageError(
            f"{name} is {target!r}: package {package} was not found: install it, or run the command in the folder "
            "that contains it."
        )
    source, names = find_source(target)
    text = source.read_text() if source and package == PACKAGE else ""
    if package == PACKAGE and not (names and re.search(rf"\b{names[0]}\b", text)):
        listed = re.findall(r"^(?:class|def) ([^\W_]\w*)", text, re.MULTILINE)
        near = get_close_matches(target.rpartition(".")[2], listed, n=1)
        hint = f"did you mean {target.rpartition('.')[0]}.{near[0]}?" if near else "correct the name."
        raise UsageError(f"{name} is {target!r}, which does not exist: {hint}")


def guess(name: str, names: Sequence[str]) -> str:
    """Suggest an existing option in place of an unknown one, as the end of a sentence."""
    known = ("experiment", *GROUPS, *names)
    near = [ALIASES[name]] if name in ALIASES else get_close_matches(name, known, n=1, cutoff=0.75)
    if not near:
        by_last = {known.rpartition(".")[2]: known for known in reversed(names)}
        near = [by_last[last] for last in get_close_matches(name.rpartition(".")[2], by_last, n=1, cutoff=0.75)]
    return f"did you mean {near[0]}?" if near else "`python train.py --cfg job` prints all of them."


def check_single(group: str, value: Any) -> None:
    """Refuse several options of a group that takes one; Hydra would merge them, and forget what was chosen.

    Raises:
        UsageError: the value is a list of several.
    """
    name = group.partition("@")[0]
    if isinstance(value, list) and len(value) > 1 and name in (*GROUPS, "optimizer") and name not in COLLECTIONS:
        raise UsageError(f"{group} takes one option, but {','.join(map(str, value))} is given: choose one.")


def choices_of(choices: Mapping[str, Any]) -> dict[str, str]:
    """The chosen options as config.yaml stores them, by place; groups with several chosen options are left out."""
    return {k.rpartition("@")[2]: str(v) for k, v in choices.items() if v and not k.startswith("hydra/")}


def options_of(config: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The chosen options of the groups and all values changed on the command line, by name."""
    options: dict[str, Any] = choices_of(choices)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = OmegaConf.select(config, override.key_or_group)
        if isinstance(value, bool | int | float | str) and override.key_or_group not in ("resume", "changed_data"):
            options[override.key_or_group] = value
    return options


def _not_of(option: str, key: str, names: Sequence[str]) -> str:
    """Explain in one sentence that an option does not exist, or that a mapping has an unknown key."""
    if option in names:
        return f"{option} is not an option of every run in this sweep: sweep over choices that all have it."
    if not any(name.startswith(f"{option}.") for name in names):
        return f"{option} is not an option here: {guess(option, names)}"
    return (
        f"{option} has no {key}, and a mapping only updates existing options: to replace it, give "
        f"~{option} and +{option}=VALUE."
    )


def one_line(error: BaseException) -> str:
    """An error's text without its line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".!") or type(error).__name__


def explain(error: Exception, names: Callable[[], Sequence[str]] = list) -> str:
    """Summarize a composition error of Hydra's in one sentence; ``names`` returns the names of all options."""
    text = str(error)
    if not text and isinstance(error.__cause__, Exception):
        return explain(error.__cause__, names)
    if isinstance(error, YAMLError):
        return f"A configuration file is not valid YAML ({one_line(error)}): correct it."
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
        if foreign := re.search(r"Key '([^']+)' is not in struct", str(error.__cause__)):
            return _not_of(unknown[1], foreign[1], names())
        meant = re.search(r"Did you mean to override (?:one of )?([^\n]+)\?", text)
        hint = f"did you mean {meant[1]}?" if meant else guess(unknown[1], names())
        return f"{unknown[1]} is not an option here: {hint}"
    if re.match("mismatched input|no viable alternative|extraneous input", text) and hasattr(error, "override"):
        return (
            f"{error.override!r} cannot be read: write lists without spaces, as in seed=0,1 or data.classes=[1,2], and "
            "quote text with brackets or parentheses, as in 'name=\"a(b)\"'."
        )
    if unread := re.match(r"(?:LexerNoViableAlt|token recognition error)[^:]*: (\S+)", text):
        if "=" not in unread[1]:
            return f"{unread[1]!r} is not of the form name=value: give for example seed=0,1, without spaces."
        return f"{unread[1]} has characters that need quotes: quote the text, as in 'data.classes=[\"été\"]'."
    if bare := re.search(r"Error parsing override '([^'=]*)'\s+missing EQUAL", text):
        return f"{bare[1]!r} is not of the form name=value: give for example model=mlp, without spaces."
    if several := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{several[1]} gives several values: add -m to train a run for each, or give one."
    if gone := re.search(r"Could not delete from config\. '([^']+)' does not exist", text):
        return f"~{gone[1]} removes an option that does not exist: leave it out."
    if absent := re.search(r"Key '[^']+' is not in struct\s+full_key: (\S+)", text):
        return f"{absent[1]} is not set: give it a value."
    if twice := re.search(r"Multiple values for ([\w@/]+)", text):
        return f"{twice[1]} already has an option: choose another with {twice[1]}=OPTION, without a plus sign."
    if whole := re.match(r"Error merging override ([^=]+)=(.*)", text):
        if wrong := re.match(r".* could not be converted to \w+|.* is not Optional", str(error.__cause__)):
            return f"{whole[1]} is {whole[2]}, which its type does not allow ({wrong[0]})."
        return f"{whole[1]} has options of its own: set them one by one, such as {whole[1]}.OPTION=VALUE."
    if NULL_GROUP in text:
        return "A group takes the name of one of its options, such as trainer=ddp or regularizer=none."
    return f"{one_line(error)}."
