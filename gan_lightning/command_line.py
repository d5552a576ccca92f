"""Prepare train.py's arguments for Hydra: take paths literally, and parse ``resume=`` and ``--dry-run``."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from gan_lightning.config import CHOICES, COLLECTIONS
from gan_lightning.errors import UsageError
from gan_lightning.options import columns
from gan_lightning.resumption import option_names, run_folder
from gan_lightning.rules import PLACES, WRITTEN
from gan_lightning.runs import flatten

DRY_RUN = "--dry-run"
AUTO = "auto"  # resume=auto: start or resume the run in hydra.run.dir
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "resume")  # options with a single value even in a sweep
PATHS = (*FOLDERS, "start_from", *(f"data.{place}" for place in (*PLACES, "cache")))
NAMING = (*WRITTEN, "filename", "tracking_uri")  # path options of loggers and callbacks
NAMED_ALL = "hydra.job.config.override_dirname.exclude_keys=[]"  # for the folder names of a sweep over data.root


@dataclass(frozen=True)
class Resumption:
    """A run to resume: its folder, the options to change, and the packages that its configuration may use."""

    folder: Path
    changes: list[str]
    trust: list[str]


class _Word(str):
    """An argument that can be distinguished from another with the same text."""

    __slots__ = ()


def options_first(arguments: Sequence[str]) -> list[str]:
    """Move arguments that begin with a dash before those of the form name=value, as Hydra requires.

    Raises:
        UsageError: an argument begins with a dash and is not one of Hydra's.
    """
    words = list(map(_Word, arguments))
    given, unknown = get_args_parser().parse_known_intermixed_args(words)
    if unknown:
        raise UsageError(f"{unknown[0]} is not an option: give name=value, such as trainer.max_epochs=10.")
    overrides = given.overrides
    options = [word for word in words if not any(word is override for override in overrides)]
    return [str(word) for word in (*options, *overrides)]


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Quote the values of path options for Hydra, but not the commas of a sweep.

    Raises:
        UsageError: a path is empty, --config-dir is not a folder, trust is given without resume, or an option of Hydra
            would not do what it says.
    """
    given = get_args_parser().parse_args(list(arguments))
    _check_config_dir(given.config_dir)
    if any(_name(argument) == "hydra.job.chdir" and _text(argument) != "false" for argument in given.overrides):
        raise UsageError("hydra.job.chdir changes the folder that paths are relative to: leave it out.")
    if given.multirun and any(_name(argument) == "hydra.run.dir" for argument in given.overrides):
        raise UsageError("hydra.run.dir is the folder of one run: for a sweep, give hydra.sweep.dir=FOLDER.")
    of_sweeps = [a for a in given.overrides if re.match(r"hydra(/|\.)(sweep|sweeper|launcher)\b", _name(a))]
    is_sweep = given.multirun or any(_name(argument) == "hydra.mode" for argument in given.overrides)
    if of_sweeps and not (is_sweep or given.cfg or given.info or given.help or given.hydra_help):
        raise UsageError(f"{of_sweeps[0]} is for sweeps: add -m, or leave it out.")
    ready = [_quoted(argument, given.multirun) for argument in arguments]
    if any(_name(argument) == "trust" for argument in arguments):
        raise UsageError("trust applies to the files of a run: give it together with resume=RUN_FOLDER.")
    if given.multirun and any(_name(item) == "data.root" and len(_parts(item)) > 1 for item in arguments):
        ready.append(NAMED_ALL)
    return ready


def _check_config_dir(folder: str | None) -> None:
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"--config-dir {folder} is not a folder: give a folder of YAML files, like conf/.")


