"""The error of reconstructions and of the nearest training images, by hand."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.metrics import reconstruction
from gan_lightning.metrics.reconstruction import Reconstruction, nearest_error
from gan_lightning.pixels import from_bytes


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randint(256, (n, 1, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "BLOCK", 7)


def test_errors_are_means_over_images_and_pixels() -> None:
    training, held_out = images(40, 0), images(9, 1)
    x = from_bytes(held_out, (-1.0, 1.0))
    metric = Reconstruction(lambda x: 0.5 * x, training, (-1.0, 1.0))
    a, b = held_out.flatten(1).numpy() / 255, training.flatten(1).numpy() / 255
    nearest = ((a[:, None] - b) ** 2).mean(2).min(1).mean()
    for _ in range(2):  # also of the next validation
        for part in (slice(0, 6), slice(6, 9)):
            metric.update(Batch(x[part]), Batch(x[part]))
        values = metric.compute()
        expected = ((x.double().numpy() / 4) ** 2).mean()
        assert_close(values["reconstruction_error"].double(), torch.tensor(expected), atol=1e-6, rtol=0)
        assert_close(values["nearest_error"].double(), torch.tensor(nearest), atol=1e-6, rtol=0)
        metric.reset()
    assert len(metric.found) == 2


def test_an_image_is_nearest_to_itself() -> None:
    pixels = images(1200, 0)
    errors = nearest_error(pixels[:700], pixels)
    assert errors.max() < 1e-6
    assert np.isclose(errors.min(), 0, atol=1e-7)
