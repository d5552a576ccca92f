"""The experiments that run published settings, against the numbers of the papers and of the authors' code."""

from typing import Any

import pytest
from composing import composed
from omegaconf import OmegaConf

NO_EMA = {"model.ema_decay": 0.0}
# Lin et al. 2018, section 4.1, and the config.py of 2D*_GAN&PacGAN: 400 epochs of 1,000 batches from 100,000 samples
PACGAN: dict[str, Any] = {
    "model.latent_size": 2,
    "model.lr": 1e-4,
    "model.betas": [0.8, 0.999],
    "model.order": "simultaneous",
    "data.fixed_samples": 100_000,
    "data.batch_size": 100,
    "data.validation_samples": 2500,
    "trainer.max_steps": 400_000,
    **NO_EMA,
}
# train.py's preset CIFAR10 and the command of the README; Huang et al. 2024, table 9
R3GAN: dict[str, Any] = {
    "data.batch_size": 512,
    "model.latent_size": 64,
    "model.lr": 2e-4,
    "model.betas": [0.0, 0.9],
    "schedule.beta2": 0.99,
    "model.generator.widths": [3 * 1024 // 4] * 4,
    "model.generator.cardinalities": [3 * 32] * 4,
    "model.discriminator.blocks": 2,
    "model.ema_decay.images.initial": 0.0,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "pacgan_ring": {
        **PACGAN,
        "data.distribution.modes": 8,
        "data.distribution.radius": 1.0,
        "data.distribution.sigma": 0.01,
    },
    "pacgan_grid": {
        **PACGAN,
        "data.distribution.side": 5,
        "data.distribution.spacing": 2.0,
        "data.distribution.sigma": 0.05,
    },
    # unrolled_GAN_experiment/D=0.25G
    "pacgan_stacked": {
        "model.latent_size": 256,
        "model.betas": [0.5, 0.99],
        "generator_optimizer.lr": 1e-4,
        "discriminator_optimizer.lr": 2e-4,
        "data.batch_size": 128,
        "trainer.max_steps": 500_000,
        **NO_EMA,
    },
    "r3gan_cifar10_published": {
        **R3GAN,
        "model.conditional": True,
        "data.horizontal_flips": True,
        "schedule.final": 5e-5 / 2e-4,
        "regularizer.r1.weight.initial": 0.05,
        "regularizer.r1.weight.final": 0.005,
        "regularizer.r2.weight.initial": 0.05,
        "regularizer.r2.weight.final": 0.005,
        "model.ema_decay.images.final": 5e6,
        "augment.target": None,
        "augment.pipeline": {"blit": 1.0, "color": 0.5},
        "augment.p.initial": 0.0,
        "augment.p.final": 0.55,
    },
    "r3gan_stacked_mnist": {
        **R3GAN,
        "data.size": 32,
        "schedule.final": 1.0,
        "regularizer.r1.weight.initial": 1.0,
        "regularizer.r1.weight.final": 0.1,
        "regularizer.r2.weight.initial": 1.0,
        "regularizer.r2.weight.final": 0.1,
        "model.ema_decay.images.final": 5e5,
    },
    # Radford et al. 2015, section 4
    "race_dcgan": {
        "data.batch_size": 128,
        "model.lr": 2e-4,
        "model.betas": [0.5, 0.999],
        "model.latent_size": 100,
        "prior.low": -1.0,
        "prior.high": 1.0,
        **NO_EMA,
    },
    "race_lsgan": {
        "data.batch_size": 64,
        "model.lr": 2e-4,
        "model.betas": [0.5, 0.999],
        "model.latent_size": 1024,
        "prior.low": -1.0,
        **NO_EMA,
    },
    # Gulrajani et al. 2017, gan_mnist.py
    "race_wgan_gp": {
        "data.batch_size": 50,
        "model.lr": 1e-4,
        "model.betas": [0.5, 0.9],
        "model.latent_size": 128,
        "model.critic_steps": 5,
        "regularizer.gradient_penalty.weight": 10.0,
        **NO_EMA,
    },
    # configs/sn_cifar10_unconditional.yml of the authors' code
    "race_sngan": {
        "data.batch_size": 64,
        "model.lr": 2e-4,
        "model.betas": [0.0, 0.9],
        "model.latent_size": 128,
        "model.critic_steps": 5,
        "model.spectral_norm": True,
        "schedule.start": 0.0,
        "trainer.max_steps": 50_000,
        **NO_EMA,
    },
    # compare_gan v1.0, abstract_gan.py, and generate_tasks_lib.py: 20 epochs of 50,000 images
    "lucic_mnist": {
        "data.batch_size": 64,
        "data.range": "unit",
        "model.latent_size": 64,
        "prior.low": -1.0,
        "prior.high": 1.0,
        "model.reuse_fakes": True,
        "trainer.max_steps": 20 * 50_000 // 64,
        **NO_EMA,
    },
    # gan.py
    "race_pytorch_gan": {
        "data.batch_size": 64,
        "model.lr": 2e-4,
        "model.betas": [0.5, 0.999],
        "model.latent_size": 100,
        "model.order": "generator_first",
        "trainer.max_epochs": 200,
        **NO_EMA,
    },
    # Goodfellow et al. 2014, mnist.yaml; D's loss is half the sum of the two terms there
    "goodfellow_mnist_2014": {
        "data.batch_size": 100,
        "model.latent_size": 100,
        "model.generator.widths": [1200, 1200],
        "model.discriminator.widths": [240, 240],
        "model.discriminator.pieces": 5,
        "model.discriminator.keep_input": 0.8,
        "model.discriminator.keep_hidden": 0.5,
        "generator_optimizer.lr": 0.1,
        "discriminator_optimizer.lr": 0.1 / 2,
        "trainer.max_epochs": 250,
        **NO_EMA,
    },
}


def value(config: Any, name: str) -> Any:
    chosen = OmegaConf.select(config, name, throw_on_missing=True)
    return OmegaConf.to_container(chosen) if OmegaConf.is_config(chosen) else chosen


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_an_experiment_has_the_published_numbers(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    assert {name: value(config, name) for name in PUBLISHED[experiment]} == PUBLISHED[experiment]


@pytest.mark.parametrize(
    ("experiment", "burn_in"),
    [("r3gan_cifar10_published", 2e7), ("r3gan_stacked_mnist", 2e6)],  # images
)
def test_r3gans_schedules_end_after_the_published_number_of_images(experiment: str, burn_in: float) -> None:
    config = composed(f"experiment={experiment}")
    names = ["schedule", "regularizer.r1.weight", "regularizer.r2.weight", "model.ema_decay.images"]
    names += ["augment.p"] if experiment == "r3gan_cifar10_published" else []
    for name in names:
        assert value(config, f"{name}.steps") * config.data.batch_size == pytest.approx(burn_in, abs=512)


def test_r3gan_sees_ten_million_stacked_digits() -> None:
    config = composed("experiment=r3gan_stacked_mnist")
    assert config.trainer.max_steps * config.data.batch_size == pytest.approx(1e7, abs=512)
