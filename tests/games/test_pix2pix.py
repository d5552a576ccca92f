"""pix2pix: the L1 term, the patches of D, the U-Net, and what cannot be sampled without images."""

import json
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import load_script, trained
from PIL import Image
from test_configs import write_mnist
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.transforms.functional import pil_to_tensor

from gan_lightning.batch import Batch
from gan_lightning.checkpoints import load
from gan_lightning.data.pairs import MNISTEdges
from gan_lightning.errors import UsageError
from gan_lightning.export import run as run_program
from gan_lightning.games.pix2pix import Pix2Pix
from gan_lightning.metrics.features import Features
from gan_lightning.networks import pix2pix
from gan_lightning.priors import Normal

N = 3


class Translator(nn.Module):
    conditional = True

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.double))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.scale * y


class Pixels(nn.Module):
    """A logit for each pixel."""

    conditional = True

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y.cos()).flatten()


def batches(game: Pix2Pix) -> tuple[Batch, Batch]:
    x, y = torch.randn(2, N, 1, 4, 4, dtype=torch.double)
    return Batch(x, y), game.generate(torch.zeros(N, 1), y)


def test_the_generators_terms_are_adversarial_and_l1() -> None:
    game = Pix2Pix(Translator(), Pixels(), Normal(1), l1_weight=7.0, adversarial_weight=0.3)
    real, fake = batches(game)
    terms = game.generator_terms(real, fake, 0).losses
    on_fake = 0.5 * real.y * real.y.cos()
    assert_close(terms["adversarial"], -0.3 * on_fake.sigmoid().log().mean())
    assert_close(terms["l1"], 7.0 * (real.x - 0.5 * real.y).abs().sum() / (N * 16))
    d = game.discriminator_terms(real, fake, 0).losses
    on_real = real.x * real.y.cos()
    assert_close(d, {"adversarial": -(on_real.sigmoid().log() + (-on_fake).sigmoid().log()).mean()})


def test_without_the_adversarial_weight_g_learns_by_l1_alone() -> None:
    game = Pix2Pix(Translator(), Pixels(), Normal(1), l1_weight=1.0, adversarial_weight=0.0)
    real, fake = batches(game)
    sum(game.generator_terms(real, fake, 0).losses.values()).backward()
    sign = (0.5 * real.y - real.x).sign()
    assert_close(game.generator.scale.grad, (sign * real.y).mean())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_the_u_net_keeps_the_shape_and_d_judges_patches(shape: tuple[int, ...]) -> None:
    y, z = torch.randn(2, *shape), torch.randn(2, 1)
    generator, discriminator = pix2pix.Generator(shape, 4), pix2pix.Discriminator(shape, 4)
    x = generator(z, y)
    assert x.shape == y.shape
    assert x.abs().max() <= 1
    assert discriminator(x, y).shape == (2 * (shape[1] // 4) ** 2,)
    discriminator(x, y).sum().backward()
    assert all(p.grad is not None for p in [*generator.parameters(), *discriminator.parameters()])
    assert torch.equal(generator.eval()(z + 1, y), generator(z, y))


def test_a_patch_sees_its_surroundings_in_both_images() -> None:
    """18 x 18 pixels: 4 of the first layer, 2 * 3 and 4 * 2 more of the next ones."""
    d = pix2pix.Discriminator((1, 28, 28), 4).double().eval()
    x, y = torch.randn(2, 1, 1, 28, 28, dtype=torch.double).requires_grad_()
    for gradient in torch.autograd.grad(d(x, y).view(7, 7)[3, 3], (x, y)):
        seen = gradient[0, 0].abs() > 0
        assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (18, 18)


def test_the_u_net_sees_its_input_at_every_scale() -> None:
    """A pixel reaches the output by its own copy even where all that goes down is cut off."""
    g = pix2pix.Generator((1, 28, 28), 4).eval()
    for layer in [g.middle[0], *(up[0] for up in g.up)]:
        nn.init.zeros_(layer.weight)
    y = torch.zeros(1, 1, 28, 28)
    changed = y.clone()
    changed[0, 0, 14, 14] = 1
    rows, columns = (g(None, changed) - g(None, y))[0, 0].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (13, 15, 13, 15)


def test_without_images_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "data")
    small = ["model.generator.width=4", "model.discriminator.width=4", "data.download=false"]
    run = trained(tmp_path / "run", "data=mnist_edges", "game=pix2pix", f"data.root={tmp_path / 'data'}", *small)
    gan = load(run)
    assert gan.sample(2, labels=torch.zeros(2, 1, 28, 28)).shape == (2, 1, 28, 28)
    with pytest.raises(UsageError, match="labels="):
        gan.sample(2)
    with pytest.raises(UsageError, match="labels has 2 entries for 3 samples"):
        gan.sample(3, labels=torch.zeros(2, 1, 28, 28))
    command(monkeypatch, "sample", run, tmp_path / "samples.png", refusal="give inputs=FOLDER")
    empty = f"inputs={tmp_path / 'run' / 'checkpoints'}"
    command(monkeypatch, "sample", run, tmp_path / "a.png", empty, refusal="inputs=.* has no image")
    (tmp_path / "few").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "few" / "one.png")
    few = f"inputs={tmp_path / 'few'}", "n=2"
    command(monkeypatch, "sample", run, tmp_path / "a.png", *few, refusal="n is 2, but .* has only 1: leave out n")
    for other in ("classes=[1]", "truncation=0.5"):
        command(
            monkeypatch, "sample", run, tmp_path / "a.png", empty, other, refusal="leave out classes and truncation"
        )
    assert {path.name for path in tmp_path.iterdir()} == {"data", "few", "run"}


