"""The tests' own short cut to a configuration."""

import pytest
from composing import CONF, composed
from hydra import compose, initialize_config_dir


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data=ring", "regularizer=[r1,r2]", "regularizer.r1.weight=0.25", "+trainer.extra=[1,2]"),
        ("optimizer@generator_optimizer=sgd", "generator_optimizer.lr=0.5", "~callbacks.samples"),
        ("experiment=pacgan_ring", "model.betas=[0.2,0.999]", "data.seed=7"),
    ],
)
def test_a_configuration_is_the_one_that_hydra_composes(overrides: tuple[str, ...]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        expected = compose("config", overrides=list(overrides))
    config = composed(*overrides)
    assert config == expected
    config.model.latent_size = -1  # what one test changes, the next does not see
    assert composed(*overrides) == expected
