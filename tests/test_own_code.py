"""A folder outside of the clone, with networks, a loss and data of its own, and nothing of the package edited."""

import json
import re
import subprocess
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import programs
import pytest
import torch
from conftest import ROOT
from helpers import GivenData, fit, small_gan
from test_resume import assert_same_state
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.data.loader import Batches
from gan_lightning.losses import Loss

FILES = {
    "my_lab/__init__.py": "",
    "my_lab/nets.py": """
        import torch
        from torch import nn

        class Generator(nn.Module):
            def __init__(self, latent_size, sample_shape, width):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(latent_size, width), nn.SiLU(), nn.Linear(width, *sample_shape))

            def forward(self, z):
                return self.body(z)

        class Discriminator(nn.Module):
            def __init__(self, sample_shape, width, decay=0.5):
                super().__init__()
                self.decay = decay
                self.first, self.last = nn.Linear(*sample_shape, width), nn.Linear(width, 1)

            def forward(self, x):
                return self.last(torch.sin(self.decay * self.first(x))).squeeze(1)
        """,
    "my_lab/losses.py": """
        from gan_lightning import Loss

        class Exponential(Loss):
            def discriminator(self, *, real_logits, fake_logits):
                return (-real_logits).exp() + fake_logits.exp()

            def generator(self, *, real_logits, fake_logits):
                return (-fake_logits).exp()
        """,
    "my_lab/data.py": """
        import torch
        from torchmetrics import MeanMetric
        from gan_lightning.batch import Batch
        from gan_lightning.data.loader import Batches, RealData
        from gan_lightning.streams import stream_seed

        class Radius(MeanMetric):
            def update(self, generated, real):
                super().update(generated.x.norm(dim=1))

        class Disc(RealData):
            sample_shape, rounds_per_epoch, monitor = (2,), 20, ("val/radius", "min")

            def draw(self, n, *key):
                generator = torch.Generator().manual_seed(stream_seed("disc", self.seed, *key))
                angle, radius = 6.2831853 * torch.rand(n, generator=generator), torch.rand(n, generator=generator)
                return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

            def fetcher(self):
                shape = self.round_shape
                return lambda a, b: shape.rounds(Batch(torch.cat([self.draw(shape.samples, r) for r in range(a, b)])))

            def val_dataloader(self):
                return Batches(Batch(self.draw(500, "validation")), 100)

            def metrics(self):
                return {"radius": Radius()}
        """,
    "conf/model/mine.yaml": """
        lr: 0.001
        betas: [0.0, 0.99]
        latent_size: 3
        generator: {_target_: my_lab.nets.Generator, latent_size: "${model.latent_size}", width: 16}
        discriminator: {_target_: my_lab.nets.Discriminator, width: 16, decay: 0.5}
        """,
    "conf/data/disc.yaml": "{_target_: my_lab.data.Disc, batch_size: 32, seed: '${seed}'}",
    "conf/loss/exponential.yaml": "{_target_: my_lab.losses.Exponential}",
}
MINE = ("model=mine", "data=disc", "loss=exponential", "regularizer=r1", "trainer.log_every_n_steps=10")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return tmp_path