def command(patch: pytest.MonkeyPatch, script: str, run: Path, out: Path, *options: str, refusal: str = "") -> None:
    patch.setattr(sys, "argv", [f"{script}.py", f"checkpoint={run}", f"out={out}", *options])
    with pytest.raises(SystemExit, match=refusal) if refusal else nullcontext():
        load_script(script).main()


class Corners(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images[:, 0, ::9, ::9].flatten(1).float()
        return pixels, pixels


def test_a_run_is_evaluated_beside_its_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which is that of FID alone: no real sample is the translation of another one's input."""
    write_mnist(tmp_path / "data")
    small = ["model.generator.width=4", "model.discriminator.width=4", "data.download=false"]
    run = trained(tmp_path / "run", "data=mnist_edges", "game=pix2pix", f"data.root={tmp_path / 'data'}", *small)
    assert "classes" not in capsys.readouterr().out
    features = Features("any", Corners(), None)
    monkeypatch.setattr(MNISTEdges, "_feature_network", lambda self: features)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"checkpoint={run}", "floor=true", "n=64"])
    load_script("evaluate").main()
    result = json.loads((run / "evaluation.json").read_text())
    assert set(result["metrics"]) - set(result["floor"]) == {"val/l1", "val/value"}


def test_a_run_translates_folders_and_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On colors, where a channel in another's place would show."""
    random = np.random.default_rng(0)
    for side, name in product("AB", ("x/1.png", "2.png", "3.png", "4.jpg")):
        (tmp_path / side / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / side / name)
    small = ["model.generator.width=4", "model.discriminator.width=4", "data.size=32", "data.batch_size=4"]
    run = trained(
        tmp_path / "run",
        "data=paired_folder",
        "game=pix2pix",
        f"data.root={tmp_path}",
        *small,
        f"data.cache={tmp_path}",
    )
    command(monkeypatch, "sample", run, tmp_path / "out.npz", f"inputs={tmp_path / 'A'}")
    found = np.load(tmp_path / "out.npz")
    files = sorted((tmp_path / "A").rglob("*.*"))
    given = torch.stack([pil_to_tensor(Image.open(file)) for file in files]).float() / 127.5 - 1
    assert_close(torch.from_numpy(found["labels"]), given)
    gan = load(run)
    latents = torch.from_numpy(found["latents"])
    assert_close(torch.from_numpy(found["samples"]), gan.sample(4, latents=latents, labels=given))
    for ending in ("pt2", "onnx"):
        command(monkeypatch, "export", run, tmp_path / f"generator.{ending}")
        made = run_program(tmp_path / f"generator.{ending}", {"latents": latents, "labels": given})
        assert_close(made, gan.sample(4, latents=latents, labels=given), atol=1e-5, rtol=0)
    options = f"inputs={tmp_path / 'A'}", f"cache={tmp_path / 'out.npz'}"
    command(
        monkeypatch, "sample", run, tmp_path / "b.npz", *options, refusal="Error: cache=.* give another cache=FOLDER"
    )
    command(monkeypatch, "sample", run, tmp_path / "b.npz", "mode=walk", refusal="give inputs=FOLDER, without mode")