def resumption(arguments: Sequence[str]) -> Resumption | None:
    """Parse ``resume=`` and what goes with it; returns None if it is not given.

    Raises:
        UsageError: the run does not exist, or another argument cannot be combined with resume.
    """
    given = get_args_parser().parse_args(list(arguments))
    named = [argument for argument in given.overrides if _name(argument) == "resume" and argument != "resume=null"]
    if not named or given.help or given.hydra_help:
        return None
    _check_config_dir(given.config_dir)
    if given.multirun:
        raise UsageError("resume applies to one run: leave out -m, or repeat the sweep's command to resume the sweep.")
    if _text(named[-1]) == AUTO:
        if not any(_name(argument) == "hydra.run.dir" for argument in given.overrides):
            raise UsageError(f"resume={AUTO} starts or resumes the run of a folder: give hydra.run.dir=FOLDER.")
        return None
    if given.cfg or given.info:
        raise UsageError("resume uses the options in the run's config.yaml: look there.")
    for option in options_alone(arguments)[::2]:
        raise UsageError(f"{option} cannot be combined with resume: the options of a run are in its config.yaml.")
    others = [argument for argument in given.overrides if _name(argument) != "resume"]
    for argument in others:
        if _name(argument).startswith("hydra"):
            raise UsageError(f"{argument} cannot be combined with resume: a resumed run stays in its folder.")
    trust = [item for argument in others if _name(argument) == "trust" for item in _list(argument)]
    changes = [_quoted(argument, sweeps=False) for argument in others if _name(argument) != "trust"]
    return Resumption(run_folder(_text(named[-1])), changes, trust)


def options_alone(arguments: Sequence[str]) -> list[str]:
    """The arguments that say where configuration files are, such as --config-dir."""
    given = get_args_parser().parse_args(list(arguments))
    named = {"--config-path": given.config_path, "--config-name": given.config_name, "--config-dir": given.config_dir}
    return [word for name, value in named.items() if value is not None for word in (name, value)]


def quoted_path(path: str | Path) -> str:
    """Quote a path so that Hydra takes it literally."""
    return QuotedString(str(path), Quote.single).with_quotes()


def dry_run(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into --dry-run, if it is given, and all others.

    Raises:
        UsageError: --dry-run is combined with a sweep or with resume.
    """
    others = [argument for argument in arguments if argument != DRY_RUN]
    if len(others) < len(arguments):
        if {"-m", "--multirun"} & set(others):
            raise UsageError(f"{DRY_RUN} previews one run: leave out -m, and give one value for each option.")
        if any(_name(argument) == "resume" and argument != "resume=null" for argument in others):
            raise UsageError(f"{DRY_RUN} previews a new run: leave out resume, or {DRY_RUN}.")
    return [DRY_RUN][: len(arguments) - len(others)], others


def check_start(path: str) -> None:
    """Raise a UsageError if there is no checkpoint to start from."""
    place = Path(os.path.expanduser(path))
    if not (place.is_file() or (place / "checkpoints").is_dir()):
        raise UsageError(f"start_from={path} is neither a checkpoint nor the folder of a run with one: give either.")


def typed_option_names(arguments: Sequence[str], conf: Path) -> list[str]:
    """The dotted names of all options, for the groups chosen first on the command line or else the default groups."""
    given = get_args_parser().parse_args(list(arguments))
    places = [conf, *([Path(given.config_dir).absolute()] if given.config_dir else [])]
    typed = first_choices(given.overrides)
    groups = [a for a in typed if any((place / _name(a).partition("@")[0]).is_dir() for place in places)]
    config = _composed(arguments, conf, groups) or _composed([], conf, [])
    return [name for name in option_names(config) if not name.startswith("hydra.")] if config else []


def first_choices(overrides: Sequence[str]) -> list[str]:
    """The overrides with the first of several values in place of all; empty ranges, intervals and globs stay."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return list(map(_first_choice, overrides, parsed))


def _first_choice(line: str, override: Override) -> str:
    if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
        return line
    values = override.sweep_string_iterator()
    return next((f"{override.get_key_element()}={value}" for value in values), line)


def check_sweep(overrides: Sequence[str], loader: ConfigLoader) -> None:
    """Refuse a sweep without runs.

    Raises:
        UsageError: a range is empty, or a glob matches no option of its group.
    """
    for override in OverridesParser.create(loader).parse_overrides(list(overrides)):
        if override.is_discrete_sweep() and next(override.sweep_string_iterator(), None) is None:
            raise UsageError(f"{override.input_line} gives no value, so nothing would run: give one or more.")


def differences(arguments: Sequence[str], conf: Path, config: DictConfig, choices: Mapping[str, Any]) -> str:
    """List the chosen groups and the values that differ from the defaults, which follow in parentheses.

    Values are compared with the defaults of the chosen groups.
    """
    chosen = {key: str(option) for key, option in choices.items() if option and not key.startswith("hydra/")}
    for place in COLLECTIONS:  # of which several may be chosen
        chosen.setdefault(CHOICES.get(place, place), f"[{','.join(map(str, config[place]))}]")
    groups = [f"{key}={option}" for key, option in chosen.items() if key != "experiment"]
    usual = _composed(arguments, conf, [])
    same = _composed(arguments, conf, groups) or usual
    assert usual is not None
    assert same is not None
    former = {key: str(option) for key, option in usual.hydra.runtime.choices.items() if key in chosen and option}
    options, defaults = chosen | flatten(_values(config)), former | flatten(_values(same))
    mappings = {name.rpartition(".")[0] for name in options}  # such as a Ramp in place of a number
    rows = [
        (f"  {name}={options.get(name, 'nothing')}", f"({defaults[name]})" if name in defaults else "")
        for name in options | defaults
        if options.get(name) != defaults.get(name) and (name in options or name not in mappings)
    ]
    return f"Options that differ from the defaults\n{columns(rows)}" if rows else "All options are the defaults"


def _values(config: DictConfig) -> dict[str, Any]:
    """All values except Hydra's and the groups' choices, with ${...} unresolved."""
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key not in ("hydra", "choices")}


