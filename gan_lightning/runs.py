"""Read run folders for tables: settings, their labels and metrics; imports only fast modules."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_lightning.errors import UsageError
from gan_lightning.options import written
from gan_lightning.trust import read_yaml

# options that may differ within a setting, only say where files are, only observe, or belong to the protocol
IGNORED = {
    *("seed", "resume", "choices", "callbacks", "logger", "objective", "data.seed", "data.download", "data.cache"),
    *("data.inception_weights", "data.features", "data.validation_samples"),
}
COMPARED = ("features", "n", "held_out")  # scores depend on the features and the number of samples
PROTOCOL = (*COMPARED, "checkpoint", "weights")  # how evaluate.py measured
FOLLOWING = {"held_out": {"n"}, "weights": {"model.ema_decay"}}  # the digest depends on n, weights on an EMA
UNFINISHED = "Without metrics.json (stopped, diverged or not finished)"
NOT_EVALUATED = "Without evaluation.json (run evaluate.py)"
OUTDATED = "Left out because evaluated at a step other than the run's last (evaluate again)"

Setting = tuple[tuple[str, str], ...]  # options and their values


@dataclass(frozen=True)
class Run:
    """A run folder: its options except the seed, its metrics, how they were measured, and why they do not count.

    ``choices`` are the chosen options of the groups, if its config.yaml has them.
    """

    folder: Path
    seed: str
    options: Setting
    metrics: dict[str, float]
    protocol: Setting
    missing: str
    choices: dict[str, str]
    step: Any = None  # at which the metrics were measured


def find_runs(folders: list[Path], name: str) -> list[Run]:
    """All runs below the folders, with or without the file ``name``, sorted by path.

    Raises:
        UsageError: a folder does not exist, or a run's file cannot be read.
    """
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder: give a folder of runs, such as multirun/TIME.")
        for place, folders_in, files in os.walk(folder):
            folders_in[:] = [name for name in folders_in if not name.startswith(".")]  # such as Hydra's own
            if name in files or "config.yaml" in files:
                found[Path(place).resolve()] = Path(place)
    return [run for path in sorted(found.values()) if (run := read_run(path, name)) is not None]


def read_run(folder: Path, name: str) -> Run | None:
    """The run of a folder; None if its config.yaml does not belong to a run.

    Raises:
        UsageError: the file ``name`` has no run's config.yaml beside it, or one of the two cannot be read.
    """
    config, metrics = read_mapping(folder / "config.yaml"), read_mapping(folder / name)
    if config is None or not all(isinstance(config.get(part), dict) for part in ("data", "model")):
        if metrics is None:
            return None
        raise UsageError(f"{folder} has a {name} but no config.yaml of a run: restore it, or leave out the folder.")
    last = metrics if name == "metrics.json" else read_mapping(folder / "metrics.json")
    missing = "" if metrics is not None else UNFINISHED if last is None else NOT_EVALUATED
    metrics = metrics or {}
    step = metrics.get("step")
    protocol = {"features": metrics.get("features"), "n": config["data"].get("validation_samples")}
    if name == "evaluation.json" and not missing:
        if not isinstance(metrics.get("metrics"), dict) or not set(PROTOCOL) <= set(metrics):
            raise UsageError(f"{folder / name} lacks values to compare: run python scripts/evaluate.py again.")
        protocol = {key: metrics[key] for key in PROTOCOL} | {"checkpoint": Path(metrics["checkpoint"]).name}
        if protocol["checkpoint"] == "last.ckpt" and metrics.get("step") != (last or {}).get("step"):
            missing = UNFINISHED if last is None else OUTDATED
        metrics = metrics["metrics"]
    numbers = {k: v if isinstance(v, int | float) else math.nan for k, v in metrics.items() if not isinstance(v, str)}
    how = tuple((key, str(value)) for key, value in protocol.items())
    choices = flatten(config.get("choices") or {})
    return Run(folder, str(config.get("seed")), setting_of(config), numbers, how, missing, choices, step)


def read_mapping(path: Path) -> dict[str, Any] | None:
    """Read a YAML or JSON file; returns None if it does not exist.

    Raises:
        UsageError: it does not hold a mapping.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else read_yaml(path)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"{path} cannot be read: run it again, or leave out the folder.")
    return content


