"""Runs that begin with the weights of another, and discriminators of which a part stays as it is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TOY, trained
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from gan_lightning import training
from gan_lightning.build import build_gan
from gan_lightning.command_line import check_start
from gan_lightning.errors import UsageError
from gan_lightning.networks.frozen import freeze
from gan_lightning.networks.spectral import spectrally_normalized
from gan_lightning.resumption import is_same_run, resume
from gan_lightning.warm_start import start_from

Configure = Callable[..., DictConfig]
SMALL = (*TOY[2:], "callbacks=none")
SMALL = tuple(option for option in SMALL if not option.startswith("callbacks.samples"))
FIRST = "game.discriminator.layers.0.weight"


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm") / "run"
    return trained(folder, *SMALL, "+callbacks.last._target_=gan_lightning.callbacks.checkpoint.RunCheckpoint")


def gan_of(configure: Configure, *options: str) -> Any:
    return build_gan(configure(*SMALL, *options), (1,), 0)


def test_networks_and_average_are_the_earlier_runs(configure: Configure, run: Path) -> None:
    gan, former = gan_of(configure), weights(run)
    start_from(gan, run)
    taken = [name for name in former if name.startswith(("game.generator.", "game.discriminator.", "average."))]
    assert len(taken) > 10
    for name, value in gan.state_dict().items():
        assert torch.equal(value, former[name]) == (name in taken), name
    assert not torch.equal(
        former["average.network.generator.layers.0.weight"], former["game.generator.layers.0.weight"]
    )


def test_an_average_that_the_earlier_run_has_not_begins_with_the_live_generator(
    configure: Configure, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    saved["state_dict"] = {k: v for k, v in saved["state_dict"].items() if not k.startswith("average.")}
    torch.save(saved, path)
    gan = gan_of(configure)
    start_from(gan, path)
    for live, averaged in zip(gan.game.generator.parameters(), gan.average.network.parameters(), strict=True):
        assert torch.equal(live, averaged)
    start_from(gan_of(configure, "model.ema_decay=0"), run)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["model.generator.widths=[9]"], "game.generator.layers.0.weight is (8, 4), but this run's is (9, 4)"),
        (
            ["model.discriminator.widths=[8,8]"],
            "game.discriminator.layers.2.weight is (1, 8), but this run's is (8, 8)",
        ),
        (["model.discriminator.widths=[]"], "game.discriminator.layers.0.weight is (8, 1), but this run's is (1, 1)"),
        (["model=linear"], "game.generator.layer"),
    ],
)
def test_networks_that_do_not_fit_are_refused_by_the_first_parameter(
    configure: Configure, run: Path, options: list[str], name: str
) -> None:
    kept = [option for option in SMALL if "widths" not in option or "model=linear" not in options]
    gan = build_gan(configure(*kept, *options), (1,), 0)
    before = {key: value.clone() for key, value in gan.state_dict().items()}
    with pytest.raises(
        UsageError, match=r"^start_from=.*run does not fit: its [^\n]*leave out start_from\.$"
    ) as refused:
        start_from(gan, run)
    assert name in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in gan.state_dict().items())


def test_what_is_no_run_is_refused_without_torch(run: Path, tmp_path: Path) -> None:
    check_start(str(run))
    check_start(str(run / "checkpoints" / "last.ckpt"))
    for path in ("nowhere", tmp_path):
        with pytest.raises(UsageError, match="is neither a checkpoint nor the folder of a run"):
            check_start(str(path))


def test_a_run_begins_there_with_frozen_layers_and_goes_on_without_it(
    configure: Configure, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose weights no regularizer moves either; a run that goes on has its own weights."""
    former = shutil.copytree(run, tmp_path / "former")
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, "+callbacks.last._target_=gan_lightning.callbacks.checkpoint.RunCheckpoint", "seed=1"]
    options += ["loss=wasserstein", "regularizer=weight_clipping", "regularizer.weight_clipping.limit=0.001"]
    options += ["start_from=former", "model.freeze_discriminator=1"]
    trained(tmp_path / "new", *options)
    begun, ended = weights(former), weights(tmp_path / "new")
    assert torch.equal(ended[FIRST], begun[FIRST])
    assert torch.equal(ended[FIRST.replace("weight", "bias")], begun[FIRST.replace("weight", "bias")])
    assert ended["game.discriminator.layers.2.weight"].abs().max() <= 0.001 < begun[FIRST].abs().max()
    assert not torch.equal(ended["game.generator.layers.0.weight"], begun["game.generator.layers.0.weight"])
    written = OmegaConf.load(tmp_path / "new" / "config.yaml")
    assert written.start_from == str(former)
    again = OmegaConf.merge(written, {"start_from": "former", "resume": None})
    assert is_same_run(again, tmp_path / "new")  # type: ignore[arg-type]
    shutil.rmtree(former)
    training.train(resume(tmp_path / "new", ["trainer.max_steps=16"]), tmp_path / "new")
    assert torch.equal(weights(tmp_path / "new")[FIRST], begun[FIRST])


# --------------------------------------------------------------------------------------------------------- layers


class Judge(nn.Module):
    """Convolutions, a normalization and an embedding that is defined before all."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, 4)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Linear(4, 1)
        )


@pytest.mark.parametrize("is_normalized", [False, True])
@pytest.mark.parametrize(
    ("k", "frozen"), [(1, ["layers.0.", "layers.1."]), (2, ["layers.0.", "layers.1.", "layers.2.0."])]
)
def test_layers_are_counted_by_their_matrices(k: int, frozen: list[str], is_normalized: bool) -> None:
    network = spectrally_normalized(Judge()) if is_normalized else Judge()
    freeze(network, k)
    for name, weight in network.named_parameters():
        assert weight.requires_grad != name.startswith(tuple(frozen)), name


def test_a_discriminator_that_could_learn_nothing_is_refused(configure: Configure) -> None:
    with pytest.raises(
        UsageError, match="freeze_discriminator is 3, but the discriminator has 3 layers: give at most 2"
    ):
        freeze(Judge(), 3)
    with pytest.raises(UsageError, match="freeze_discriminator is 2, but the discriminator has 2 layers"):
        gan_of(configure, "model.freeze_discriminator=2", "model.spectral_norm=true")
