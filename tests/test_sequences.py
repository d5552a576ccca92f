"""Sequences: sine waves of known laws, the fit that knows them, networks of 1-D convolutions, arrays (N, T, C)."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import load_script, trained
from test_arrays import SMALL, all_of_a_run, run_script

from gan_lightning.batch import Batch
from gan_lightning.checkpoints import load
from gan_lightning.data.sines import Sines, SineWaves
from gan_lightning.errors import UsageError
from gan_lightning.metrics.sines import SineFit, fit_sines, uniform_ks
from gan_lightning.networks.sequence import Discriminator, Generator
from gan_lightning.resumption import resume
from gan_lightning.training import train

WAVES = SineWaves(30, (0.1, 0.9), (1.0, 5.0))


def wave(amplitude: float, frequency: float, phase: float) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * frequency * torch.arange(30) / 30 + phase)


@pytest.mark.parametrize(("amplitude", "frequency", "phase"), [(0.1, 1.0, 0.3), (0.55, 3.21, -2.0), (0.9, 5.0, 3.0)])
def test_a_sines_parameters_are_found(amplitude: float, frequency: float, phase: float) -> None:
    fit, a, f = fit_sines(wave(amplitude, frequency, phase)[None], (1.0, 5.0))
    assert fit.item() > 0.999
    assert a.item() == pytest.approx(amplitude, rel=0.02)
    assert f.item() == pytest.approx(frequency, abs=0.01)


def test_the_fit_is_the_share_of_the_variance_that_a_sine_explains() -> None:
    noise = 0.1 * torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    x = wave(0.5, 2.0, 1.0).double() + noise
    fit, _, f = fit_sines(x[None], (1.0, 5.0))
    angle = 2 * math.pi * f.item() * np.arange(30) / 30
    basis = np.stack([np.sin(angle), np.cos(angle)], 1)
    _, (residual,), *_ = np.linalg.lstsq(basis, x.numpy(), rcond=None)
    assert fit.item() == pytest.approx(1 - residual / (30 * x.numpy().var()), abs=1e-9)
    assert fit_sines(torch.randn(20, 30, generator=torch.Generator().manual_seed(1)), (1.0, 5.0))[0].max() < 0.9


def test_true_waves_have_all_a_perfect_sampler_has_and_noise_none() -> None:
    metric = SineFit((0.1, 0.9), (1.0, 5.0))
    x = WAVES.sample((2000,))
    assert x.shape == (2000, 30, 1)
    metric.update(Batch(x), Batch(x))
    found = metric.compute()
    assert found["sine_share"] == 1
    bound = 1.95 / math.sqrt(2000)  # Kolmogorov's, which 1 in 1000 exceeds
    assert max(found["ks_amplitude"], found["ks_frequency"]) < bound
    metric.reset()
    metric.update(Batch(torch.randn(100, 30, 1)), Batch(x))
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "sine_share": 0,
        "ks_amplitude": 1,
        "ks_frequency": 1,
    }
    assert uniform_ks(torch.tensor([0.5, 0.5]), 0.0, 1.0) == 0.5


@pytest.mark.parametrize("last", [1.001, 1.1, 2.0])
def test_a_perfect_sampler_of_narrow_frequencies_is_perfect(last: float) -> None:
    metric = SineFit((0.1, 0.9), (1.0, last))
    metric.update(Batch(SineWaves(30, (0.1, 0.9), (1.0, last)).sample((2500,))), Batch(torch.zeros(1, 30, 1)))
    assert metric.compute()["ks_frequency"] < 1.95 / math.sqrt(2500)


def test_a_sample_is_a_sine_from_98_per_cent_of_its_variance_on() -> None:
    noise = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    x = torch.stack([wave(0.5, 2.0, 1.0)[:, None] + scale * noise for scale in (0.044, 0.066)])
    above, below = fit_sines(x.flatten(1), (1.0, 5.0))[0].tolist()
    assert 0.98 < above < 0.99
    assert 0.97 < below < 0.98
    metric = SineFit((0.1, 0.9), (1.0, 5.0))
    metric.update(Batch(x), Batch(x))
    assert metric.compute()["sine_share"] == 0.5


@pytest.mark.parametrize("shape", [(30, 1), (7, 3)])
def test_networks_take_any_number_of_steps_and_channels(shape: tuple[int, int]) -> None:
    generator, discriminator = Generator(5, shape, width=4), Discriminator(shape, width=4)
    x = generator(torch.randn(3, 5))
    assert x.shape == (3, *shape)
    assert discriminator(x).shape == (3,)
    assert Discriminator(shape, width=4, outputs=2)(x).shape == (3, 2)
    for make in (lambda: Generator(5, (3, 8, 8)), lambda: Discriminator((4,))):
        with pytest.raises(UsageError, match=r"model=sequence makes sequences \(steps, channels\), but samples have"):
            make()


def test_sines_are_trained_on_resumed_measured_and_exported(tmp_path: Path) -> None:
    small = ("model.generator.width=4", "model.discriminator.width=4", "data.validation_samples=20")
    options = ("data=sines", "callbacks=default", *small, *SMALL)
    straight = trained(tmp_path / "straight", *options)
    broken = trained(tmp_path / "broken", *options, "trainer.max_steps=6")
    train(resume(broken, ["trainer.max_steps=12"]), broken)
    a, b = load(straight), load(broken)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert {"val/sine_share", "val/ks_amplitude", "val/ks_frequency", "val/energy"} <= set(
        json.loads((straight / "metrics.json").read_text())
    )
    run_script(load_script("export"), f"checkpoint={straight}", f"out={tmp_path / 'g.onnx'}")
    run_script(load_script("sample"), f"checkpoint={straight}", f"out={tmp_path / 'x.png'}")
    assert (tmp_path / "x.png").exists()


def test_sequences_of_an_array_are_standardized_by_channel(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal([5.0, -1.0], [2.0, 0.1], (60, 12, 2))
    np.save(tmp_path / "x.npy", x)
    options = ("data=array", "data.kind=sequences", "model=sequence")
    _, samples = all_of_a_run(tmp_path / "x.npy", *options, "model.generator.width=4", "model.discriminator.width=4")
    assert samples["samples"].shape == (9, 12, 2)
    assert np.abs(samples["samples"].mean((0, 1)) - x.mean((0, 1)))[1] < 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"amplitudes": (-1.0, 1.0)}, "data.amplitudes is [-1.0, 1.0]: give two numbers in ascending order"),
        ({"amplitudes": (1.0, 1.0)}, "data.amplitudes is [1.0, 1.0]: give two numbers in ascending order"),
        ({"frequencies": (-5.0, -1.0)}, "data.frequencies is [-5.0, -1.0]: give two numbers in ascending order"),
        (
            {"frequencies": (0.05, 1.0)},
            "data.frequencies is [0.05, 1.0]: give two numbers in ascending order, from",
        ),
        ({"steps": 8}, "data.frequencies is [1.0, 5.0]: give two numbers in ascending order, from 0.1 to 4, half of"),
    ],
)
def test_sines_whose_parameters_cannot_be_measured_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        Sines(16, rounds_per_epoch=1, validation_samples=10, **options).check_size()


def test_the_parameters_of_waves_up_to_half_the_steps_are_found() -> None:
    """Faster candidates would be their aliases."""
    waves = SineWaves(10, (0.1, 0.9), (1.0, 5.0))
    metric = SineFit(waves.amplitudes, waves.frequencies)
    metric.update(Batch(waves.sample((5000,))), Batch(torch.zeros(1, 10, 1)))
    found = metric.compute()
    assert found["sine_share"] == 1
    assert found["ks_frequency"] < 1.63 / math.sqrt(5000)
