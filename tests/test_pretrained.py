"""The generators that come with the package, and the files that export.py makes such ones of."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import load_script, trained
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.testing import assert_close

from gan_lightning import UsageError, load
from gan_lightning.pretrained import FOLDER, NAMES, find
from gan_lightning.weights import dequantized, quantized, read

SHAPES = {"ring": (2,), "mnist_mlp": (1, 28, 28), "mnist_10_minutes": (1, 28, 28)}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(script: str, *arguments: object) -> None:
    """A script with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        load_script(script).main()


def texts(value: Any) -> list[str]:
    """All text in plain containers."""
    if isinstance(value, dict | list):
        return [text for item in (value.values() if isinstance(value, dict) else value) for text in texts(item)]
    return [value] if isinstance(value, str) else []


# ------------------------------------------------------------------------------------------ those of the package


def test_they_are_small_and_know_what_they_are() -> None:
    assert sorted(SHAPES) == NAMES
    for name in NAMES:
        path = find(name)
        assert path.stat().st_size < 2_000_000
        saved = read(path)
        assert saved["weights"] == "average"
        assert not any(text.startswith("/") for text in texts(saved["gan"]["config"]))  # of the machine it is from
        assert saved["evaluation"]["step"] == saved["global_step"] > 0
        assert set(saved["gan"]["config"]) >= {"model", "data", "prior", "loss", "trainer", "seed"}
        assert {key.split(".")[0] for key in saved["state_dict"]} == {"generator"}
    metrics = read(find("ring"))["evaluation"]["metrics"]
    assert (metrics["val/modes"], metrics["val/high_quality"] > 0.95) == (8, True)


@pytest.mark.parametrize("name", NAMES)
def test_load_and_sample_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    samples = load(name).sample(16)
    assert samples.shape == (16, *SHAPES[name])
    assert samples.isfinite().all()
    assert samples.flatten(1).std(0).max() > 0.3  # they are not all the same
    run("sample", f"checkpoint={name}", "n=16", "seed=3", "out=samples.npz")
    run("sample", f"checkpoint={name}", "n=20")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.npz", "samples.png"]
    with Image.open("samples.png") as picture:
        assert min(picture.size) > 50


