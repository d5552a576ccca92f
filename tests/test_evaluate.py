"""scripts/evaluate.py gives what validation logged, and validation leaves training alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import load_script
from omegaconf import DictConfig
from PIL import Image
from test_configs import write_mnist
from test_features import stripes
from torchmetrics import Metric

from gan_lightning.batch import Batch
from gan_lightning.data.loader import Batches
from gan_lightning.data.synthetic import sample_from
from gan_lightning.distributions import gaussian
from gan_lightning.metrics import features
from gan_lightning.metrics.distribution import kolmogorov_smirnov
from gan_lightning.resumption import resume
from gan_lightning.streams import stream_seed
from gan_lightning.training import train

Configure = Callable[..., DictConfig]
PLAIN = (
    "trainer.accelerator=cpu",
    "logger=none",
    "callbacks.samples.n=100",
    "trainer.log_every_n_steps=5",
    "trainer.max_steps=20",
)
POINTS = ("data.batch_size=16", "data.rounds_per_epoch=10", "data.validation_samples=300")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("evaluate")


def evaluate(script: ModuleType, checkpoint: Path, *options: str) -> dict[str, Any]:
    """Run the script and read what it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", f"checkpoint={checkpoint}", *options])
        script.main()
    run = checkpoint if checkpoint.is_dir() else checkpoint.parent.parent
    return json.loads((run / "evaluation.json").read_text())


def logged(run: Path) -> dict[str, float]:
    return {k: v for k, v in json.loads((run / "metrics.json").read_text()).items() if k.startswith("val/")}


