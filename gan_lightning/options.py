"""Parse the options of scripts, name=value as in train.py; imports only fast modules."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gan_lightning.errors import UsageError
from gan_lightning.files import cause_in_the_machine
from gan_lightning.pretrained import find

T = TypeVar("T")
KINDS: dict[Any, str] = {
    **{int: "a whole number", float: "a number", bool: "true or false"},
    **{str: "a string", Path: "a path", list[Path]: "a path"},
}
PIXELS = (".png", ".jpg", ".jpeg", ".webp")  # formats that Pillow writes
PICTURES = (*PIXELS, ".pdf", ".svg")  # formats that Matplotlib writes
CHECKPOINT = "run folder, checkpoint, or name of a trained generator of the package"
AS_TYPED = (str, Path, list[Path])  # taken literally: YAML would read a folder called 007 as 7


class Weights(Enum):
    """Which generator of a checkpoint to use: its moving average or the live one."""

    average = "averaged"
    raw = "raw"


def read_options(options: type[T], doc: str) -> T:
    """Parse the command line's name=value pairs into the dataclass ``options``.

    Each annotation carries the option's description, as in ``n: Annotated[int, "number of samples"] = 64``; an option
    whose default is omegaconf.MISSING is required. Text, the items of a list of texts, and paths are taken as typed,
    except that ~ is expanded in paths; other values are YAML. An option of type ``list[Path]`` is given once per path.
    To refuse values, raise UsageError in ``__post_init__``. ``--help`` prints ``doc`` and the options. An invalid
    option ends the script with one sentence and exit status 1.
    """
    arguments = sys.argv[1:]
    sys.path.append(os.getcwd())  # the user's own code may be in the current folder
    if {"-h", "--help"} & set(arguments):
        print(f"{doc.strip()}\n\n{describe(options)}")
        sys.exit()
    try:
        check_text(arguments)
        return parse(options, arguments)
    except UsageError as error:
        sys.exit(f"Error: {error}")


def check_text(arguments: Iterable[str]) -> None:
    """Raise a UsageError if an argument is not UTF-8, which curves, tables and YAML files cannot hold."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise UsageError(f"{shown} is not UTF-8: rename the file, or give a link to it.") from error


@contextmanager
def refusals(out: str | Path | None = None) -> Iterator[None]:
    """End the script with one sentence and exit status 1 on a UsageError, or if ``out`` cannot be written."""
    try:
        yield
    except UsageError as error:
        sys.exit(f"Error: {error}")
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else cause_in_the_machine(error)  # wrapped by torch
        if out is None or cause is None:
            raise
        sys.exit(f"Error: {out} cannot be written: {cause}.")


def check_checkpoint(path: Path) -> None:
    """Raise a UsageError if there is no such file, folder or generator of the package."""
    find(path)


def check_out(path: Path, checkpoint: Path) -> None:
    """Raise a UsageError if the file to write is the checkpoint."""
    if path.exists() and checkpoint.exists() and path.samefile(checkpoint):
        raise UsageError(f"out is {path}, which is the checkpoint: give another name.")


def check_picture(path: Path) -> None:
    """Raise a UsageError if the file extension is not that of a picture."""
    if path.suffix.lower() not in PICTURES:
        raise UsageError(f"{path} is not a picture format that can be written: end its name in {', '.join(PICTURES)}.")


def parse(options: type[T], arguments: list[str]) -> T:
    """Parse name=value arguments into the dataclass ``options``.

    Raises:
        UsageError: an option is invalid, or a required one is missing.
    """
    config, kinds = OmegaConf.structured(options), get_type_hints(options)
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise UsageError(f"{argument} is not an option: give name=value, such as {_example(argument, kinds)}.")
        if name not in kinds:
            raise UsageError(f"{argument} is not an option: choose from {', '.join(kinds)}, which --help explains.")
        try:
            value = _read(config, name, text, kinds[name])
        except (ValueError, OmegaConfBaseException, YAMLError) as error:
            raise UsageError(f"{name} is {text!r}: give {_expected(kinds[name])}.") from error
        values[name] = [*values.get(name, []), value] if kinds[name] == list[Path] else value
    for name in kinds:
        if name not in values and OmegaConf.is_missing(config, name):
            raise UsageError(f"{name} is not set: give {name}=VALUE, which --help explains.")
    return options(**values)


def describe(options: type) -> str:
    """One line per option: its name, default and description."""
    config, hints = OmegaConf.structured(options), get_type_hints(options, include_extras=True)
    rows = []
    for name, hint in hints.items():
        default = "(required)" if OmegaConf.is_missing(config, name) else written(config[name])
        description = " ".join(part for part in getattr(hint, "__metadata__", ()) if isinstance(part, str))
        rows.append((f"  {name}={default}", description))
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of texts as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _example(argument: str, kinds: dict[str, Any]) -> str:
    """How to write an argument that is not name=value: a --name with its own name, else with the first option's."""
    name = argument.lstrip("-")
    return f"{name}=VALUE" if name in kinds else f"{next(iter(kinds))}={argument}"


def _read(config: Any, name: str, text: str, kind: Any) -> Any:
    """Parse the value in name=text.

    Raises:
        ValueError, OmegaConfBaseException, YAMLError: the value is not of that type.
    """
    if not text:
        raise UsageError("empty, as a shell variable that is not set")
    typed = [variant for variant in _variants(kind) if variant in AS_TYPED]
    if typed and not (text == "null" and type(None) in _variants(kind)):
        return text if str in typed else Path(os.path.expanduser(text))
    if list[str] in _variants(kind) and text.startswith("["):
        return _texts(text)
    config[name] = OmegaConf.from_dotlist([f"value={text}"]).value
    value = config[name]  # resolves ${...}
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _texts(text: str) -> list[str]:
    """A list of texts as typed: YAML would read 010 as 8, and yes as true.

    Raises:
        ValueError: it is no list of texts.
    """
    found = yaml.load(text, yaml.BaseLoader)
    if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
        raise ValueError(text)
    return found


def _variants(kind: Any) -> tuple[Any, ...]:
    """The types that an annotation allows: one, or the members of a union."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _expected(kind: Any) -> str:
    texts = []
    for variant in _variants(kind):
        if isinstance(variant, type) and issubclass(variant, Enum):
            texts.append(f"one of {', '.join(variant.__members__)}")
        else:
            texts.append("null" if variant is type(None) else KINDS.get(variant, "a list, such as [a,b]"))
    return " or ".join(texts)


def written(value: Any) -> str:
    """A value as typed on the command line."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(written, value))}]" if isinstance(value, list | ListConfig) else str(value)
