"""Options that have an effect only with others, as a command line types them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from gan_lightning.config import check_changes
from gan_lightning.errors import UsageError
from gan_lightning.needs import missing, unread

Configure = Callable[..., DictConfig]

SGD = ("optimizer@generator_optimizer=sgd", "optimizer@discriminator_optimizer=sgd")
STARTS = r"schedule\.momentum sets the initial momentum, or beta_1"

# an option, what makes it idle (the last of these is replaced by what gives it an effect), and what is said
IDLE: list[tuple[str, tuple[str, ...], str, str]] = [
    ("model.scheduled=generator", ("schedule=constant",), "schedule=linear", "no schedule is chosen"),
    ("model.ema_warmup=false", ("model.ema_decay=0",), "model.ema_decay=0.9", "there is no EMA"),
    (
        "trainer.gradient_clip_algorithm=value",
        ("trainer.gradient_clip_val=null",),
        "trainer.gradient_clip_val=1.0",
        "no gradient is clipped",
    ),
    (
        "augment.speed=9",
        ("augment=ada", "augment.p=0.1", "augment.target=null"),
        "augment.target=0.5",
        "augment.target",
    ),
    ("augment.interval=9", ("augment=ada", "augment.target=null"), "augment.target=0.5", "augment.target is null"),
    ("game.continuous_weight=9", ("game=infogan", "prior.continuous=0"), "prior.continuous=1", "prior.continuous is 0"),
    ("game.category_weight=9", ("game=infogan", "prior.categories=1"), "prior.categories=2", "prior.categories is 1"),
    ("model.latent_size=4", ("game=pix2pix",), "game=standard", "game=pix2pix translates images"),
    ("prior.low=0", ("prior=uniform", "game=pix2pix"), "game=standard", "game=pix2pix translates images"),
    (
        "model.discriminator.output_units=5",
        ("model=infogan", "game=bigan"),
        "game=acgan",
        "the game has no additional outputs",
    ),
    ("model.betas=[0.1,0.9]", ("schedule=goodfellow", "schedule.momentum=0.5"), "schedule.momentum=0.1", STARTS),
    (
        "generator_optimizer.betas=[0.1,0.9]",
        ("schedule=goodfellow", "schedule.momentum=0.5"),
        "schedule.momentum=0.1",
        STARTS,
    ),
    (
        "discriminator_optimizer.momentum=0.1",
        (*SGD, "model.scheduled=discriminator", "schedule=goodfellow"),
        "schedule=constant",
        STARTS,
    ),
    *(
        (f"trainer.{option}", ("data.validation_samples=0",), "data.validation_samples=9", "nothing is validated")
        for option in ("val_check_interval=5", "check_val_every_n_epoch=2", "limit_val_batches=3")
    ),
    (
        "trainer.num_sanity_val_steps=2",
        ("data.validation_samples=0",),
        "data.validation_samples=9",
        "nothing is validated",
    ),
    *(
        (f"trainer.limit_{what}_batches=7", ("trainer.overfit_batches=2",), "trainer.overfit_batches=0", "trainer.over")
        for what in ("train", "val")
    ),
    *(
        (f"trainer.enable_{what}=true", ("callbacks=none",), "callbacks=default", "there are no callbacks")
        for what in ("checkpointing", "progress_bar")
    ),
    (
        "data.validation_samples=9",
        ("data=array", "data.path=x.npy", "data.held_out_share=0"),
        "data.held_out_share=0.1",
        "data.held_out_share is 0, so no samples are held out",
    ),
    (
        "logger.mlflow.save_dir=x",
        ("logger=mlflow", "logger.mlflow.tracking_uri=http://x"),
        "logger.mlflow.tracking_uri=null",
        "logger.mlflow.tracking_uri says where",
    ),
    ("changed_data=accept", ("resume=null",), "resume=auto", "no run is resumed"),
]
IDS = [row[0] for row in IDLE]


def told(config: DictConfig, *lines: str, swept: tuple[str, ...] = ()) -> str:
    """What typing these lines is refused with; empty if it is not."""
    try:
        check_changes(OverridesParser.create().parse_overrides(list(lines)), config, list, swept)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("idle", "options", "enables", "says"), IDLE, ids=IDS)
def test_an_option_without_an_effect_is_refused(
    configure: Configure, idle: str, options: tuple[str, ...], enables: str, says: str
) -> None:
    assert re.match(rf"{re.escape(idle)} would have no effect: {says}", told(configure(*options, idle), idle))
    assert told(configure(*options[:-1], enables, idle), idle) == ""


@pytest.mark.parametrize(("idle", "options", "enables", "says"), IDLE, ids=IDS)
def test_jobs_of_a_sweep_may_differ_in_what_gives_an_option_its_effect(
    configure: Configure, idle: str, options: tuple[str, ...], enables: str, says: str
) -> None:
    config, name = configure(*options, idle), enables.partition("=")[0]
    for swept in (name, name.partition(".")[0], "experiment", "model"):
        assert told(config, idle, swept=("seed", swept)) == ""
    assert " would have no effect: " in told(config, idle, swept=("seed", "loss", "name"))


@pytest.mark.parametrize("option", ["trainer.limit_test_batches=7", "trainer.limit_predict_batches=7"])
def test_what_a_run_never_does_has_no_options(configure: Configure, option: str) -> None:
    assert told(configure(option), option) == (
        f"{option} would have no effect: a run only trains and validates; leave it out."
    )


@pytest.mark.parametrize(
    ("options", "zero"),
    [
        (("data.validation_samples=0",), "trainer.limit_val_batches=0"),
        (("data.validation_samples=0",), "trainer.num_sanity_val_steps=0"),
        (("data=array", "data.path=x.npy", "data.held_out_share=0"), "data.validation_samples=0"),
        (("game=infogan", "prior.continuous=0"), "game.continuous_weight=0"),
        (("game=infogan", "prior.categories=1"), "game.category_weight=0"),
        (("callbacks=none",), "trainer.enable_checkpointing=false"),
    ],
)
def test_what_is_absent_may_be_switched_off(configure: Configure, options: tuple[str, ...], zero: str) -> None:
    assert told(configure(*options, zero), zero) == ""


@pytest.mark.parametrize(
    ("options", "part", "option"),
    [
        (("augment=ada", "augment.target=null"), "augment", "augment.speed=9"),
        (("model=infogan",), "model.discriminator", "model.discriminator.output_units=9"),
        (("schedule=goodfellow",), "schedule", "model.betas=[0.1,0.9]"),
        (("data.validation_samples=0",), "data", "trainer.val_check_interval=5"),
        (("data=array", "data.path=x.npy", "data.held_out_share=0"), "data", "data.validation_samples=9"),
        (("game=pix2pix",), "model.generator", "model.latent_size=4"),
    ],
)
def test_parts_of_ones_own_take_their_options_as_they_like(
    configure: Configure, options: tuple[str, ...], part: str, option: str
) -> None:
    config = configure(*options, option)
    name = option.partition("=")[0]
    assert missing(name, config)
    OmegaConf.update(config, f"{part}._target_", "my_lab.Mine")
    assert missing(name, config) == ""


def test_a_schedule_of_one_player_leaves_the_momentum_of_the_other(configure: Configure) -> None:
    typed = "discriminator_optimizer.momentum=0.9"
    assert told(configure(*SGD, "schedule=goodfellow", "model.scheduled=generator", typed), typed) == ""


@pytest.mark.parametrize("value", ["[]", "null", "0.9", "[0.9]"])
def test_betas_that_are_none_end_in_a_sentence(configure: Configure, value: str) -> None:
    typed = f"model.betas={value}"
    assert told(configure("schedule=goodfellow", typed), typed).endswith(".")


# ------------------------------------------------------------------------------------------ options of both players


@pytest.mark.parametrize(
    ("options", "reached", "other"),
    [
        (("experiment=mnist_10_minutes",), "discriminator", "generator"),
        (("experiment=cifar10_10_minutes",), "generator", "discriminator"),
        (("optimizer@generator_optimizer=sgd",), "discriminator", "generator"),
    ],
)
def test_a_rate_of_both_players_that_one_reads_is_refused(
    configure: Configure, options: tuple[str, ...], reached: str, other: str
) -> None:
    """Unless the other's own is typed beside it."""
    config, own = configure(*options, "model.lr=0.1"), f"{other}_optimizer.lr"
    assert told(config, "model.lr=0.1") == f"model.lr=0.1 reaches only the {reached}: give {own} too."
    assert told(config, "model.lr=0.1", swept=("seed",))
    assert told(config, "model.lr=0.1", swept=("optimizer",)) == ""
    assert told(configure(*options, "model.lr=0.1", f"{own}=0.2"), "model.lr=0.1", f"{own}=0.2") == ""


