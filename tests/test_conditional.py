"""Class-conditional runs from the command line to their samples, exports and metrics."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import GivenData, fit, load_script, small_gan, trained
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from test_features import stripes
from test_resume import assert_same_state, checkpoint, in_parts
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.testing import assert_close

from gan_lightning.batch import Batch
from gan_lightning.build import build_data
from gan_lightning.checkpoints import load
from gan_lightning.config import check
from gan_lightning.distributions import ring
from gan_lightning.errors import UsageError
from gan_lightning.labels import asked_for, between, class_index, in_turn, said, whole_rows
from gan_lightning.metrics.features import Features
from gan_lightning.metrics.images import ImageMetrics, frechet_distance
from gan_lightning.metrics.modes import ByClass
from gan_lightning.training import train

Configure = Callable[..., DictConfig]
RING = ("data=ring", "model.conditional=true", "model.generator.widths=[16]", "data.rounds_per_epoch=6")
SIDE = 28
SMALL = {  # of each kind of network
    "points": [*RING, "model.lr=0.02"],
    "mlp": ["model=mlp", "model.generator.widths=[16]", "model.discriminator.widths=[8]", "model.lr=0.02"],
    "dcgan": ["model=dcgan", "model.generator.width=4", "model.discriminator.width=4", "model.lr=0.02"],
    "resnet": ["model=resnet", "model.generator.width=4", "model.discriminator.width=4", "model.lr=0.02"],
}
OPTIONS = {
    "mlp": ["model.conditional=true", "model.discriminator.conditioning=joined"],
    "dcgan": ["model.conditional=true", "model.generator.conditional_norm=true"],
    "resnet": ["game=acgan", "model.generator.conditional=true"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes along and across, in a folder of each name."""
    folder = tmp_path_factory.mktemp("stripes")
    for i, (image, label) in enumerate(zip(*stripes(60, 0, SIDE), strict=True)):
        path = folder / ("along", "across")[label] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of each kind of network."""
    place = tmp_path_factory.mktemp("runs")
    data = ["data=image_folder", f"data.root={folder}", f"data.size={SIDE}", "data.channels=1"]
    for name, overrides in SMALL.items():
        images = [*data, f"data.cache={place / 'cache'}", *OPTIONS[name]] if name in OPTIONS else []
        trained(place / name, *images, *overrides, "model.ema_decay=0.9")
    return place


def run(script: ModuleType, *arguments: object) -> None:
    """The script with these arguments, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        script.main()


# ------------------------------------------------------------------------------------------------------------- labels


def test_classes_by_name_and_by_number() -> None:
    assert [class_index(name, ("cat", "dog")) for name in ("dog", 0, "1")] == [1, 0, 1]
    assert class_index(7, ("3", "7")) == class_index("7", ("3", "7")) == 1
    for name in ("cow", 2, -1):
        with pytest.raises(UsageError, match=f"There is no class {name!r}: choose from cat, dog"):
            class_index(name, ("cat", "dog"))


def test_names_that_are_numbers_are_no_positions() -> None:
    """``data.classes=[3,7]`` has no class 1, and 010 is the name that it is."""
    assert class_index("7", ("3", "7")) == 1
    for name, names in (("1", ("3", "7")), (1, ("001", "010")), ("10", ("001", "010"))):
        with pytest.raises(UsageError, match=rf"There is no class {name!r}: choose from {', '.join(names)}\.$"):
            class_index(name, names)
    assert class_index("1", ("3", "seven")) == 1


