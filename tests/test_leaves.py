"""Every single option of the default configuration, taken away or made a mapping: fine, or refused in a sentence."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from helpers import TOY
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gan_lightning import training
from gan_lightning.config import check, check_changes, explain
from gan_lightning.errors import UsageError
from gan_lightning.resumption import option_names

GROUPS = ("logger=[tensorboard,csv]", "regularizer=r1", "regularizer@generator_regularizer=r2", "schedule=linear")


WEIGHT, RAMP = "regularizer.r1.weight", "_target_: gan_lightning.schedules.Ramp"


CONFIG = composed(*GROUPS, *TOY)
NAMES = option_names(CONFIG)


def leaves(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all single values and lists, Hydra's own too."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


LEAVES = sorted(leaves(OmegaConf.to_container(CONFIG)))


def prepared(line: str, folder: Path) -> None:
    """What comes before training, of the default configuration with one override more, which is applied as by Hydra."""
    (override,) = changes = OverridesParser.create().parse_overrides([line])
    config = deepcopy(CONFIG)
    ConfigLoaderImpl._apply_overrides_to_config([override], config)
    check(config, {"model": "points", "data": "gaussian"})
    check_changes(changes, config, lambda: NAMES)
    training.train(config, folder)


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """The sentence that refuses an override; nothing where it may be trained with."""
    monkeypatch.setattr(training, "_fit", lambda *_: {})

    def tried(line: str) -> str:
        try:
            prepared(line, tmp_path / "run")
        except UsageError as error:
            assert not list(tmp_path.rglob("*.*"))
            return str(error)
        except (HydraException, OmegaConfBaseException) as error:
            return explain(error)
        assert (tmp_path / "run" / "config.yaml").exists()
        return ""

    return tried


def is_sentence(text: str) -> bool:
    return "\n" not in text and text.endswith((".", "?"))


def test_the_default_options_may_be_trained_with(attempt: Callable[[str], str]) -> None:
    assert len(LEAVES) > 100
    assert attempt("seed=1") == ""


@pytest.mark.parametrize("name", LEAVES)
def test_an_option_that_is_taken_away_is_made_up_for_or_refused(attempt: Callable[[str], str], name: str) -> None:
    said = attempt(f"~{name}")
    assert not said or is_sentence(said), said


@pytest.mark.parametrize("name", LEAVES)
def test_a_mapping_in_the_place_of_an_option_is_refused(attempt: Callable[[str], str], name: str) -> None:
    said = attempt(f"{name}={{a: 1}}")
    assert is_sentence(said), said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("+generator_optimizer.foo=1", "generator_optimizer cannot be created (Adam.__init__() got an unexpected"),
        ("+discriminator_optimizer.foreach=true", "discriminator_optimizer cannot be created (`fused` and `foreach`"),
        ("+generator_optimizer.eps=-1", "generator_optimizer cannot be created (Invalid epsilon value: -1)"),
        ("generator_optimizer._target_=torch.optim.SGD", "unexpected keyword argument 'betas'): correct its options."),
        ("generator_optimizer._partial_=false", "Adam cannot be created"),
        ("+schedule.foo=1", "schedule cannot be created (linear() got an unexpected keyword argument 'foo')"),
        (f"{WEIGHT}={{{RAMP}, initial: 1, final: 0.1, steps: 4}}", ""),
        (f"{WEIGHT}={{{RAMP}, initial: 1, final: 0.1}}", "Ramp cannot be created: Ramp.__init__() missing 1 required"),
        (f"{WEIGHT}={{{RAMP}, initial: -1, final: 0.1, steps: 4}}", "weight.initial is -1: give a number, at least 0."),
        (f"{WEIGHT}={{{RAMP}, initial: 1, final: 0.1, steps: null}}", "A ramp takes None steps: give a whole number"),
        (f"{WEIGHT}={{_target_: torch.nn.Identity}}", "weight is Identity(): give a number, at least 0"),
        ("model.ema_decay={_target_: gan_lightning.schedules.HalfLife, images: 500}", ""),
        (
            "model.ema_decay={_target_: gan_lightning.schedules.HalfLife, images: many}",
            "images is 'many': give a number",
        ),
        ("model.ema_decay={_target_: torch.nn.Identity}", "ema_decay is Identity(): give a number between"),
        ("trainer.max_steps=-1", ""),
        ("+generator_optimizer.amsgrad=true", ""),
    ],
)
def test_optimizers_and_schedules_are_made_once_before_anything_is_written(
    attempt: Callable[[str], str], line: str, says: str
) -> None:
    said = attempt(line)
    assert says in said
    assert bool(said) == bool(says)