def command(lab: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return programs.run(ROOT / script, *options, cwd=lab)


def works(lab: Path, script: str, *options: str) -> str:
    ended = command(lab, script, *options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def train(lab: Path, *options: str) -> str:
    return works(lab, "train.py", "--config-dir", "conf", *MINE, *options)


def last(run: Path) -> Any:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_it_trains_resumes_samples_evaluates_and_exports(lab: Path) -> None:
    train(lab, "trainer.max_steps=50", "hydra.run.dir=whole")
    train(lab, "trainer.max_steps=23", "hydra.run.dir=parts")
    works(lab, "train.py", "resume=parts", "trust=[my_lab]", "trainer.max_steps=50")
    whole, parts = last(lab / "whole"), last(lab / "parts")
    for key in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert_same_state(parts[key], whole[key], key)
    assert json.loads((lab / "parts" / "metrics.json").read_text())["val/radius"] > 0
    assert "trust" not in (lab / "parts" / "config.yaml").read_text()
    works(lab, "scripts/sample.py", "checkpoint=parts", "trust=[my_lab]", "n=40", "out=samples.npz")
    arrays = np.load(lab / "samples.npz")
    assert arrays["samples"].shape == (40, 2)
    assert "radius" in works(lab, "scripts/evaluate.py", "checkpoint=parts", "trust=[my_lab]")
    works(lab, "scripts/export.py", "checkpoint=parts", "trust=[my_lab]", "out=generator.pt2")
    program = torch.export.load(lab / "generator.pt2").module()
    exported = program(torch.from_numpy(arrays["latents"]))
    torch.testing.assert_close(exported, torch.from_numpy(arrays["samples"]), rtol=1e-5, atol=1e-5)


def test_the_example_of_the_docs_trains(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own_code.md").read_text()
    networks, options, loss = re.findall(r"^```(?:python|yaml)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    files = {"my_lab/networks.py": networks, "my_lab/losses.py": loss, "conf/model/mine.yaml": options}
    files["conf/loss/mine.yaml"] = "_target_: my_lab.losses.Exponential"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    ours = ("data=ring", "loss=mine", "trainer.max_steps=3", "hydra.run.dir=run")
    works(tmp_path, "train.py", "--config-dir", "conf", "model=mine", *ours)
    assert last(tmp_path / "run")["global_step"] == 3


@pytest.mark.parametrize("script", ["train.py", "scripts/sample.py", "scripts/evaluate.py", "scripts/export.py"])
def test_a_runs_file_makes_only_what_is_trusted(lab: Path, script: str) -> None:
    train(lab, "trainer.max_steps=5", "hydra.run.dir=run")
    (lab / "my_lab" / "nets.py").write_text("open('imported', 'w')")
    ended = command(lab, script, "resume=run" if script == "train.py" else "checkpoint=run")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "my_lab" in ended.stderr
    assert "trust=[my_lab]" in ended.stderr
    assert not (lab / "imported").exists()


BUGS = {
    "at import": ("my_lab/losses.py", "from gan_lightning import Loss", "import no_such_module"),
    "in a constructor": ("my_lab/nets.py", "self.decay = decay", "self.decay = 1 / 0"),
    "a ValueError in a constructor": ("my_lab/nets.py", "self.decay = decay", "raise ValueError('mine')"),
    "in the data": ("my_lab/data.py", "shape = self.round_shape", "raise OSError('mine')"),
    "while training": ("my_lab/nets.py", "return self.body(z)", "return self.body(z[:, :1])"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_ones_own_keeps_its_traceback(lab: Path, bug: str) -> None:
    file, right, wrong = BUGS[bug]
    path = lab / file
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong))
    ended = command(lab, "train.py", "--config-dir", "conf", *MINE, "trainer.max_steps=3")
    assert ended.returncode == 1
    assert "Traceback (most recent call last)" in ended.stderr
    assert f"{file}" in ended.stderr.replace(str(lab), "")
    assert wrong.strip() in ended.stderr


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("model.widht=3", "model.widht is not an option here"),
        ("data.batch_size=0", "data.batch_size is 0: give"),
        ("model.generator._target_=my_lab.nets.Generatr", "Generatr"),
        ("model.generator._target_=my_labs.nets.Generator", "my_labs"),
        ("model.order=sideways", "model.order is 'sideways': give"),
        ("+loss.sharpness=2", "my_lab.losses.Exponential does not take sharpness, which the configuration gives: let"),
        ("loss._target_=my_lab.losses", "_target_=my_lab.losses is not a class or a function: give one"),
        (
            "+callbacks.x={_target_: my_lab.losses.Exponential}",
            "Exponential, which a _target_ of the configuration gives, is",
        ),
        (
            "+logger.x={_target_: my_lab.losses.Exponential}",
            "is not a Logger: let it extend lightning.pytorch.",
        ),
        ("+regularizer.x={_target_: my_lab.losses.Exponential}", "is not a Regularizer: let it extend gan_lightning."),
        ("model._target_=my_lab.losses.Exponential", "model._target_=my_lab.losses.Exponential is not a GAN: let it"),
    ],
)
def test_a_wrong_option_keeps_its_sentence(lab: Path, option: str, sentence: str) -> None:
    ended = command(lab, "train.py", "--config-dir", "conf", *MINE, "trainer.max_steps=3", option)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert sentence in ended.stderr


def test_rules_on_values_are_for_the_packages_own_options(lab: Path) -> None:
    """``decay`` of a schedule is at least 1; here it is a number like any other."""
    train(lab, "trainer.max_steps=3", "model.discriminator.decay=-0.25", "hydra.run.dir=run")
    assert last(lab / "run")["gan"]["config"]["model"]["discriminator"]["decay"] == -0.25


def test_the_documented_loss_trains_and_is_not_taken_for_a_probability() -> None:
    """The code block itself; V(D, G) is of a D that is a probability."""
    (block,) = re.findall(r"(class Exponential.*?)```", (ROOT / "docs" / "own_code.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"Loss": Loss}
    exec(block, names)
    torch.manual_seed(0)
    gan = small_gan(loss=names["Exponential"]())
    metrics = fit(gan, _Validated(torch.randn(5, 4, 2, dtype=torch.double), 4), 5, log_every_n_steps=1).callback_metrics
    real, fake = torch.randn(2, 6, dtype=torch.double)
    assert_close(gan.game.loss.discriminator(real_logits=real, fake_logits=fake), torch.exp(-real) + torch.exp(fake))
    assert gan.validated_step == 5
    assert {"loss/discriminator", "loss/generator"} <= set(metrics)
    assert not [name for name in metrics if name.startswith("val/value")]


class _Validated(GivenData):
    def val_dataloader(self) -> Batches:
        return Batches(Batch(torch.randn(4, 2, dtype=torch.double)), 4)