def _composed(arguments: Sequence[str], conf: Path, overrides: Sequence[str]) -> DictConfig | None:
    """Compose other overrides with the configuration files of these arguments; returns None if that fails."""
    given = get_args_parser().parse_args(list(arguments))
    place = [Path(given.config_dir).absolute()] if given.config_dir else []
    search = [f"hydra.searchpath=[{quoted_path(f'file://{path}')}]" for path in place]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose(given.config_name or "config", overrides=[*search, *overrides], return_hydra_config=True)
    except (HydraException, YAMLError, ValueError, OSError):  # also raised for configuration files
        return None


def undecodable(arguments: Sequence[str], conf: Path) -> Path | None:
    """The first configuration file that is not UTF-8, if any."""
    given = get_args_parser().parse_args(list(arguments))
    for place in (conf, *([Path(given.config_dir)] if given.config_dir else [])):
        for path in sorted(place.rglob("*.yaml")):
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                return path
            except OSError:
                continue
    return None


def _name(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+")


def _is_path(name: str) -> bool:
    """Whether an option is a path, which is taken as typed."""
    parts = name.split(".")
    return name in PATHS or (parts[-1] in NAMING and parts[0] in ("callbacks", "logger", "trainer"))


def _text(argument: str) -> str:
    """The value in name=value, without Hydra's quotes."""
    typed = argument.partition("=")[2]
    if re.fullmatch(r"'.*'|\".*\"", typed, re.DOTALL):
        try:
            return str(OverridesParser.create().parse_override(f"x={typed}").value())
        except HydraException:
            pass
    return typed


def _list(argument: str) -> list[str]:
    """The items of trust=[a,b], or of trust=a."""
    items = argument.partition("=")[2].strip("[]").split(",")
    return [item.strip(" '\"") for item in items if item]


def _parts(argument: str) -> list[str]:
    """The values of a sweep over paths, split at commas outside quotes."""
    return re.findall(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[^,]+|(?<=,)(?=,|$)", argument.partition("=")[2])


def _quoted(argument: str, sweeps: bool) -> str:
    """Quote the path in name=value; other options, null, quoted values and expressions are left unchanged.

    Raises:
        UsageError: the path is empty.
    """
    name, equals, value = argument.partition("=")
    if not equals or not _is_path(_name(argument)) or argument.startswith("-"):
        return argument
    sweeps = sweeps and _name(argument) not in FOLDERS
    parts = _parts(argument) if sweeps else [value]
    return f"{name}={','.join(_quoted_values(name, parts, sweeps))}"


def _quoted_values(name: str, values: Sequence[str], sweeps: bool) -> Iterator[str]:
    is_expression = sweeps and re.fullmatch(r"(choice|glob|range|sort|shuffle)\(.*", ",".join(values))
    for value in values or [""]:
        if not value:
            raise UsageError(f"{name} is empty: give a path.")
        if value == "null" or "${" in value or is_expression or re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL):
            yield value
        else:
            yield quoted_path(os.path.expanduser(value))
