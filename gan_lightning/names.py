"""Name run folders by what is run and, in a sweep, by what differs; imports only fast modules."""

import hashlib
import re

from omegaconf import DictConfig, ListConfig, OmegaConf

from gan_lightning.sweep import differing, key_of

LONGEST = 180  # characters, without a digest
WATCHING = ("trainer", "logger", "callbacks")  # groups that do not affect training


def as_typed(overrides: ListConfig) -> list[str]:
    """Overrides with ${...} unresolved."""
    lines = OmegaConf.to_container(overrides)
    assert isinstance(lines, list)
    return [str(line) for line in lines]


def run_name(_root_: DictConfig) -> str:
    """The experiment's name, or the model's and the data's, and the other chosen groups: mlp_mnist_hinge."""
    return "_".join(_what_is_run(_root_, as_typed(_root_.hydra.overrides.task), set()))


def job_name(_root_: DictConfig) -> str:
    """The same for what the runs of a sweep share, and the options that differ: mlp_mnist_loss-hinge_seed-0.

    A digest is appended if the name could be ambiguous or would be too long.
    """
    typed, hidden = as_typed(_root_.hydra.overrides.task), _root_.hydra.job.config.override_dirname.exclude_keys
    chosen = sorted(line for line in differing(typed) if key_of(line) not in hidden)
    name = "_".join([*_what_is_run(_root_, typed, set(map(key_of, chosen))), *map(_words, chosen)])
    if len(name) <= LONGEST and all(map(_is_told, chosen)):
        return name
    digest = hashlib.blake2b("\0".join(chosen).encode(), digest_size=6).hexdigest()
    return f"{name[:LONGEST]}_{digest}"


def _what_is_run(config: DictConfig, typed: list[str], swept: set[str]) -> list[str]:
    """What runs have in common that differ in the options ``swept``."""
    choices = config.hydra.runtime.choices
    words: list[str] = []
    if config.get("name") and not {"name", "experiment"} & swept:
        words = [str(config.name)]
    elif "experiment" not in swept:
        words = [str(choices.get(group)) for group in ("model", "data") if group not in swept]
    for line in typed:
        key, _, value = line.lstrip("+").partition("=")
        group, _, place = key.partition("@")
        # Hydra records no choice for a group with several chosen options
        is_choice = key in choices or group in ("regularizer", "logger")
        if is_choice and key_of(line) not in swept and group not in WATCHING:
            place = place or (group if value == "none" else "")
            words.append(f"{place}-{value}" if place else value)
    return list(dict.fromkeys(filter(None, map(_plain, words))))


def _words(override: str) -> str:
    key, _, value = override.partition("=")
    return _plain(f"{key.replace('~', 'without-')}-{re.sub(r'^[^a-zA-Z0-9.+-]+', '', value)}")


def _plain(text: str) -> str:
    """Replace characters that shells or Hydra would interpret."""
    plain = re.sub(r"[^\w.+@-]+", "-", text, flags=re.ASCII).strip("-")
    return plain if plain.strip(".") else ""  # not a name of the current or the parent folder


def _is_told(override: str) -> bool:
    """Whether the words of an override contain its value unchanged, and it does not look like another option."""
    value = override.partition("=")[2]
    return re.fullmatch(r"(-?[\w.+][\w.+-]*)?", value, re.ASCII) is not None and re.search(r"_[\w.@]+-", value) is None
