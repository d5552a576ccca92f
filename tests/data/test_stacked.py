"""Stacked MNIST: three independent digits, the same whatever asks for them, from training images alone."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import counts, load_script, placed, served
from omegaconf import DictConfig
from test_configs import write_mnist
from torch import Tensor

from gan_lightning.data.stacked import StackedMNIST
from gan_lightning.data.torchvision import MNIST
from gan_lightning.errors import UsageError
from gan_lightning.metrics import features
from gan_lightning.pixels import to_bytes
from gan_lightning.training import train

Configure = Callable[..., DictConfig]


def stacked(root: Path, on: SimpleNamespace | None = None, **options: Any) -> StackedMNIST:
    chosen = {"batch_size": 4, "rounds_per_epoch": 6, "rounds_per_batch": 2} | options
    data = StackedMNIST(str(root), download=False, cache=str(root / "cache"), **chosen)
    data.trainer = on or counts()
    data.setup()
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_mnist(tmp_path)
    return tmp_path


def known(root: Path, train: bool) -> dict[bytes, int]:
    """The number of each image by its bytes."""
    images = MNIST(str(root), 4, download=False).read(train)[0]
    return {image.numpy().tobytes(): i for i, image in enumerate(images)}


def numbers(images: Tensor, numbers_of: dict[bytes, int]) -> Tensor:
    """Which images stand in each channel, (N, 3), of (..., 3, 28, 28)."""
    pixels = to_bytes(images.reshape(-1, 1, 28, 28), (-1.0, 1.0)).numpy()
    return torch.tensor([numbers_of[image.tobytes()] for image in pixels]).view(-1, 3)


def rounds(data: StackedMNIST, start: int, stop: int) -> Tensor:
    return data.fetcher()(start, stop).x


def test_three_training_images_are_the_channels(root: Path) -> None:
    """Uniform and independent: 6,000 triples of 512 images, of chi-squared counts, 4 deviations."""
    x = rounds(stacked(root, batch_size=60), 0, 100)
    assert x.shape == (100, 1, 1, 60, 3, 28, 28)
    found = numbers(x, known(root, train=True))
    for channel in found.T:
        expected = 6000 / 512
        chi = ((torch.bincount(channel, minlength=512) - expected) ** 2 / expected).sum().item()
        assert abs(chi - 511) < 4 * math.sqrt(2 * 511)
    same = (found[:, :1] == found[:, 1:]).double().mean().item()
    assert abs(same - 1 / 512) < 4 * math.sqrt(1 / 512 / 12_000)
    assert len(found.unique(dim=0)) > 5990


def test_a_border_of_zeros(root: Path) -> None:
    plain, bordered = (rounds(stacked(root, size=size), 3, 5) for size in (28, 32))
    assert bordered.shape[-3:] == (3, 32, 32)
    assert torch.equal(bordered[..., 2:30, 2:30], plain)
    bordered[..., 2:30, 2:30] = -1.0
    assert (bordered == -1.0).all()


def test_the_rounds_follow_from_seed_and_number_alone(root: Path) -> None:
    data = stacked(root, on=counts(critic_steps=2, accumulate_grad_batches=3))
    whole = rounds(data, 0, 12)
    assert whole.shape[:4] == (12, 2, 3, 4)
    assert torch.equal(torch.cat([rounds(data, r, r + 1) for r in range(12)]), whole)
    assert torch.equal(rounds(stacked(root, on=data.trainer), 5, 8), whole[5:8])
    assert not torch.equal(rounds(stacked(root, on=data.trainer, seed=1), 0, 12), whole)
    assert len(numbers(whole, known(root, train=True)).unique(dim=0)) > 280


def test_a_loader_that_goes_on(root: Path) -> None:
    loader = stacked(root).train_dataloader()
    straight = torch.cat([batch.x for batch in served(loader, 6)])  # over two epochs
    rest = served(placed(stacked(root).train_dataloader(), 8), 2)
    assert torch.equal(torch.cat([batch.x for batch in rest]), straight[8:])
    assert len(loader) == 3


def test_ranks_share_out_the_rounds_and_the_validation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "UPDATES", 2)
    whole = stacked(root, batch_size=8, validation_samples=21)
    parts = [stacked(root, on=counts(2, rank), validation_samples=21) for rank in range(2)]
    assert torch.equal(torch.cat([rounds(part, 0, 3) for part in parts], 3), rounds(whole, 0, 3))
    together = torch.empty(21, 3, 28, 28)
    for rank, part in enumerate(parts):
        (together[rank::2],) = (batch.x for batch in part.val_dataloader())
    assert torch.equal(together, next(iter(whole.val_dataloader())).x)


def test_held_out_triples_and_the_floor(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of test and of training images; the global stream is as before."""
    monkeypatch.setattr(features, "UPDATES", 2)
    data = stacked(root, validation_samples=30)
    before = torch.get_rng_state()
    data.fetcher()(0, 3)
    (held_out,) = data.val_dataloader()
    assert len(numbers(held_out.x, known(root, train=False)).unique(dim=0)) == 30
    assert torch.equal(data.held_out_samples(30).x, held_out.x)
    assert torch.equal(data.held_out_samples(7).x, held_out.x[:7])
    assert len(numbers(data.training_samples(20, 0).x, known(root, train=True)).unique(dim=0)) == 20
    assert not torch.equal(data.training_samples(20, 0).x, data.training_samples(20, 1).x)
    assert (held_out.y, data.classes, data.conditions(3), data.monitor) == (None, 0, None, ("val/kl", "min"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(stacked(root, seed=1).held_out_samples(30).x, held_out.x)


@pytest.mark.parametrize("size", [27, 30, 64])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match=rf"^data\.size is {size}: choose 28, or 32"):
        StackedMNIST("x", 4, 10, size)


def test_a_run_counts_triples_and_so_does_the_script(
    configure: Configure, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the field measures unless told otherwise; with the floor of training images."""
    monkeypatch.setattr(features, "UPDATES", 2)
    monkeypatch.setattr(StackedMNIST, "evaluation_samples", 600)
    run = tmp_path / "run"
    options = (
        *("data=stacked_mnist", "model=mlp", f"data.root={root}", "data.download=false", "data.batch_size=8"),
        *("model.generator.widths=[8]", "model.discriminator.widths=[8]", f"data.cache={root / 'cache'}"),
        *("data.rounds_per_epoch=2", "data.validation_samples=40", "trainer.max_steps=2"),
        *("trainer.accelerator=cpu", "trainer.devices=1", "logger=none"),
    )
    train(configure(*options), run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["features"].startswith("mnist-cnn-")
    script = load_script("evaluate")
    validated = evaluated(script, run, monkeypatch, "n=40")
    for name in ("val/modes", "val/kl", "val/kl_exact"):
        assert validated["metrics"][name] == metrics[name]
    result = evaluated(script, run, monkeypatch, "floor=true")
    (cached,) = (root / "cache").iterdir()
    assert result["accuracy"] == torch.load(cached, weights_only=True)["content"]["accuracy"] ** 3
    assert result["n"] == 600
    assert result["floor"].keys() == {"val/modes", "val/kl", "val/kl_exact"}
    assert len(result["held_out"]) == 8


def evaluated(script: Any, run: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"checkpoint={run}", *options])
    script.main()
    return json.loads((run / "evaluation.json").read_text())


def test_real_digits_have_mnists_shares(mnist_root: Path) -> None:
    """Triples of 10,000 rounds of the order against the labels' shares: chi-squared, 4 deviations."""
    data = stacked(mnist_root, batch_size=1000)
    assert data.digits.labels is not None
    drawn = torch.cat([data.fetcher().order.indices(r).flatten() for r in range(10)])  # type: ignore[attr-defined]
    found = torch.bincount(data.digits.labels[drawn], minlength=10)
    expected = data._shares() * len(drawn)
    chi = ((found - expected) ** 2 / expected).sum().item()
    assert abs(chi - 9) < 4 * math.sqrt(18)
    assert data._shares()[1].item() == pytest.approx(6742 / 60_000)