@pytest.mark.parametrize("option", ["model.lr=0.1", "model.betas=[0.1,0.9]"])
def test_an_option_that_no_player_reads_is_refused(configure: Configure, option: str) -> None:
    key = option.partition("=")[0].removeprefix("model.")
    assert told(configure(*SGD, option), option) == (
        f"{option} would have no effect: nothing reads it; give generator_optimizer.{key} or "
        f"discriminator_optimizer.{key}."
    )


def test_betas_reach_the_one_player_that_has_them(configure: Configure) -> None:
    typed = "model.betas=[0,0.9]"
    assert told(configure(SGD[0], typed), typed) == ""


@pytest.mark.parametrize("rate", ["${rate}", "${..model.lr}"])
def test_a_rate_may_be_read_by_way_of_another(rate: str) -> None:
    config: Any = OmegaConf.create(
        {
            "rate": "${model.lr}",
            "model": {"lr": 0.1},
            "generator_optimizer": {"lr": rate},
            "discriminator_optimizer": {"lr": "${model.lr}"},
        }
    )
    assert unread("model.lr", config, ["model.lr"]) == ""
    config.generator_optimizer.lr = 0.1
    assert unread("model.lr", config, ["model.lr"]) == "reaches only the discriminator: give generator_optimizer.lr too"