@pytest.mark.parametrize("data", ["gaussian", "ring", "even_integers"])
def test_the_figures_are_those_that_validation_logged(
    configure: Configure, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    run = tmp_path / "run"
    train(configure(f"data={data}", *PLAIN, *POINTS), run)
    capsys.readouterr()
    result = evaluate(script, run)
    assert result["metrics"] == logged(run)
    assert (result["n"], result["seed"], result["step"], result["weights"]) == (300, 0, 20, "average")
    assert (result["features"], result["held_out"]) == (None, None)
    printed = capsys.readouterr().out
    assert f"{run}/checkpoints/last.ckpt, step 20, averaged generator: n 300, seed 0\n" in printed
    for name, value in result["metrics"].items():
        assert f"| {name.removeprefix('val/')} | {value:.5g} |" in printed
    assert evaluate(script, run / "checkpoints" / "last.ckpt") == result


def test_n_and_seed_are_what_is_asked_for(configure: Configure, tmp_path: Path, script: ModuleType) -> None:
    train(configure("data=ring", *PLAIN, *POINTS), tmp_path)
    other = evaluate(script, tmp_path, "seed=3", "n=500")
    assert (other["n"], other["seed"]) == (500, 3)
    assert other["metrics"]["val/reverse_kl"] != logged(tmp_path)["val/reverse_kl"]
    assert evaluate(script, tmp_path, "seed=4", "n=500")["metrics"] != other["metrics"]


def test_the_floor_is_that_of_fresh_samples(configure: Configure, tmp_path: Path, script: ModuleType) -> None:
    """The distance of those samples themselves, below the bound that one in a thousand exceeds."""
    train(configure("data=gaussian", *PLAIN, *POINTS), tmp_path)
    result = evaluate(script, tmp_path, "floor=true", "n=10000")
    fresh = sample_from(gaussian(), 10_000, stream_seed("floor", 0)).x
    assert result["floor"]["val/ks"] == kolmogorov_smirnov(fresh, gaussian()).float().item() < 1.95 / 100
    assert result["floor"].keys() == result["metrics"].keys() - {"val/value"}


def change(run: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the run's last checkpoint."""
    path = run / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    alter(saved)
    torch.save(saved, path)


def test_the_raw_generator_is_the_one_that_was_trained(
    configure: Configure, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def copy_to_the_average(saved: dict[str, Any]) -> None:
        weights = saved["state_dict"]
        raw = {name: value for name, value in weights.items() if name.startswith("game.generator.")}
        weights |= {name.replace("game.", "average.network.", 1): value for name, value in raw.items()}

    train(configure("data=gaussian", *PLAIN, *POINTS, "model.ema_decay=0.99"), tmp_path)
    average, raw = (evaluate(script, tmp_path, f"weights={name}") for name in ("average", "raw"))
    assert "step 20, raw generator" in capsys.readouterr().out
    assert (average["weights"], raw["weights"]) == ("average", "raw")
    assert average["metrics"] == logged(tmp_path) == evaluate(script, tmp_path)["metrics"]
    assert raw["metrics"]["val/ks"] != average["metrics"]["val/ks"]
    change(tmp_path, copy_to_the_average)
    assert evaluate(script, tmp_path)["metrics"] == raw["metrics"]


def test_a_run_from_a_gpu_needs_none(configure: Configure, tmp_path: Path, script: ModuleType) -> None:
    train(configure("data=gaussian", *PLAIN, *POINTS), tmp_path)
    change(tmp_path, lambda saved: saved["gan"]["config"]["trainer"].update(accelerator="gpu"))
    assert evaluate(script, tmp_path)["metrics"].keys() == logged(tmp_path).keys()


class Seen(Metric):
    """How many samples and labels arrived on the device "meta"."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def update(self, generated: Batch, real: Batch) -> None:
        self.seen += sum(len(x) for x in (generated.x, real.x, real.y) if x.device.type == "meta")

    def compute(self) -> torch.Tensor:
        return torch.tensor(float(self.seen))


def test_the_floor_is_computed_where_validation_is(script: ModuleType) -> None:
    data = SimpleNamespace(
        trainer=SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta"))),
        validation_samples=5,
        classes=0,
        metrics=lambda: {"seen": Seen()},
        val_dataloader=lambda: Batches(Batch(torch.zeros(5, 2), torch.arange(5)), 3),
        training_samples=lambda n, seed: Batch(torch.zeros(n, 2)),
    )
    assert script.floor(data, 0) == {"val/seen": 15}


# ---------------------------------------------------------------------------------------------------------- images


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A run on noise in MNIST's files, with a feature network of ten updates."""
    monkeypatch.setattr(features, "UPDATES", 10)
    write_mnist(tmp_path / "data")
    return (
        *("model=mlp", "data=mnist", f"data.root={tmp_path / 'data'}", "data.download=false", "data.batch_size=64"),
        *("model.generator.widths=[16]", "model.discriminator.widths=[16]", f"data.cache={tmp_path / 'cache'}"),
        *PLAIN,
    )


def test_image_metrics_of_validation_and_of_the_script(
    configure: Configure, tmp_path: Path, script: ModuleType, digits: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    train(configure(*digits, "data.validation_samples=100"), run)
    names = ("fid", "kid", "inception_score", "precision", "recall", "density", "coverage", "classes", "class_kl")
    assert logged(run).keys() == {f"val/{name}" for name in (*names, "value")}
    result = evaluate(script, run, "floor=true")
    assert result["metrics"] == logged(run)
    assert result["features"] == json.loads((run / "metrics.json").read_text())["features"]
    assert result["features"].startswith("mnist-cnn-")
    (cached,) = (tmp_path / "cache").iterdir()
    assert result["accuracy"] == torch.load(cached, weights_only=True)["content"]["accuracy"]
    assert evaluate(script, run, "floor=true", f"cache={tmp_path / 'other'}") == result
    assert [path.name for path in (tmp_path / "other").iterdir()] == [cached.name]
    assert 0 <= result["floor"]["val/fid"] < result["metrics"]["val/fid"]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    (state,) = (s for name, s in best["callbacks"].items() if name.startswith("RunCheckpoint"))
    features_name, samples, digest = state["measured_by"]
    assert (features_name, samples, len(digest)) == (result["features"], 100, 32)
    result = evaluate(script, run / "checkpoints" / "best.ckpt")
    assert result["metrics"]["val/fid"] == min(state["best"], logged(run)["val/fid"])  # of an epoch, or the final one
    assert Path(result["checkpoint"]).name == "best.ckpt"


def test_validation_leaves_training_and_checkpoints_alone(
    configure: Configure, tmp_path: Path, digits: tuple[str, ...]
) -> None:
    saved = []
    for n in (0, 50):
        train(configure(*digits, f"data.validation_samples={n}"), tmp_path / str(n))
        saved.append(torch.load(tmp_path / str(n) / "checkpoints" / "last.ckpt", weights_only=True))
    without, with_ = saved
    assert without["state_dict"].keys() == with_["state_dict"].keys()
    assert all(torch.equal(with_["state_dict"][name], value) for name, value in without["state_dict"].items())
    for a, b in zip(without["optimizer_states"], with_["optimizer_states"], strict=True):
        assert a["state"].keys() == b["state"].keys()
        assert all(torch.equal(a["state"][i]["exp_avg"], b["state"][i]["exp_avg"]) for i in a["state"])
    assert logged(tmp_path / "0") == {}


def test_a_run_without_validation_is_evaluated_on_all_held_out_images(
    configure: Configure, tmp_path: Path, script: ModuleType, digits: tuple[str, ...]
) -> None:
    train(configure(*digits), tmp_path / "run")
    assert evaluate(script, tmp_path / "run")["n"] == 512


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Striped pictures of two classes in the folders train, test and other."""
    monkeypatch.setattr(features, "UPDATES", 10)
    for seed, part in enumerate(("train", "test", "other")):
        for i, (image, label) in enumerate(zip(*stripes(40, seed, 32), strict=True)):
            (tmp_path / part / str(label.item())).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(tmp_path / part / str(label.item()) / f"{i:02}.png")
    return tmp_path


def small_folder(pictures: Path, *options: str) -> tuple[str, ...]:
    return (
        *("model=mlp", "data=image_folder", f"data.root={pictures / 'train'}", "data.size=32", "data.channels=1"),
        *("model.generator.widths=[8]", "model.discriminator.widths=[8]", f"data.cache={pictures / 'cache'}"),
        *("data.batch_size=8", *PLAIN, *options),
    )


def test_held_out_images_are_known_by_their_digest(
    configure: Configure, script: ModuleType, pictures: Path, tmp_path: Path
) -> None:
    digests = []
    for i, (part, range_) in enumerate((("test", "signed"), ("test", "unit"), ("other", "signed"))):
        run = tmp_path / "runs" / str(i)
        train(configure(*small_folder(pictures, f"data.range={range_}")), run)
        digests.append(evaluate(script, run, f"held_out={pictures / part}")["held_out"])
    assert digests[0] == digests[1] != digests[2]
    assert evaluate(script, run, f"held_out={pictures / 'other'}", "n=20")["held_out"] not in digests


def test_scores_of_other_held_out_images_do_not_rank_checkpoints(
    configure: Configure, pictures: Path, tmp_path: Path
) -> None:
    def state() -> dict[str, Any]:
        return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["RunCheckpoint"]

    run, options = tmp_path / "run", ("data.validation_samples=20", f"data.held_out={pictures / 'test'}")
    train(configure(*small_folder(pictures, *options)), run)
    first = state()["measured_by"]
    change(run, lambda saved: saved["callbacks"]["RunCheckpoint"].update(best=-1.0))  # that no other comes near
    train(resume(run, ["trainer.max_steps=30"]), run)
    assert (state()["best"], state()["measured_by"]) == (-1.0, first)
    train(resume(run, ["trainer.max_steps=40", f"data.held_out={pictures / 'other'}"]), run)
    assert state()["best"] >= 0
    assert (state()["measured_by"][:2], state()["measured_by"] == first) == (first[:2], False)


def test_a_run_from_before_there_were_held_out_images(
    configure: Configure, script: ModuleType, pictures: Path, tmp_path: Path
) -> None:
    def forget(saved: dict[str, Any]) -> None:
        for name in ("held_out", "validation_samples", "features", "inception_weights"):
            del saved["gan"]["config"]["data"][name]

    run = tmp_path / "run"
    train(configure(*small_folder(pictures)), run)
    change(run, forget)
    result = evaluate(script, run, f"held_out={pictures / 'test'}", "features=own")
    assert (result["n"], result["features"].split("-")[0]) == (40, "imagefolder")
    sentence = "held_out is not set: image metrics compare with images that are not trained on, so give a folder of"
    assert refusal(script, run) == f"Error: {sentence} held-out images."


# ------------------------------------------------------------------------------------------------- what is refused


def refusal(script: ModuleType, checkpoint: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as ended:
        evaluate(script, checkpoint, *options)
    assert isinstance(ended.value.code, str)  # printed to stderr, and the exit status is 1
    assert "\n" not in ended.value.code
    return ended.value.code


def test_what_images_cannot_give_is_one_sentence(
    configure: Configure,
    tmp_path: Path,
    script: ModuleType,
    digits: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    train(configure(*digits), run)
    assert "Error: n is 513, but there are 512 held-out images" in refusal(script, run, "n=513")
    assert refusal(script, run, "n=9") == "Error: n is 9: give at least 10 images."
    assert f"MNIST is not in root={tmp_path}/gone" in refusal(script, run, f"root={tmp_path}/gone")
    assert "held_out is not an option of this run's data" in refusal(script, run, "held_out=here")
    said = "Error: inception_weights is file.pth: give features=inception too."
    assert refusal(script, run, "inception_weights=file.pth") == said
    (tmp_path / "file").touch()
    sentence = f"Error: cache={tmp_path / 'file'} cannot be written (File exists): give another cache=FOLDER."
    assert refusal(script, run, f"cache={tmp_path / 'file'}") == sentence
    assert "features is 'other': give one of own, inception or null" in refusal(script, run, "features=other")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    assert "Error: features=inception needs the package torch-fidelity: pip install" in refusal(
        script, run, "features=inception"
    )
    assert not (run / "evaluation.json").exists()


def test_what_points_cannot_give_is_one_sentence(configure: Configure, tmp_path: Path, script: ModuleType) -> None:
    train(configure("data=ring", *PLAIN, *POINTS), tmp_path)
    for option in ("root=here", "features=own"):
        assert "not an option of this run's data: leave it out" in refusal(script, tmp_path, option)
    for option, sentence in (("n=0", "n is 0: give a whole number"), ("seed=-1", "seed is -1: give a whole number")):
        assert sentence in refusal(script, tmp_path, option)
    assert "does not exist: give the folder of a run" in refusal(script, tmp_path / "nowhere")
