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

    @property
    def enabling(self) -> set[str]:
        """The options on which it depends, and the groups that set them."""
        return EVERYTHING | self.by | {option.partition(".")[0] for option in self.by}


def missing(name: str, config: DictConfig, swept: Collection[str] = ()) -> str:
    """What this configuration lacks for an option to have an effect, and what to do; empty if nothing is missing.

    Other jobs of a sweep may have what is missing in this one, if it depends on the options that are ``swept``. Parts
    of the user's own take their options as they like.
    """
    for need in _needs_of(name):
        if need.enabling.isdisjoint(swept) and not _is_own(config, name.rpartition(".")[0]) and not need.is_met(config):
            return need.otherwise
    return ""


def unread(name: str, config: DictConfig, typed: Collection[str], swept: Collection[str] = ()) -> str:
    """What to give when model.lr or model.betas does not reach both players; empty if it does.

    A player whose own option is ``typed`` need not be reached. ``config`` has its references, such as ${model.lr}.
    """
    key = name.rpartition(".")[2]
    if name not in ("model.lr", "model.betas") or not (EVERYTHING | {"optimizer"}).isdisjoint(swept):
        return ""
    options = [f"{player}_optimizer.{key}" for player in PLAYERS]
    if not _refers(config, name):
        return _no_effect(f"nothing reads it; give {options[0]} or {options[1]}")
    changed = config.copy()
    OmegaConf.update(changed, name, -1.0 if key == "lr" else [-1.0, -1.0])  # which no optimizer has
    for own, other in zip(options, reversed(PLAYERS), strict=True):
        value = OmegaConf.select(config, own)
        if value is not None and value == OmegaConf.select(changed, own) and own not in typed:
            return f"reaches only the {other}: give {own} too"
    return ""


def _refers(config: DictConfig, name: str) -> bool:
    """Whether a value is taken from this option."""
    return f"{name}}}" in str(OmegaConf.to_container(config, resolve=False))


def _needs_of(name: str) -> Iterator[Need]:
    group, _, key = name.rpartition(".")
    if key in ("momentum", "betas") and (group == "model" or group.endswith("_optimizer")):
        yield Need(lambda config: _starts_like_schedule(config, name), STARTS, {"schedule.momentum"})
    if name == "model.latent_size" or group == "prior":
        yield DRAWS
    if name in CALLED_BACK:
        yield Need(lambda config: bool(config.callbacks) or _is_zero(config, name), NO_CALLBACKS, {"callbacks"})
    if name in VALIDATING:
        yield Need(lambda config: _validates(config) or _is_zero(config, name), NOT_VALIDATED, {VALIDATION})
    if name in NEEDS:
        yield NEEDS[name]


def _starts_like_schedule(config: DictConfig, name: str) -> bool:
    """Whether this option, a player's or of both, equals the momentum or beta_1 that a schedule starts with."""
    player = name.partition(".")[0].removesuffix("_optimizer")
    if _is_own(config, "schedule") or config.model.get("scheduled", "both") not in ("both", player):
        return True
    start, value = config.schedule.get("momentum"), OmegaConf.select(config, name)
    return start is None or (value[0] if OmegaConf.is_list(value) and value else value) == start


def _validates(config: DictConfig) -> bool:
    """Whether something is validated, as far as the options say."""
    return _is_own(config, "data") or bool(config.data.get("validation_samples", True))


def _draws(config: DictConfig) -> bool:
    """Whether the generator uses latents."""
    return _is_own(config, "game") or _is_own(config, "model.generator") or not _is(config, "game", "Pix2Pix")


def _has_outputs(config: DictConfig) -> bool:
    """Whether the discriminator has more outputs than the logit."""
    return _is_own(config, "game") or _is(config, "game", "InfoGAN", "ACGAN")


def _is(config: DictConfig, part: str, *names: str) -> bool:
    """Whether a part of the configuration is of one of these classes."""
    return str(config[part].get("_target_")).rpartition(".")[2] in names


def _is_own(config: DictConfig, part: str) -> bool:
    """Whether a part of the configuration is of the user's own class."""
    target = OmegaConf.select(config, f"{part}._target_")
    return target is not None and not str(target).startswith((f"{PACKAGE}.", "torch."))


def _is_zero(config: DictConfig, name: str) -> bool:
    """Whether an option asks for nothing, as its absence would."""
    return OmegaConf.select(config, name) == 0


def _has(name: str, *idle: Any) -> Callable[[DictConfig], bool]:
    """Whether an option has another value than these."""
    return lambda config: OmegaConf.select(config, name) not in idle


def _has_or_is_zero(name: str, other: str, *idle: Any) -> Callable[[DictConfig], bool]:
    """Whether another option has another value than these, or this one is 0."""
    return lambda config: _has(other, *idle)(config) or _is_zero(config, name)


def _no_effect(because: str) -> str:
    return f"would have no effect: {because}"


VALIDATION = "data.validation_samples"
CALLED_BACK = ("trainer.enable_checkpointing", "trainer.enable_progress_bar")
VALIDATING = [
    f"trainer.{name}"
    for name in ("val_check_interval", "check_val_every_n_epoch", "limit_val_batches", "num_sanity_val_steps")
]
STARTS = _no_effect("schedule.momentum sets the initial momentum, or beta_1; give the same value, or change that one")
NOT_VALIDATED = _no_effect("nothing is validated; give data.validation_samples")
NO_CALLBACKS = _no_effect("there are no callbacks; leave it out")
DRAWS = Need(_draws, _no_effect("game=pix2pix translates images and draws no latents; leave it out"), {"game"})
ADJUSTS = Need(_has("augment.target", None), _no_effect("augment.target is null; leave it out"), {"augment.target"})
REPEATS = Need(
    lambda config: not config.trainer.get("overfit_batches"),
    _no_effect("trainer.overfit_batches replaces it; leave out one of them"),
    {"trainer.overfit_batches"},
)
UNUSED = Need(lambda config: False, _no_effect("a run only trains and validates; leave it out"), set())
NEEDS = {
    "augment.speed": ADJUSTS,
    "augment.interval": ADJUSTS,
    "changed_data": Need(_has("resume", None), _no_effect("no run is resumed; give resume=RUN_FOLDER"), {"resume"}),
    VALIDATION: Need(
        _has_or_is_zero(VALIDATION, "data.held_out_share", 0),
        _no_effect("data.held_out_share is 0, so no samples are held out; leave out one of them"),
        {"data.held_out_share"},
    ),
    "game.category_weight": Need(
        _has_or_is_zero("game.category_weight", "prior.categories", 1),
        _no_effect("prior.categories is 1, so there is nothing to predict; leave it out"),
        {"prior.categories"},
    ),
    "game.continuous_weight": Need(
        _has_or_is_zero("game.continuous_weight", "prior.continuous", 0),
        _no_effect("prior.continuous is 0; leave it out"),
        {"prior.continuous"},
    ),
    "logger.mlflow.save_dir": Need(
        lambda config: config.logger.mlflow.get("tracking_uri") is None,
        _no_effect("logger.mlflow.tracking_uri says where the run goes; leave out one of them"),
        {"logger.mlflow.tracking_uri"},
    ),
    "model.discriminator.output_units": Need(
        _has_outputs, _no_effect("the game has no additional outputs; choose game=infogan or game=acgan"), {"game"}
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