@pytest.mark.parametrize("labels", [3, "37"])
def test_one_label_is_no_list(labels: int | str) -> None:
    with pytest.raises(UsageError, match=rf"^labels is {labels!r}: give a list of classes, such as \[{labels!r}\]"):
        asked_for(4, tuple("0123456789"), labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.tensor([0, 2]), r"labels has classes 0 to 2: give numbers from 0 to 1\."),
        (torch.tensor([-1, 1]), r"labels has classes -1 to 1: give numbers from 0 to 1\."),
        (torch.ones(4, 3), r"labels has shape \(4, 3\): give a weight for each of the 2 classes\."),
    ],
)
def test_labels_of_other_classes_are_refused(labels: torch.Tensor, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        asked_for(4, ("cat", "dog"), labels)


def test_no_labels_are_not_all_labels() -> None:
    assert asked_for(3, ("cat", "dog")).tolist() == [0, 1, 0]
    assert asked_for(3, ("cat", "dog"), np.array([1, 0])).tolist() == [1, 0, 1]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^labels is empty: give classes to alternate between, cat, dog, or None"):
        asked_for(3, ("cat", "dog"), [])


def test_labels_of_so_many_samples() -> None:
    assert in_turn([3, 7], 5).tolist() == [3, 7, 3, 7, 3]
    assert [whole_rows(*pair) for pair in ((64, 10), (64, 0), (5, 10), (20, 10))] == [60, 64, 5, 20]
    assert said(tuple("0123456789")) == "10 classes: 0, 1, ..., 9"
    assert (said(("cat", "dog")), said(("one",))) == ("2 classes: cat, dog", "1 class: one")
    weights = between([2, 0, 1], 3, 4)
    expected = [[0, 0, 1, 0], [0.5, 0, 0.5, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0]]
    assert_close(weights, torch.tensor(expected))


@pytest.mark.parametrize("name", SMALL)
def test_samples_of_classes_in_a_notebook(runs: Path, name: str) -> None:
    gan = load(runs / name)
    names, z = gan.class_names, torch.randn(6, gan.game.prior.size)
    assert gan.average is not None
    y = torch.tensor([1, 0, 0, 1, 1, 0])
    with torch.no_grad():
        expected = gan.average.network["generator"](z, y)
    assert_close(gan.sample(6, latents=z, labels=y), expected)
    assert_close(gan.sample(6, latents=z, labels=[names[k] for k in y]), expected)
    assert_close(gan.sample(6, latents=z, labels=one_hot(y, len(names)).float()), expected, atol=1e-5, rtol=1e-5)
    assert_close(gan(z, y), expected)
    assert_close(gan.sample(6, latents=z), gan.sample(6, latents=z, labels=torch.arange(6) % len(names)))
    assert (gan.sample(6, latents=z, labels=1 - y) - expected).abs().max() > 1e-4
    with pytest.raises(UsageError, match="There is no class 'x'"):
        gan.sample(6, labels=["x"])


def test_what_has_no_classes_is_asked_for_none() -> None:
    with pytest.raises(UsageError, match="The networks are not conditional"):
        small_gan().sample(3, labels=[0, 1])


# ------------------------------------------------------------------------------------------------------------ training


def test_the_start_says_the_classes(configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", *RING)
    assert capsys.readouterr().out.startswith("8 classes: 0, 1, ..., 7\n")


REFUSED = [
    (
        ["data=gaussian", "model.conditional=true"],
        "model.conditional is true, but the data has no classes: choose data",
    ),
    (["data=ring", "model=linear", "model.conditional=true"], "the networks of model=linear do not take classes"),
    (["data=ring", "model=mlp", "model.generator.conditional_norm=true"], "conditional_norm=true needs classes"),
    (["data=ring", "model=mlp", "model.discriminator.conditioning=joined"], "conditioning=joined needs classes"),
    (["data=ring", "game=acgan"], "game=acgan needs a conditional generator"),
    (["data=ring", "model.discriminator.conditioning=sum"], "conditioning is 'sum': give one of projection, joined"),
    (["data=ring", "model.conditional=yes"], "model.conditional is 'yes': give true or false"),
]


@pytest.mark.parametrize(("overrides", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_cannot_be_conditional_is_refused_before_training(
    configure: Configure, tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    config = configure(*overrides, "trainer.accelerator=cpu", "logger=none", "trainer.max_steps=2")

    def begin() -> None:
        check(config, {"model": "linear"})
        train(config, tmp_path / "run")

    with pytest.raises(UsageError, match=sentence):
        begin()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_unlabeled_batches_are_refused() -> None:
    gan = small_gan(generator=Shifted())
    with pytest.raises(UsageError, match="The networks are conditional, but a batch has no labels"):
        fit(gan, GivenData(torch.zeros(1, 4, 2, dtype=torch.double), 4), 1)


class Shifted(nn.Module):
    """z and y, which it says of itself that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conditional = True
        self.layer = nn.Linear(3, 2)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.layer(z) + y[:, None]


def test_parts_of_a_conditional_run_are_the_run(configure: Configure, tmp_path: Path) -> None:
    overrides = (*RING, "data.rounds_per_batch=3", "trainer.accelerator=cpu", "regularizer=r1", "logger=none")
    in_parts(configure, tmp_path / "whole", overrides, [20])
    in_parts(configure, tmp_path / "parts", overrides, [7, 20])
    assert_same_state(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))


def test_the_picture_has_a_row_for_each_class(runs: Path, folder: Path) -> None:
    gan = load(runs / "mlp")
    data = build_data(DictConfig(gan.config))
    latents = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    samples = gan.sample(64, latents=latents)
    expected = data.picture(Batch(torch.cat([samples[::2], samples[1::2]])), 32)
    assert torch.equal(data.picture(Batch(samples, gan.labels(64))), expected)
    assert torch.equal(data.picture(Batch(samples[:63], gan.labels(63))), data.picture(Batch(samples[:63])))
    with Image.open(runs / "mlp" / "samples" / "0000012.png") as taken:
        assert taken.size == (32 * (SIDE + 2) + 2, 2 * (SIDE + 2) + 2)


# ------------------------------------------------------------------------------------------------------------ commands


def test_sample_makes_the_classes_that_are_asked_for(runs: Path, tmp_path: Path) -> None:
    script, gan = load_script("sample"), load(runs / "points")
    where = f"checkpoint={runs / 'points'}"
    run(script, where, f"out={tmp_path / 'two.npz'}", "n=5", "classes=[7,3]", "batch_size=2")
    run(script, where, f"out={tmp_path / 'rows.npz'}", "n=3", "mode=interpolation", "frames=4")
    run(script, where, f"out={tmp_path / 'walk.npz'}", "n=3", "mode=walk", "frames=4", "classes=[2]")
    run(script, where, f"out={tmp_path / 'way.npz'}", "n=2", "mode=classes", "classes=[1,5,1]", "frames=3")
    two, rows, walk, way = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("two", "rows", "walk", "way"))
    assert two["labels"].tolist() == [7, 3, 7, 3, 7]
    assert rows["labels"].tolist() == [[0] * 4, [1] * 4, [2] * 4]
    assert walk["labels"].tolist() == [[2] * 3] * 3
    assert way["labels"].shape == (2, 5, 8)
    assert_close(torch.from_numpy(way["labels"][1]), between([1, 5, 1], 3, 8))
    assert (way["latents"] == way["latents"][:, :1]).all()  # fixed along a row
    for arrays in (two, rows, walk, way):
        z, y = (torch.from_numpy(arrays[name]) for name in ("latents", "labels"))
        flat = y.flatten(0, z.dim() - 2)
        found = torch.from_numpy(arrays["samples"]).flatten(0, -2)
        assert_close(found, gan.sample(len(flat), latents=z.flatten(0, -2), labels=flat))


def test_a_grid_of_samples_has_a_row_for_each_class(runs: Path, tmp_path: Path) -> None:
    script, where = load_script("sample"), f"checkpoint={runs / 'mlp'}"
    for name, arguments in {"all": [], "one": ["classes=[across]"], "way": ["mode=classes", "frames=6"]}.items():
        run(script, where, f"out={tmp_path / name}.png", *arguments)
    run(script, where, f"out={tmp_path / 'way.gif'}", "mode=classes", "frames=6")
    sizes = {name: np.asarray(Image.open(tmp_path / f"{name}.png")).shape[1::-1] for name in ("all", "one", "way")}
    tile = SIDE + 2
    assert sizes["all"] == (10 * tile + 2, 2 * tile + 2)
    assert sizes["one"] == (10 * tile + 2, tile + 2)
    assert sizes["way"] == (2 * (6 * tile + 2), 2 * (8 * tile + 2))  # enlarged
    with Image.open(tmp_path / "way.gif") as way:
        assert way.n_frames == 6 + 4  # there and back
    with pytest.raises(SystemExit, match="There is no class 'up': choose from across, along"):
        run(script, where, f"out={tmp_path / 'x.png'}", "classes=[up]")
    with pytest.raises(SystemExit, match="mode=classes needs at least two classes, but there are 1"):
        run(script, where, f"out={tmp_path / 'x.png'}", "classes=[along]", "mode=classes")
    with pytest.raises(SystemExit, match="but a walk stays in one class: give one"):
        run(script, where, f"out={tmp_path / 'x.png'}", "classes=[along,across]", "mode=walk")


ONNX = """
import sys
import numpy as np
import onnxruntime
for name in sys.argv[1:]:
    session = onnxruntime.InferenceSession(f"{name}.onnx")
    given = dict(np.load(f"{name}.npz"))
    for n in (1, 6):
        found = session.run(["samples"], {key: value[:n] for key, value in given.items()})[0]
        np.save(f"{name}-{n}.npy", found)
"""


def test_programs_take_latents_and_labels(runs: Path, tmp_path: Path) -> None:
    script = load_script("export")
    for name in SMALL:
        for ending in ("pt2", "onnx"):
            run(script, f"checkpoint={runs / name}", f"out={tmp_path / name}.{ending}")
        gan = load(runs / name)
        np.savez(tmp_path / f"{name}.npz", latents=torch.randn(6, gan.game.prior.size), labels=[0, 1, 1, 0, 0, 1])
    subprocess.run([sys.executable, "-c", ONNX, *SMALL], cwd=tmp_path, check=True)
    for name in SMALL:
        z, y = (torch.from_numpy(array) for array in np.load(tmp_path / f"{name}.npz").values())
        gan, extra = load(runs / name), {"metadata.json": ""}
        program = torch.export.load(tmp_path / f"{name}.pt2", extra_files=extra).module()
        for n in (1, 6):
            expected = gan.sample(n, latents=z[:n], labels=y[:n])
            assert_close(torch.from_numpy(np.load(tmp_path / f"{name}-{n}.npy")), expected, atol=1e-5, rtol=0)
            assert_close(program(z[:n], y[:n]).detach(), expected, atol=1e-5, rtol=0)
        assert (program(z, 1 - y) - program(z, y)).abs().max() > 1e-4
        assert json.loads(extra["metadata.json"])["class_names"] == list(gan.class_names)


# ------------------------------------------------------------------------------------------------------------- metrics


def test_modes_by_class_are_counted_by_hand() -> None:
    truth = ring(modes=4, sigma=0.1)
    y = torch.tensor([0, 0, 1, 2, 2])
    # on its mode; past three deviations of it; on another's; on its own twice
    x = truth.modes[torch.tensor([0, 0, 3, 2, 2])] + torch.tensor([0.0, 0.35, 0.0, 0.0, 0.2])[:, None] * torch.tensor(
        [1, 0]
    )
    metric = ByClass(truth, ("a", "b", "c", "d"))
    metric.update(Batch(x[:2], y[:2]), Batch(x[:2]))
    metric.update(Batch(x[2:], y[2:]), Batch(x[2:]))
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == {  # none of d was asked for
        "class_accuracy": pytest.approx(4 / 5),
        "class_high_quality": pytest.approx(3 / 5),
        "class_high_quality_worst": 0.0,
        "class_high_quality/a": 0.5,
        "class_high_quality/b": 0.0,
        "class_high_quality/c": 1.0,
    }
    unlabeled = ByClass(truth)
    unlabeled.update(Batch(x), Batch(x, y))
    assert unlabeled.compute() == {}


class Given(nn.Module):
    """Features and logits that stand in the pixels."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = images.flatten(1).float() / 255
        return values[:, :2], one_hot((values[:, 2] * 255).long(), 5).float()


def test_image_metrics_by_class_are_the_definitions() -> None:
    """With two chosen of five classes, which labels count from 0: those of the network's are 1 and 4."""
    stream = torch.Generator().manual_seed(0)
    n, chosen = 40, [1, 4]

    def images(labels: Tensor, wrong: int) -> Tensor:
        pixels = torch.randint(0, 256, (n, 4), generator=stream, dtype=torch.uint8)
        pixels[:, 0] //= labels.to(torch.uint8) + 1
        pixels[:, 2] = torch.tensor(chosen)[labels]
        pixels[:wrong, 2] = 3
        return pixels.view(n, 1, 2, 2) / 127.5 - 1

    y, real_y = torch.arange(n) % 2, torch.arange(n) // 3 % 2
    x, real = images(y, 5), images(real_y, 0)
    metric = ImageMetrics(Features("given", Given(), 1.0), chosen=chosen)
    metric.class_names = ("one", "four")
    metric.update(Batch(x, y), Batch(real, real_y))
    values = metric.compute()
    assert values["class_accuracy"].item() == pytest.approx(35 / 40)
    features, of_real = (((part + 1) / 2).flatten(1)[:, :2].double() for part in (x, real))
    distances = [frechet_distance(of_real[real_y == k], features[y == k]).item() for k in (0, 1)]
    assert values["intra_fid/one"].item() == pytest.approx(distances[0], rel=1e-4)
    assert values["intra_fid/four"].item() == pytest.approx(distances[1], rel=1e-4)
    assert values["intra_fid"].item() == pytest.approx(sum(distances) / 2, rel=1e-4)
    assert values["intra_fid_worst"].item() == pytest.approx(max(distances), rel=1e-4)
    plain = ImageMetrics(Features("given", Given(), 1.0), chosen=chosen)
    plain.update(Batch(x), Batch(real, real_y))
    assert plain.compute().keys() == values.keys() - {
        *("class_accuracy", "intra_fid", "intra_fid_worst", "intra_fid/one", "intra_fid/four"),
    }


def test_validation_and_evaluation_measure_by_class(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", *RING, "data.validation_samples=200", "trainer.limit_val_batches=1.0")
    logged = json.loads((folder / "metrics.json").read_text())
    assert 0 <= logged["val/class_accuracy"] <= 1
    run(load_script("evaluate"), f"checkpoint={folder}", "floor=true")
    result = json.loads((folder / "evaluation.json").read_text())
    by_class = {f"val/class_high_quality/{k}" for k in range(8)}
    assert result["metrics"].keys() - logged.keys() == by_class
    assert {name: result["metrics"][name] for name in logged if name.startswith("val/")} == {
        name: value for name, value in logged.items() if name.startswith("val/")
    }
    assert result["floor"].keys() >= by_class
    assert result["floor"]["val/class_accuracy"] == 1  # of real points, whose modes are far apart
    assert result["floor"]["val/class_high_quality"] > 0.95
    # the modes have the shares of the held-out samples, as those of a conditional generator do
    data = build_data(OmegaConf.load(folder / "config.yaml"))  # type: ignore[arg-type]
    data.trainer = SimpleNamespace(lightning_module=None, world_size=1, global_rank=0)
    (held_out,) = data.val_dataloader()
    shares = torch.bincount(held_out.y, minlength=8) / 200
    assert result["floor"]["val/reverse_kl"] == pytest.approx((shares * (8 * shares).log()).sum().item(), rel=1e-4)


def test_an_unconditional_run_has_no_classes(tmp_path: Path) -> None:
    """None that could be asked for, and none that are measured."""
    options = ("data=ring", "data.rounds_per_epoch=6", "data.validation_samples=200", "trainer.limit_val_batches=1.0")
    folder = trained(tmp_path / "run", *options)
    run(load_script("evaluate"), f"checkpoint={folder}", "floor=true")
    result = json.loads((folder / "evaluation.json").read_text())
    assert not [name for part in ("metrics", "floor") for name in result[part] if "class" in name]
    with pytest.raises(SystemExit, match="The networks are not conditional"):
        run(load_script("sample"), f"checkpoint={folder}", f"out={tmp_path / 'x.png'}", "classes=[1]")
