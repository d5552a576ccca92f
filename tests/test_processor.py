"""What a run says at its start about its processor."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import GivenData, small_gan
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from gan_lightning import processor
from gan_lightning.finite_difference import R1Finite
from gan_lightning.processor import advice
from gan_lightning.regularizers import R1

LARGE = nn.Sequential(nn.Linear(2, 2000), nn.Linear(2000, 2000), nn.Linear(2000, 1), nn.Flatten(0))
BF16 = "trainer.precision=bf16-mixed trains 1.2 to 2 times faster on this processor, with less precise results"
GRAPHS = "trainer.cuda_graphs=true trains small networks faster on this GPU"


def trainer(device: str, precision: str = "32-true") -> Any:
    """A Trainer as far as the advice reads it."""
    return SimpleNamespace(
        strategy=SingleDeviceStrategy(device=torch.device(device)),
        precision=precision,
        precision_plugin=Precision(),
        profiler=PassThroughProfiler(),
        callbacks=[],
        world_size=1,
        log_every_n_steps=50,
        _detect_anomaly=False,
    )


@pytest.mark.parametrize(
    ("device", "precision", "has_bf16", "options", "said"),
    [
        ("cpu", "32-true", True, {"discriminator": LARGE}, BF16),
        ("cpu", "32-true", False, {"discriminator": LARGE}, None),
        ("cpu", "bf16-mixed", True, {"discriminator": LARGE}, None),
        ("cpu", "32-true", True, {"discriminator": LARGE, "regularizers": [R1(1.0)]}, None),
        ("cpu", "32-true", True, {"discriminator": LARGE, "regularizers": [R1Finite(1.0)]}, None),
        ("cpu", "32-true", True, {"discriminator": LARGE, "regularizers": [R1Finite(1.0, step=0.03)]}, BF16),
        ("cpu", "32-true", True, {}, None),  # a toy gains nothing
        ("cuda", "32-true", False, {}, GRAPHS),
        ("cuda", "32-true", False, {"cuda_graphs": True}, None),
        ("cuda", "32-true", False, {"reuse_fakes": True}, None),
    ],
)
def test_a_run_is_told_what_would_be_faster(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, has_bf16: bool, options: dict[str, Any], said: Any
) -> None:
    monkeypatch.setattr(processor, "has_bf16", lambda: has_bf16)
    data = GivenData(torch.zeros(1, 64, 2), 64)
    assert advice(trainer(device, precision), small_gan(**options), data) == said
