"""What --dry-run prints of a run, and that it leaves nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import programs
import pytest
import torch
from conftest import ROOT
from helpers import TOY
from omegaconf import DictConfig
from PIL import Image

from gan_lightning.build import build_gan
from gan_lightning.command_line import dry_run
from gan_lightning.dry_run import cost, layers, players, shapes_of, table
from gan_lightning.errors import UsageError

Configure = Callable[..., DictConfig]


def test_a_dry_run_shows_options_data_networks_and_cost(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "own" / "loss").mkdir(parents=True)
    (tmp_path / "own" / "loss" / "mine.yaml").write_text("_target_: gan_lightning.losses.Hinge\n")
    (tmp_path / "temporary").mkdir()
    typed = ["data=ring", "model.lr=0.25", "loss=mine", "regularizer=[r1,r2]", *TOY, "trainer.max_steps=4000"]
    environment = programs.environment() | {"TMPDIR": str(tmp_path / "temporary")}
    arguments = ["--config-dir", "own", "seed=3", "--dry-run", *typed]
    ended = programs.run(ROOT / "train.py", *arguments, cwd=tmp_path, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "temporary"]
    options, data, generator, discriminator, spent = ended.stdout.strip().split("\n\n")
    said = dict(re.split(r"  +", line.strip()) for line in options.splitlines()[1:])
    assert {
        "data=ring": "(gaussian)",
        "loss=mine": "(non_saturating)",
        "regularizer=[r1,r2]": "(none)",
    }.items() < said.items()
    assert {"model.lr=0.25": "(0.001)", "seed=3": "(0)", "data.batch_size=8": "(256)"}.items() < said.items()
    assert not any(name.startswith(("data.distribution", "regularizer.", "data.seed", "optimizer")) for name in said)

    rows = dict(re.split(r"  +", line) for line in data.splitlines()[:-1])
    assert (rows["shape"], rows["classes"]) == ("2", "8: 0, 1, 2, 3, 4, 5, 6, 7")
    assert (rows["range"], rows["updates per epoch"]) == ("unbounded", "20")
    with Image.open(data.splitlines()[-1].removeprefix("Picture of real samples: ")) as picture:
        assert picture.size[0] > 100
    gan = build_gan(configure(*typed[:2], *typed[3:]), (2,), 8)
    for text, network in ((generator, gan.game.generator), (discriminator, gan.game.discriminator)):
        assert f": {type(network).__name__}, {sum(w.numel() for w in network.parameters()):,} parameters" in text
    assert re.split(r"  +", discriminator.splitlines()[1].strip()) == ["layers.0", "Linear", "8", "24"]
    assert re.fullmatch(
        r"4,000 updates take about 0:\d\d:\d\d, not counting validation and pictures: [\d.]+ ms per update, "
        r"\d\.\d\d GiB of memory, measured over 5 updates",
        spent,
    )


@pytest.mark.parametrize(
    "options",
    [
        ["data=mnist", "model=mlp", "model.conditional=true", "model.generator.conditional_norm=true"],
        [
            "data=mnist",
            "model=dcgan",
            "model.spectral_norm=true",
            "model.generator.width=4",
            "model.discriminator.width=4",
        ],
        ["data=mnist", "game=bigan", "model=bigan"],
    ],
)
def test_every_parameter_is_in_the_tables(configure: Configure, options: list[str]) -> None:
    gan = build_gan(configure(*options), (1, 28, 28), 10)
    with shapes_of(gan.game) as shapes, torch.no_grad():
        labels = torch.arange(4)
        gan.game.read(gan.game.generate(gan.game.prior.sample(4), labels))
    for name, network in players(gan).items():
        assert sum(n for *_, n in layers(network)) == sum(w.numel() for w in network.parameters())
        last = table(name, network, shapes).splitlines()[-1]
        assert last.startswith("  ")
    assert shapes[gan.game.generator] == (1, 28, 28)
    assert not any(module._forward_hooks for module in gan.game.modules())


def test_a_run_without_a_length_has_its_speed() -> None:
    assert cost(0.0125, None, 2**31) == "12.5 ms per update, 2.00 GiB of memory, measured over 5 updates"
    assert cost(None, 100, 2**31) == "2.00 GiB of memory"
    assert cost(0.5, 100_000, 2**30).startswith("100,000 updates take about 13:53:20, not counting")
    assert cost(0.5, 8, 2**30, " on one device").startswith("8 updates on one device take about 0:00:04, not counting")


def test_a_dry_run_is_of_one_new_run() -> None:
    assert dry_run(["data=ring", "--dry-run"]) == (["--dry-run"], ["data=ring"])
    assert dry_run(["data=ring"]) == ([], ["data=ring"])
    for others, says in ((["-m", "seed=0,1"], "leave out -m"), (["resume=x"], "leave out resume")):
        with pytest.raises(UsageError, match=says):
            dry_run([*others, "--dry-run"])