def setting_of(config: dict[str, Any]) -> Setting:
    """The options that define a setting."""
    options = flatten({key: value for key, value in config.items() if key not in IGNORED})
    if "data.download" in options:  # data that can be downloaded are the same wherever they are
        options.pop("data.root", None)
    return tuple(sorted((key, value) for key, value in options.items() if key not in IGNORED))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Map dotted names to values as typed on the command line; an empty part is "none"."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = "none" if value == {} else written(value)
    return flat


def labels(settings: list[Setting], choices: Sequence[dict[str, str]] = ()) -> list[str]:
    """For each setting, its name and the options that distinguish it from others with that name.

    A group's chosen option stands for all options that it sets, if all settings with that name have ``choices``.
    """
    peers: dict[str, list[int]] = defaultdict(list)
    options = [{"name": "null", **dict(setting)} for setting in settings]
    for i, own in enumerate(options):
        peers[own["name"]].append(i)
    texts = [""] * len(settings)
    for name, group in peers.items():
        members = [options[i] for i in group]
        chosen = add_choices(members, [choices[i] for i in group] if choices else [])
        telling = telling_options(members, chosen)
        for i, own in zip(group, members, strict=True):
            words = [
                f"{key.removesuffix('._target_')}={short_value(key, own[key], members)}"
                for key in telling
                if key in own
            ]
            texts[i] = " ".join(words if name == "null" else [name, *words]) or "all"
    return texts


def add_choices(peers: list[dict[str, str]], choices: list[dict[str, str]]) -> set[str]:
    """Add the groups with different chosen options to the peers' options; returns the names of these groups."""
    groups = set.intersection(*(set(own) for own in choices)) if choices else set()
    differing = {group for group in groups if len({own[group] for own in choices}) > 1}
    # an experiment is not part of a run, and a choice that makes no difference in its part says nothing
    chosen = {group for group in differing if len({part_of(peer, group) for peer in peers}) > 1}
    for peer, own in zip(peers, choices, strict=False):
        peer.update({group: own[group] for group in chosen})
    return chosen


def part_of(options: dict[str, str], group: str) -> Setting:
    """The options of a group."""
    return tuple((key, value) for key, value in options.items() if key.partition(".")[0] == group)


def telling_options(peers: list[dict[str, str]], chosen: Set[str] = frozenset()) -> list[str]:
    """The options that differ, except those that follow from a choice, their part's class or a model option."""
    columns = {key: [peer.get(key) for peer in peers] for key in sorted({key for peer in peers for key in peer})}
    columns = {key: values for key, values in columns.items() if len(set(values)) > 1}
    sources = [key for key in columns if key.startswith("model.") and key.count(".") == 1]  # such as ${model.lr}

    def follows(key: str) -> bool:
        values, parts = columns[key], key.split(".")
        causes = {f"{'.'.join(parts[:i])}._target_" for i in range(1, len(parts))} - {key}
        causes |= FOLLOWING.get(key, set()) | (chosen & {parts[0]}) - {key}
        return any(values == columns[other] for other in sources if other != key) or any(
            len(set(zip(columns[other], values, strict=True))) == len(set(columns[other]))
            for other in causes & columns.keys()
        )

    return [key for key in columns if not follows(key)]


def short_value(key: str, value: str, peers: list[dict[str, str]]) -> str:
    """Shorten a class to the last names that distinguish it from the peers' classes; other values are unchanged."""
    if not key.endswith("_target_"):
        return value
    others = {peer[key] for peer in peers if key in peer} - {value}
    names = value.split(".")
    suffixes = [".".join(names[-i:]) for i in range(1, len(names) + 1)]
    return next((s for s in suffixes if not any(f".{other}".endswith(f".{s}") for other in others)), value)
