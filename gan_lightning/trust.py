"""What a configuration from a file may instantiate: an allowlist, not anything that can be imported."""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from gan_lightning.errors import UsageError

PACKAGE = "gan_lightning"
CLASSES = (
    *("augment", "callbacks", "data", "diversity", "game", "games", "gan", "loggers", "losses", "networks"),
    *("priors", "regularizers", "finite_difference"),
)  # modules of the package whose classes are parts of a run
FACTORIES = ("distributions", "optim", "schedules")  # modules whose functions are parts of a run too
FUNCTIONS = ("gan_lightning.callbacks.progress.progress",)
OUTSIDE = re.compile(
    r"torch\.nn\.[A-Z]\w*|torch\.optim\.(lr_scheduler\.)?[A-Z]\w*|torch\.distributions\.[A-Z]\w*|"
    r"lightning\.pytorch\.(callbacks|loggers|profilers|strategies|plugins)\.[A-Z]\w*",
    re.ASCII,
)
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
NEVER = {*sys.stdlib_module_names, PACKAGE, "hydra", "omegaconf", "yaml"}  # never suggested for trust
LARGEST = 2**18  # bytes of a config.yaml
MOST, DEEPEST = 100_000, 40  # values, and levels of nesting


class _PlainLoader(get_yaml_loader()):  # type: ignore[misc]
    """OmegaConf's YAML loader without aliases, which could expand to fill all memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("found an alias")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Read the plain content of an untrusted YAML file.

    Raises:
        ValueError: the file is not YAML, or is larger than any configuration of a run.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise yaml.YAMLError("too large")
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read the plain content of a run's config.yaml, without resolving or instantiating anything.

    Raises:
        UsageError: it is not a configuration that a run wrote.
    """
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: restore the config.yaml that the run wrote.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), dict) for k in ("model", "data", "trainer")):
        raise UsageError(f"{path} is not the configuration of a run: give the folder of a run.")
    return content


def check_file(content: Any, path: str | Path, trust: Sequence[str] = ()) -> None:
    """Check that a plain configuration from a file instantiates only parts of a run and trusted packages.

    Raises:
        UsageError: it instantiates something else, refers to something outside itself, or is not plain data.
    """
    packages = _packages(trust)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no configuration of a run: give a file that train.py wrote.")
    for count, (name, key, value) in enumerate(_nodes(content, path)):
        if count > MOST:
            raise UsageError(f"{path} holds more than {MOST} values: give a file that train.py wrote.")
        if isinstance(value, str) and "${" in value:
            raise UsageError(
                f"{name} is {_short(value)} in {path}, which reads outside the file: give its value there."
            )
        if key == "_target_" and not _may_make(value, packages):
            raise UsageError(f"{name} is {_short(value)} in {path}, {_advice(value, packages)}")


def foreign_packages(config: Any) -> list[str]:
    """The packages outside the allowlist that a configuration uses."""
    targets = [value for _, key, value in _nodes(OmegaConf.to_container(config, resolve=True), "") if key == "_target_"]
    return sorted({target.partition(".")[0] for target in map(str, targets) if not _may_make(target, ())})


def is_defined(target: str) -> bool | None:
    """Whether a module's source defines a dotted name or imports it from its own package; None without a source.

    Nothing is imported.
    """
    source, names = find_source(target)
    if source is None:
        return None
    if not names or len(names) > 2:
        return False
    text = _text(source)
    if len(names) == 2:
        return not names[1].startswith("_") and re.search(rf"^class {names[0]}\b", text, re.MULTILINE) is not None
    return _defines(text, names[0], target.partition(".")[0])


def find_source(target: str) -> tuple[Path | None, list[str]]:
    """The source file of the longest prefix of a dotted name that is a module, and the remaining names."""
    top, *names = target.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # __main__ has none
        spec = None
    if spec is None:
        return None, names
    if spec.submodule_search_locations is None:
        return (Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None), names
    places = [Path(place) for place in spec.submodule_search_locations]
    while names:
        inner = [place / names[0] for place in places]
        if modules := [
            path.with_name(f"{path.name}.py") for path in inner if path.with_name(f"{path.name}.py").is_file()
        ]:
            return modules[0], names[1:]
        if not any(path.is_dir() for path in inner):
            break
        places, names = [path for path in inner if path.is_dir()], names[1:]
    return next((path for place in places if (path := place / "__init__.py").is_file()), None), names


def _defines(text: str, name: str, package: str) -> bool:
    if re.search(rf"^(class|def|async def) {name}\b|^{name}\s*[:=]", text, re.MULTILINE):
        return True
    imports = re.findall(rf"^from (?:\.|{package}\b)[\w.]* import (\([^)]*\)|[^\n]*)", text, re.MULTILINE)
    return any(re.search(rf"(?<!\w){name}\b|^\*", names) for names in imports)


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _nodes(
    value: Any, path: str | Path, name: str = "", key: Any = None, depth: int = 0
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, last key and value of every node in plain data, including list items and keys."""
    if depth > DEEPEST:
        raise UsageError(f"{path} is nested more than {DEEPEST} levels deep: give a file that train.py wrote.")
    if isinstance(value, dict):
        for inner, content in value.items():
            if not isinstance(inner, str | int):
                raise UsageError(f"{name or path} has the key {_short(inner)}: give a file that train.py wrote.")
            yield name, None, inner
            yield from _nodes(content, path, _joined(name, inner), inner, depth + 1)
    elif isinstance(value, list | tuple):
        for i, content in enumerate(value):
            yield from _nodes(content, path, f"{name}[{i}]", None, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise UsageError(f"{name} is a {type(value).__name__} in {path}: give a file that train.py wrote.")
    if not isinstance(value, list | tuple) or key == "_target_":
        yield name, key, value


def _joined(name: str, key: str | int) -> str:
    part = str(key) if str(key).isprintable() else repr(key)
    return f"{name}.{part}" if name else part


def _may_make(target: Any, packages: Sequence[str]) -> bool:
    if not isinstance(target, str) or not DOTTED.fullmatch(target):
        return False
    if target.partition(".")[0] == PACKAGE:
        return _is_part(target)
    if OUTSIDE.fullmatch(target):
        return True
    return any(target.startswith(f"{package}.") for package in packages) and bool(is_defined(target))


def _is_part(target: str) -> bool:
    """Whether the package defines a part of a run under this name."""
    if target in FUNCTIONS:
        return True
    source, names = find_source(target)
    room, name = target.split(".")[1], target.rpartition(".")[2]
    if source is None or len(names) != 1 or name.startswith("_"):
        return False
    kinds = {"class"} if room in CLASSES else {"class", "def"} if room in FACTORIES else set()
    found = re.search(rf"^(class|def) {name}\b", _text(source), re.MULTILINE)
    return found is not None and found[1] in kinds


def _packages(trust: Sequence[str]) -> tuple[str, ...]:
    names = (trust,) if isinstance(trust, str) else tuple(trust)
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"trust is {_short(name)}: give names of packages, such as trust=[my_lab].")
    return names


def _advice(target: Any, packages: Sequence[str]) -> str:
    top = target.partition(".")[0] if isinstance(target, str) and DOTTED.fullmatch(target) else None
    if top is None or top in NEVER:
        return "which is not a part of a run: do not use a file that you do not trust."
    if top in packages or any(package.startswith(f"{top}.") for package in packages):
        return f"which was not found in {top}: install it, run in the folder that contains it, or correct the name."
    return f"which is not part of {PACKAGE}: if you trust the file and {top}, give trust=[{top}]."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
