"""Options that have an effect only with others."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from gan_lightning.trust import PACKAGE

EVERYTHING = {"experiment", "model"}  # what may set any option
PLAYERS = ("generator", "discriminator")


class Need(NamedTuple):
    """What an option needs to have an effect, what to say without it, and the options on which that depends."""

    is_met: Callable[[DictConfig], bool]
    otherwise: str
    by: set[str]


def missing(name: str, config: DictConfig, swept: Collection[str] = ()) -> str:
    """What this configuration lacks for an option to have an effect, and what to do; empty if nothing is missing.

    Other jobs of a sweep may have what is missing in this one, if it depends on the options that are ``swept``.
    """
    for need in _needs_of(name):
        if (EVERYTHING | need.by).isdisjoint(swept) and not need.is_met(config):
            return need.otherwise
    return ""


def unread(name: str, config: DictConfig, typed: Collection[str], swept: Collection[str] = ()) -> str:
    """How to set an option of both players that not both read; empty if both do, or if the other's own is ``typed``.

    ``config`` is unresolved: a player reads model.lr if its optimizer has lr: ${model.lr}.
    """
    key = name.rpartition(".")[2]
    if name not in ("model.lr", "model.betas") or not {"experiment", "model", "optimizer"}.isdisjoint(swept):
        return ""
    if not _refers(config, name):
        return f"would have no effect: nothing reads it; give {_own(0, key)} or {_own(1, key)}"
    for own, other in ((0, 1), (1, 0)):
        has_own = key in config[f"{PLAYERS[own]}_optimizer"] and not _refers(config[f"{PLAYERS[own]}_optimizer"], name)
        if has_own and _own(own, key) not in typed:
            return f"reaches only the {PLAYERS[other]}: give {_own(own, key)} too"
    return ""


def _own(player: int, key: str) -> str:
    return f"{PLAYERS[player]}_optimizer.{key}"


def _refers(config: DictConfig, name: str) -> bool:
    """Whether a value is taken from this option."""
    return f"${{{name}}}" in str(OmegaConf.to_container(config, resolve=False))


def _needs_of(name: str) -> Iterator[Need]:
    group, _, key = name.rpartition(".")
    if key in ("momentum", "betas") and (group == "model" or group.endswith("_optimizer")):
        yield Need(lambda config: _starts_like_schedule(config, name), STARTS, {"schedule", "schedule.momentum"})
    if name == "model.latent_size" or group == "prior":
        yield DRAWS
    if name in ("trainer.enable_checkpointing", "trainer.enable_progress_bar"):
        yield Need(lambda config: _is_called_back(config, name), NO_CALLBACKS, {"callbacks"})
    if name in VALIDATING:
        yield Need(lambda config: _validates(config, name), NOTHING_VALIDATED, {"data", "data.validation_samples"})
    if name in NEEDS:
        yield NEEDS[name]


def _starts_like_schedule(config: DictConfig, name: str) -> bool:
    """Whether no schedule sets another momentum or beta_1 than this option, a player's or of both."""
    player = name.partition(".")[0].removesuffix("_optimizer")
    start = config.schedule.get("momentum") if config.model.get("scheduled", "both") in ("both", player) else None
    value = OmegaConf.select(config, name)
    return start is None or (value[0] if OmegaConf.is_list(value) else value) == start


def _validates(config: DictConfig, name: str) -> bool:
    """Whether something is validated, as far as the options say, or this option asks for no validation either."""
    return bool(config.data.get("validation_samples", True)) or OmegaConf.select(config, name) == 0


def _is_called_back(config: DictConfig, name: str) -> bool:
    """Whether there are callbacks, or this option asks for none either."""
    return bool(config.callbacks) or not OmegaConf.select(config, name)


def _is(part: str, *names: str) -> Callable[[DictConfig], bool]:
    """Whether a part of the configuration is one of these of the package, or the user's own."""

    def test(config: DictConfig) -> bool:
        package, _, name = str(config[part].get("_target_")).rpartition(".")
        return name in names or not package.startswith(f"{PACKAGE}.")

    return test


def _has(name: str, *idle: Any) -> Callable[[DictConfig], bool]:
    """Whether an option has another value than these."""
    return lambda config: OmegaConf.select(config, name) not in idle


def _no_effect(because: str) -> str:
    return f"would have no effect: {because}"


STARTS = _no_effect("training starts with the momentum, or beta_1, of schedule.momentum; give it the same value")
NOTHING_VALIDATED = _no_effect("nothing is validated; give data.validation_samples")
NO_CALLBACKS = _no_effect("there are no callbacks; choose callbacks=default")
VALIDATING = {
    f"trainer.{name}"
    for name in ("val_check_interval", "check_val_every_n_epoch", "limit_val_batches", "num_sanity_val_steps")
}
DRAWS = Need(
    _has("game._target_", f"{PACKAGE}.games.pix2pix.Pix2Pix"),
    _no_effect("game=pix2pix translates images and draws no latents; leave it out"),
    {"game"},
)
ADJUSTS = Need(
    _has("augment.target", None),
    _no_effect("augment.target is null; leave it out"),
    {"augment", "augment.target"},
)
REPEATS = Need(
    lambda config: not config.trainer.get("overfit_batches"),
    _no_effect("trainer.overfit_batches replaces it; leave out one of them"),
    {"trainer.overfit_batches"},
)
UNUSED = Need(lambda config: False, _no_effect("a run only trains and validates; leave it out"), set())
NEEDS = {
    "augment.speed": ADJUSTS,
    "augment.interval": ADJUSTS,
    "changed_data": Need(_has("resume", None), _no_effect("no run is resumed; give resume=RUN_FOLDER"), set()),
    "data.validation_samples": Need(
        _has("data.held_out_share", 0),
        _no_effect("data.held_out_share is 0, so that no samples are held out; leave out one of them"),
        {"data", "data.held_out_share"},
    ),
    "game.category_weight": Need(
        _has("prior.categories", 1),
        _no_effect("prior.categories is 1, so that there is nothing to predict; leave it out"),
        {"prior", "prior.categories"},
    ),
    "game.continuous_weight": Need(
        _has("prior.continuous", 0),
        _no_effect("prior.continuous is 0; leave it out"),
        {"prior", "prior.continuous"},
    ),
    "logger.mlflow.save_dir": Need(
        lambda config: config.logger.mlflow.get("tracking_uri") is None,
        _no_effect("logger.mlflow.tracking_uri says where the run goes; leave out one of them"),
        {"logger", "logger.mlflow.tracking_uri"},
    ),
    "model.discriminator.output_units": Need(
        _is("game", "InfoGAN", "ACGAN"),
        _no_effect("the game has no additional outputs; choose game=infogan or game=acgan"),
        {"game"},
    ),
    "model.ema_warmup": Need(
        _has("model.ema_decay", 0, None), _no_effect("there is no EMA; give model.ema_decay"), {"model.ema_decay"}
    ),
    "model.scheduled": Need(
        _has("schedule._target_", None),
        _no_effect("no schedule is chosen; choose one with schedule=OPTION"),
        {"schedule"},
    ),
    "trainer.gradient_clip_algorithm": Need(
        _has("trainer.gradient_clip_val", None),
        _no_effect("no gradient is clipped; give trainer.gradient_clip_val"),
        {"trainer.gradient_clip_val"},
    ),
    "trainer.limit_predict_batches": UNUSED,
    "trainer.limit_test_batches": UNUSED,
    "trainer.limit_train_batches": REPEATS,
    "trainer.limit_val_batches": REPEATS,
}