def test_evaluate_repeats_the_metrics_of_the_ring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(FOLDER.iterdir())
    run("evaluate", "checkpoint=ring", "floor=true")
    result, evaluation = json.loads(Path("evaluation.json").read_text()), read(find("ring"))["evaluation"]
    assert result["metrics"] == result["recorded"] == evaluation["metrics"]
    assert result["checkpoint"] == "ring"
    assert "val/value" not in result["metrics"]  # of a discriminator, which the file does not hold
    printed = capsys.readouterr().out
    assert "| metric | value | recorded | floor |\n" in printed
    assert f"| modes | 8 | 8 | {result['floor']['val/modes']:.5g} |\n" in printed
    run("evaluate", "checkpoint=ring", "seed=1")
    assert json.loads(Path("evaluation.json").read_text())["recorded"] == {}  # of other samples
    assert sorted(FOLDER.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_the_digits_are_those_that_are_asked_for(mnist_root: Path) -> None:
    """By the nearest of the ten real digits' means, which is right on 82 % of the real ones."""
    from torchvision.datasets import MNIST

    real = MNIST(mnist_root, train=False)
    images = real.data.flatten(1).double() / 255
    means = torch.stack([images[real.targets == digit].mean(0) for digit in range(10)])
    asked = torch.arange(400) % 10
    torch.manual_seed(0)
    found = load("mnist_10_minutes").sample(400, labels=asked).flatten(1).double().add(1).div(2)
    assert (torch.cdist(found, means).argmin(1) == asked).double().mean() > 0.75
    mean = load("mnist_mlp").sample(400).flatten(1).double().add(1).div(2).mean(0)
    assert torch.corrcoef(torch.stack([mean, images.mean(0)]))[0, 1] > 0.9


def test_a_folder_of_that_name_is_the_folder(tmp_path: Path) -> None:
    assert find("ring") == FOLDER / "ring.safetensors"
    (tmp_path / "ring").mkdir()
    assert find("ring") == Path("ring")
    with pytest.raises(UsageError, match=r"ring/checkpoints/last\.ckpt does not exist"):
        load("ring")
    for name in ("rings", "ring.safetensors", "ring/"):
        with pytest.raises(UsageError, match=r"one of the trained generators, mnist_10_minutes, mnist_mlp, ring\."):
            find(f"nowhere/{name}")


# ------------------------------------------------------------------------------------------------- one's own file


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run whose generator is conditional, and averaged."""
    options = ("data=ring", "model.conditional=true", "model.ema_decay=0.9", "model.lr=0.02")
    widths = ("model.generator.widths=[8]", "model.discriminator.widths=[8]", "data.validation_samples=300")
    return trained(tmp_path_factory.mktemp("runs") / "toy", *options, *widths, "data.rounds_per_epoch=6")


@pytest.mark.parametrize("weights", ["average", "raw"])
def test_a_runs_export_makes_the_runs_samples(toy: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("export", f"checkpoint={toy}", "out=toy.safetensors", f"weights={weights}", "metrics=true")
    kind = {"average": "averaged", "raw": "raw"}[weights]
    assert f"{kind} generator of step 12 in toy.safetensors, checked: differs by at most 0\n" in capsys.readouterr().out
    gan, file = load(toy), load("toy.safetensors")
    latents, labels = torch.randn(40, gan.game.prior.size), torch.arange(40) % 8
    assert_close(
        file.sample(0, latents=latents, labels=labels),
        gan.sample(0, latents=latents, labels=labels, raw=weights == "raw"),
        rtol=0,
        atol=0,
    )
    assert (file.config, file.seed, file.loaded_step) == (gan.config, gan.seed, 12)
    assert list(file.class_names) == list(gan.class_names)
    run("evaluate", f"checkpoint={toy}", f"weights={weights}")
    of_run = json.loads((toy / "evaluation.json").read_text())
    run("evaluate", "checkpoint=toy.safetensors")
    of_file = json.loads(Path("evaluation.json").read_text())
    of_run["metrics"].pop("val/value")
    assert of_file["metrics"] == of_file["recorded"] == of_run["metrics"]
    assert of_file["weights"] == weights


def test_a_file_is_exported_again(capsys: pytest.CaptureFixture[str]) -> None:
    run("export", "checkpoint=ring", "out=ring.pt2")
    run("export", "checkpoint=ring", "out=copy.safetensors")
    assert capsys.readouterr().out.count("averaged generator of step 20000") == 2
    copied, own = read(Path("copy.safetensors")), read(find("ring"))
    assert_close(copied["state_dict"], own["state_dict"], rtol=0, atol=0)
    assert copied["gan"] == own["gan"]


def test_eight_bits_are_within_half_a_step() -> None:
    state = {"w": torch.randn(5, 3, 2, 2), "zero": torch.zeros(2, 4), "b": torch.randn(5), "n": torch.tensor(3)}
    packed = quantized(state)
    assert packed["w"].dtype == torch.int8
    found = dequantized(packed)
    assert found.keys() == state.keys()
    steps = state["w"].double().abs().amax((1, 2, 3)) / 127
    assert ((found["w"] - state["w"]).abs().amax((1, 2, 3)) <= 0.5001 * steps).all()
    for name in ("zero", "b", "n"):
        assert torch.equal(found[name], state[name])


def test_the_quantized_file_is_a_quarter_as_large(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("export", "checkpoint=mnist_mlp", "out=large.safetensors")
    assert Path("large.safetensors").stat().st_size > 3.8 * find("mnist_mlp").stat().st_size
    run("export", f"checkpoint={toy}", "out=toy.safetensors", "quantize=true")
    assert "checked: differs by at most 0.0" in capsys.readouterr().out


def test_what_the_file_does_not_hold_is_told(toy: Path) -> None:
    for script in ("sample", "evaluate"):
        with pytest.raises(SystemExit) as ended:
            run(script, "checkpoint=ring", "weights=raw")
        needs = (
            f"{find('ring')} holds only the averaged generator, but this needs game.generator: give the run's folder."
        )
        assert ended.value.code == f"Error: {needs}"


def changed(metadata: dict[str, Any], state: dict[str, Tensor] | None = None) -> bytes:
    """The file of the ring with other items of its metadata, or other weights."""
    with safe_open(find("ring"), framework="pt") as file:
        items = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return save(weights if state is None else state, items | {k: json.dumps(v) for k, v in metadata.items()})


def test_what_is_no_such_file_is_one_sentence() -> None:
    whole = find("ring").read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    damaged = [b"", b"PK", whole[:-1], whole[: 8 + header], b"\xff" * 40, save({"w": torch.zeros(2)})]
    for content in [*damaged, changed({"config": 3})[:-5]]:
        Path("x.safetensors").write_bytes(content)
        with pytest.raises(UsageError, match=r"x\.safetensors is damaged or not a file of export\.py: give a file"):
            load("x.safetensors")
    config = read(find("ring"))["gan"]["config"]
    foreign = config | {"loss": {"_target_": "os.system"}}
    Path("x.safetensors").write_bytes(changed({"config": foreign}))
    with pytest.raises(
        UsageError, match=r"loss\._target_ is 'os\.system' in x\.safetensors, which is not a part of a run"
    ):
        load("x.safetensors")
    Path("x.safetensors").write_bytes(changed({}, {"generator.layers.0.weight": torch.zeros(2, 2)}))
    with pytest.raises(UsageError, match="belongs to another architecture"):
        load("x.safetensors")
