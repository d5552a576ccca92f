"""A GAN in a notebook: a plain Trainer, a plain DataLoader, one's own networks, and no configuration."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset, TensorDataset

import gan_lightning
from gan_lightning import GAN, Game, Normal, UsageError, load

N = 8


def points(n: int = 32) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(5), dtype=torch.double)


def trainer(**options: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return lightning.Trainer(**{"enable_checkpointing": False, "log_every_n_steps": 2} | quiet | options)


class Rows(Dataset[Tensor]):
    """Tensors, as a data set without labels gives them."""

    def __len__(self) -> int:
        return len(points())

    def __getitem__(self, index: int) -> Tensor:
        return points()[index]


@pytest.mark.parametrize(
    "dataset",
    [TensorDataset(points()), Rows(), TensorDataset(points(), torch.zeros(32))],
    ids=["single", "rows", "pair"],
)
@pytest.mark.parametrize(("critic_steps", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_plain_loaders_batch_is_one_round(dataset: Any, critic_steps: int, accumulate: int) -> None:
    """It trains the weights that the package's own data module trains from the same samples."""
    options = {"critic_steps": critic_steps, "accumulate_grad_batches": accumulate, "ema_decay": 0.9}
    torch.manual_seed(0)
    own = small_gan(**options)
    fit(own, GivenData(points().view(4, N, 2), N // (critic_steps * accumulate)), 4)
    torch.manual_seed(0)
    plain = small_gan(**options)
    loop = trainer(max_epochs=1)
    loop.fit(plain, DataLoader(dataset, N))
    assert loop.global_step == 4
    assert_close(plain.state_dict(), own.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("n", "batch_size"), [(30, 10), (33, 9)]
)  # no multiple of 3; the last one of 6 is, 33 = 3 * 9 + 6
def test_a_batch_that_cannot_be_cut_is_refused_before_training(n: int, batch_size: int) -> None:
    gan = small_gan(critic_steps=3 if batch_size == 10 else 9)
    before = [weight.clone() for weight in gan.parameters()]
    with pytest.raises(UsageError, match=r"critic_steps=\d .*multiple of \d.*drop_last=True"):
        trainer(max_epochs=1).fit(gan, DataLoader(TensorDataset(points(n)), batch_size))
    assert_close(list(gan.parameters()), before, rtol=0, atol=0)


def test_a_last_batch_that_cannot_be_cut_may_be_dropped() -> None:
    loop = trainer(max_epochs=1)
    loop.fit(small_gan(critic_steps=3), DataLoader(TensorDataset(points(31)), 9, drop_last=True))
    assert loop.global_step == 3


def test_batches_of_something_else_are_refused() -> None:
    class Mappings(Rows):
        def __getitem__(self, index: int) -> Any:
            return {"image": points()[index]}

    with pytest.raises(UsageError, match=r"is a dict: give a tensor .*, or a pair \(x, y\) of tensors"):
        trainer(max_epochs=1).fit(small_gan(), DataLoader(Mappings(), N))


class Recording(Game):
    """Notes the classes that each player's fakes were conditioned on."""

    def generate(self, z: Tensor, y: Tensor | None = None) -> Any:
        self.seen = [*getattr(self, "seen", []), y]
        return super().generate(z, y)


def test_labels_reach_the_game() -> None:
    labels = torch.arange(32) % 5
    gan = small_gan(Recording)
    trainer(max_epochs=1).fit(gan, DataLoader(TensorDataset(points(), labels), N))
    assert_close(gan.game.seen, [part for part in labels.split(N) for _ in range(2)])  # D's update, then G's


def test_losses_are_in_callback_metrics_and_every_logger(tmp_path: Path) -> None:
    stop = EarlyStopping("loss/generator", patience=1, min_delta=1e9)  # nothing is ever better by that
    logger = CSVLogger(tmp_path, name="", version="")
    loop = trainer(max_epochs=50, callbacks=[stop], logger=logger)
    loop.fit(small_gan(), DataLoader(TensorDataset(points()), N))
    assert loop.current_epoch == 2
    assert {"loss/generator", "loss/discriminator", "loss/discriminator/adversarial"} <= loop.callback_metrics.keys()
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("step")
    assert [int(row.split(",")[column]) for row in rows[1:]] == [2, 4, 6, 8]  # generator updates


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_notebooks_checkpoint_loads_with_the_modules(tmp_path: Path, is_resumed: bool) -> None:
    gan = small_gan(ema_decay=0.5)
    loop = trainer(max_epochs=2)
    loop.fit(gan, DataLoader(TensorDataset(points()), N))
    path = tmp_path / "notebook.ckpt"
    loop.save_checkpoint(path)
    torch.load(path, weights_only=True)  # nothing in it is code
    torch.manual_seed(1)
    other = small_gan(ema_decay=0.5)
    if is_resumed:
        trainer(max_epochs=2).fit(other, DataLoader(TensorDataset(points()), N), ckpt_path=path, weights_only=True)
    else:
        assert load(path, gan=other) is other
        assert other.loaded_step == 8
    z = torch.randn(5, 3, dtype=torch.double)
    assert_close(other(z), gan(z), rtol=0, atol=0)
    assert tuple(other.described["sample_shape"]) == (2,)


def test_a_notebooks_checkpoint_without_its_modules_is_refused(tmp_path: Path) -> None:
    loop = trainer(max_epochs=1)
    loop.fit(small_gan(), DataLoader(TensorDataset(points()), N))
    loop.save_checkpoint(tmp_path / "notebook.ckpt")
    with pytest.raises(UsageError, match=r"without a configuration: .*load\(.*gan=GAN\(\.\.\.\)\)"):
        load(tmp_path / "notebook.ckpt")


def test_a_resumed_notebook_is_the_whole_run(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(points()), N)
    torch.manual_seed(0)
    whole = small_gan()
    trainer(max_epochs=4).fit(whole, loader)
    torch.manual_seed(0)
    first = trainer(max_epochs=2)
    first.fit(small_gan(), loader)
    first.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(77)
    second = small_gan()
    trainer(max_epochs=4).fit(second, loader, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_the_defaults_train() -> None:
    networks = nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    gan = GAN(Game(*networks, Normal(3)))
    before = [weight.clone() for weight in gan.parameters()]
    trainer(max_epochs=1).fit(gan, DataLoader(TensorDataset(points().float()), N))
    assert all((new - old).abs().max() > 0 for new, old in zip(gan.parameters(), before, strict=True))
    assert gan(torch.zeros(4, 3)).shape == gan.sample(4).shape == (4, 2)


def test_forward_is_the_averaged_generator_with_its_graph() -> None:
    gan = small_gan(ema_decay=0.9)
    fit(gan, GivenData(points().view(4, N, 2), N), 4)
    z = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    assert gan.average is not None
    assert_close(gan(z), gan.average.network["generator"](z))
    assert (gan(z) - gan.game.generator(z)).abs().max() > 1e-6
    gan(z).sum().backward()
    assert z.grad is not None
    assert gan.game.generator in list(gan.game.children())  # the live one is back


def test_several_devices_need_their_own_strategy() -> None:
    for devices in (1, 2):
        gan = small_gan()
        gan.trainer = trainer(devices=devices, strategy="ddp")
        with pytest.raises(UsageError, match="DDPStrategy is made for one loss: train on several"):
            gan.on_train_start()


def test_all_names_are_there() -> None:
    for name in gan_lightning.__all__:
        assert getattr(gan_lightning, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Gan'"):
        gan_lightning.Gan  # noqa: B018
    ended = [
        sys.executable,
        "-c",
        "import sys, gan_lightning; print(gan_lightning.__version__, 'torch' in sys.modules)",
    ]
    assert subprocess.run(ended, capture_output=True, text=True, check=True).stdout == "0.2.0 False\n"
