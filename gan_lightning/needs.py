"""Options that have an effect only with others."""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from gan_lightning.trust import PACKAGE

EVERYTHING = {"experiment", "model"}  # what may set any option


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


def _needs_of(name: str) -> Iterator[Need]:
    group, _, key = name.rpartition(".")
    if name in ("model.lr", "model.betas"):
        instead = f"nothing reads it; give generator_optimizer.{key} or discriminator_optimizer.{key}"
        yield Need(lambda config: _refers(config, name), instead, {"optimizer"})
    if key in ("momentum", "betas") and (group == "model" or group.endswith("_optimizer")):
        yield Need(lambda config: _starts_like_schedule(config, name), STARTS, {"schedule", "schedule.momentum"})
    if name == "model.latent_size" or group == "prior":
        yield DRAWS
    if name in NEEDS:
        yield NEEDS[name]


def _refers(config: DictConfig, name: str) -> bool:
    """Whether another value is taken from this option."""
    return f"${{{name}}}" in str(OmegaConf.to_container(config, resolve=False))


def _starts_like_schedule(config: DictConfig, name: str) -> bool:
    """Whether no schedule sets another momentum or beta_1 than this option, a player's or of both."""
    player = name.partition(".")[0].removesuffix("_optimizer")
    start = config.schedule.get("momentum") if config.model.scheduled in ("both", player) else None
    value = OmegaConf.select(config, name)
    return start is None or (value[0] if OmegaConf.is_list(value) else value) == start


STARTS = "training starts with the momentum, or beta_1, of schedule.momentum; give it the same value"
DRAWS = Need(
    lambda config: config.game.get("_target_") != f"{PACKAGE}.games.pix2pix.Pix2Pix",
    "game=pix2pix translates images and draws no latents; leave it out",
    {"game"},
)
ADJUSTS = Need(
    lambda config: config.augment.get("target") is not None,
    "augment.target is null; leave it out",
    {"augment", "augment.target"},
)
NEEDS = {
    "augment.speed": ADJUSTS,
    "augment.interval": ADJUSTS,
    "changed_data": Need(lambda config: config.resume is not None, "no run is resumed; give resume=RUN_FOLDER", set()),
    "game.continuous_weight": Need(
        lambda config: config.prior.get("continuous") != 0,
        "prior.continuous is 0; leave it out",
        {"prior", "prior.continuous"},
    ),
    "model.ema_warmup": Need(
        lambda config: bool(config.model.get("ema_decay")), "there is no EMA; give model.ema_decay", {"model.ema_decay"}
    ),
    "model.scheduled": Need(
        lambda config: "_target_" in config.schedule,
        "no schedule is chosen; choose one with schedule=OPTION",
        {"schedule"},
    ),
    "trainer.gradient_clip_algorithm": Need(
        lambda config: config.trainer.get("gradient_clip_val") is not None,
        "no gradient is clipped; give trainer.gradient_clip_val",
        {"trainer.gradient_clip_val"},
    ),
}
