"""scripts/benchmark.py: its hand-written loops against the package's own step, and what it measures and prints."""

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import GivenData, fit
from omegaconf import DictConfig
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.testing import assert_close

from gan_lightning import losses, priors
from gan_lightning.build import build_data
from gan_lightning.callbacks.progress import TerminalProgress
from gan_lightning.errors import UsageError
from gan_lightning.game import Game
from gan_lightning.gan import GAN
from gan_lightning.options import parse
from gan_lightning.regularizers import R1, R2, Regularizer

SCRIPTS = ROOT / "scripts"
N = 16
TOYS = ("gaussian_tutorial", "gaussian_mlp", "mixture_tutorial", "even_integers", "ring")
SMALL = ("data.rounds_per_epoch=10", "data.validation_samples=64", "callbacks.samples.n=100")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """scripts/benchmark.py, which is no part of the package, beside the loops that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield import_module("benchmark")


@pytest.fixture(scope="module")
def loops(script: ModuleType) -> ModuleType:
    return import_module("loops")


# ----------------------------------------------------------------------------------------- the same updates as ours


class GivenLatents(priors.Prior):
    """Latents that the test holds in its hand, one batch a draw."""

    def __init__(self, batches: list[Tensor]) -> None:
        super().__init__(batches[0].shape[1])
        self.batches = iter(batches)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return next(self.batches)


def given_gan(
    latents: list[Tensor], loss: losses.Loss, regularizers: Mapping[str, Regularizer] | None = None, **options: Any
) -> GAN:
    """A float64 GAN over the plane, whose BatchNorm remembers every pass and their order."""
    # a bias before BatchNorm has no gradient but for rounding, which Adam would make into steps
    generator = nn.Sequential(nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    layers = [nn.Linear(2, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)]
    sgd, adam = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=0.05, betas=(0.5, 0.9), fused=True)
    game = Game(generator, nn.Sequential(*layers), GivenLatents(latents), loss, regularizers)
    return GAN(game, sgd, adam, **options).double()


def system_of(loops: ModuleType, gan: GAN, **options: Any) -> Any:
    return loops.System(
        gan.game.generator,
        gan.game.discriminator,
        gan.game.loss,
        gan.game.prior,
        gan.generator_optimizer,
        gan.discriminator_optimizer,
        gan.order,
        gan.reuse_fakes,
        N,
        **options,
    )


CASES = [
    (losses.NonSaturating(), "discriminator_first", False, {}),
    (losses.NonSaturating(), "generator_first", False, {}),
    (losses.NonSaturating(), "generator_first", True, {}),
    (losses.Minimax(), "discriminator_first", True, {}),
    (losses.Relativistic(), "discriminator_first", False, {}),
    (losses.Relativistic(), "discriminator_first", False, {"r1": 0.3, "r2": 0.7}),
    (losses.NonSaturating(), "discriminator_first", True, {"r1": 0.5}),
]


@pytest.mark.parametrize("kind", ["tutorial", "limit"])
@pytest.mark.parametrize(("loss", "order", "reuse", "penalties"), CASES)
def test_a_hand_written_round_is_the_packages(
    loops: ModuleType, kind: str, loss: losses.Loss, order: str, reuse: bool, penalties: dict[str, float]
) -> None:
    rounds = 4
    reals = torch.randn(rounds, N, 2, dtype=torch.float64)
    latents = [torch.randn(N, 3, dtype=torch.float64) for _ in range(rounds if reuse else 2 * rounds)]
    regularizers = {name: {"r1": R1, "r2": R2}[name](weight) for name, weight in penalties.items()}
    gan = given_gan(latents, loss, order=order, reuse_fakes=reuse, regularizers=regularizers)
    loop = loops.LOOPS[kind](system_of(loops, gan, **penalties))  # it trains copies
    draws = iter(latents)
    for real in reals:
        loop.round(real, draws)
    assert next(draws, None) is None
    start = [weight.detach().clone() for weight in gan.parameters()]
    fit(gan, GivenData(reals, N), rounds)
    assert_close(loop.generator.state_dict(), gan.game.generator.state_dict(), rtol=1e-9, atol=1e-12)
    assert_close(loop.discriminator.state_dict(), gan.game.discriminator.state_dict(), rtol=1e-9, atol=1e-12)
    moved = [(new - old).detach().abs().max().item() for new, old in zip(gan.parameters(), start, strict=True)]
    assert sum(distance > 1e-3 for distance in moved) > len(moved) / 2


def fresh_loop(loops: ModuleType, kind: str) -> Any:
    gan = given_gan([torch.zeros(N, 3)], losses.NonSaturating())
    return loops.LOOPS[kind](system_of(loops, gan))


@pytest.mark.parametrize(("kind", "is_lean"), [("tutorial", False), ("limit", True)])
def test_only_the_limit_spares_gradients_and_uses_fused_optimizers(loops: ModuleType, kind: str, is_lean: bool) -> None:
    loop = fresh_loop(loops, kind)
    real, latents = torch.randn(N, 2).double(), torch.randn(N, 3).double()
    loop.update_generator(real, lambda: loop.generator(latents))
    assert all((weight.grad is None) == is_lean for weight in loop.discriminator.parameters())
    has_graph = []

    def fake() -> Tensor:
        samples = loop.generator(latents)
        has_graph.append(samples.requires_grad)
        return samples

    loop.update_discriminator(real, fake)
    assert has_graph == [not is_lean]
    fused = [optimizer.defaults["fused"] for optimizer in (loop.optimizer_g, loop.optimizer_d)]
    assert fused == ([True, True] if is_lean else [None, None])


def test_the_tutorial_sums_its_losses(loops: ModuleType) -> None:
    loop = fresh_loop(loops, "tutorial")
    nn.init.zeros_(loop.discriminator[3].weight)
    nn.init.zeros_(loop.discriminator[3].bias)
    real, latents = torch.randn(N, 2).double(), torch.randn(N, 3).double()
    loop.update_generator(real, lambda: loop.generator(latents))
    assert loop.total_g == pytest.approx(math.log(2))  # of logits that are all zero
    loop.update_discriminator(real, lambda: loop.generator(latents))
    assert loop.total_d == pytest.approx(2 * math.log(2))


# ------------------------------------------------------------------------------------------------------- workloads


@pytest.mark.parametrize("name", TOYS)
def test_a_toys_loops_train_what_the_configuration_says(
    script: ModuleType, loops: ModuleType, configure: Callable[..., DictConfig], name: str
) -> None:
    workload = script.WORKLOADS[name]
    config = configure(*workload.overrides)
    system = script.build_system(workload, script.Options())
    assert system.batch_size == config.data.batch_size
    assert (system.order, system.reuse_fakes) == (config.model.order, config.model.reuse_fakes)
    weights = {kind: part.weight for kind, part in config.regularizer.items()}
    assert (system.r1, system.r2) == (weights.get("r1", 0.0), weights.get("r2", 0.0))
    for kind in ("tutorial", "limit"):
        loop = loops.LOOPS[kind](system)
        for weight, own in zip(system.generator.parameters(), loop.generator.parameters(), strict=True):
            assert_close(own, weight)
        rates = [optimizer.param_groups[0]["lr"] for optimizer in (loop.optimizer_g, loop.optimizer_d)]
        assert rates == [config.generator_optimizer.lr, config.discriminator_optimizer.lr]
        ticks: list[int] = []
        loop.train(lambda rounds, ticks=ticks: ticks.append(rounds) or rounds == 12)
        assert ticks == list(range(13))
        assert all(weight.isfinite().all() for weight in loop.generator.parameters())


@pytest.mark.parametrize("name", TOYS)
def test_a_toys_samples_are_the_packages(
    script: ModuleType, loops: ModuleType, configure: Callable[..., DictConfig], name: str
) -> None:
    data = build_data(configure(*script.WORKLOADS[name].overrides))
    ours, drawn = data.training_samples(20_000, 1).x, loops.TOYS[script.WORKLOADS[name].data](20_000)
    assert (drawn.shape, drawn.dtype) == (ours.shape, ours.dtype)
    directions = torch.cat((torch.eye(ours.shape[1]), torch.randn(8, ours.shape[1])))
    for direction in directions:  # the distributions agree where all their projections do
        assert ks_2samp(ours @ direction, drawn @ direction).pvalue > 1e-3
    assert_close(ours.T.cov(), drawn.T.cov(), atol=0.05, rtol=0.05)


def picture_folder(folder: Path) -> Path:
    """Ten noisy pictures of a size that is the model's, in the folders of two classes."""
    noise = np.random.default_rng(0)
    for i in range(10):
        place = folder / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


def in_order(batches: list[Tensor]) -> Tensor:
    images = torch.cat(batches)
    return images[images.flatten(1).sum(1).argsort()]


def test_images_are_the_same_for_both_loops_and_all_of_them_in_every_epoch(
    script: ModuleType, loops: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where the package caches images
    options = script.Options(cifar=picture_folder(tmp_path / "pictures"))
    system = script.replace(script.build_system(script.WORKLOADS["cifar_dcgan"], options), batch_size=5)
    assert system.images.shape == (10, 3, 32, 32)
    expected = in_order([2 * image[None] / 255 - 1 for image in system.images.float()])
    for kind in ("tutorial", "limit"):
        images = loops.LOOPS[kind](system).images()
        epochs = [[next(images), next(images)] for _ in range(2)]
        for epoch in epochs:
            assert_close(in_order(epoch), expected, atol=1e-6, rtol=0)
        assert not torch.equal(epochs[0][0], epochs[1][0])


def test_mnist_is_the_same_for_both_loops(script: ModuleType, mnist_root: Path) -> None:
    system = script.build_system(script.WORKLOADS["mnist_mlp"], script.Options(data=mnist_root))
    assert system.images.shape == (60_000, 1, 28, 28)
    for i in (0, 1, 59_999):
        assert_close(system.dataset[i][0], system.images[i] / 255)


def test_images_come_from_the_folder_that_is_given(script: ModuleType, tmp_path: Path) -> None:
    options = script.Options(cifar=tmp_path)
    workload = script.WORKLOADS["cifar_dcgan"]
    folder = ["data=image_folder", "data.size=32"]
    assert workload.located(options) == ["experiment=dcgan_cifar10", *folder, f"data.root='{tmp_path}'"]
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert workload.located(options) == ["experiment=dcgan_cifar10", f"data.root='{tmp_path}'"]


# ---------------------------------------------------------------------------------------------------- measurements


def test_the_stopwatch_leaves_out_the_warm_up(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    watch = script.Stopwatch(4.0)
    ticks = [(0.0, 0, False), (0.9, 7, False), (1.5, 10, False), (5.4, 29, False), (6.5, 40, True)]
    for seconds, updates, is_over in ticks:
        clock.now = 100.0 + seconds
        assert watch.is_over(updates) == is_over
    assert watch.speed == pytest.approx((40 - 10) / (6.5 - 1.5))


def test_ours_is_what_a_user_runs(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    trainers = []
    script.train_ours(
        script.composed(["experiment=gaussian_mlp", "trainer.max_steps=10", *SMALL]),
        on_train_end=lambda trainer, *_: trainers.append((trainer, list(Path(trainer.default_root_dir).rglob("*")))),
    )
    (trainer, files) = trainers[0]
    assert isinstance(trainer.progress_bar_callback, TerminalProgress)
    assert trainer.progress_bar_callback._enabled
    assert trainer.lightning_module.average is not None
    assert trainer.lightning_module.validated_step == 10
    assert {"config.yaml", "0000000.png", "0000010.png", "last.ckpt"} <= {file.name for file in files}
    assert trainer.loggers
    assert not Path(trainer.default_root_dir).exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["complete", "ours"])
def test_ours_trains_until_the_watch_is_over(script: ModuleType, kind: str) -> None:
    ticks = []

    class Watch:
        def is_over(self, updates: int) -> bool:
            ticks.append(updates)
            return updates >= 40

    # the experiment's own end would come first
    script.ours(kind, ["experiment=gaussian_tutorial", "trainer.max_steps=20", *SMALL], Watch())
    assert ticks == [10, 20, 30, 40]


def test_quality_is_the_first_validation_that_is_good_enough(script: ModuleType) -> None:
    overrides = ("experiment=gaussian_tutorial", "trainer.max_steps=50", *SMALL)
    seen: list[float] = []

    def third(values: dict[str, Any]) -> bool:
        seen.append(float(values["val/ks"]))
        return len(seen) == 3

    reached = script.measure_quality(script.Goal(overrides, "the third", third), 0)
    assert reached["updates"] == 30
    assert reached["seconds"] > 0
    assert len(seen) == len(set(seen)) == 3  # nothing was trained after it
    missed = script.measure_quality(script.Goal(overrides, "none", lambda values: False), 0)
    assert missed == {"seconds": None, "updates": None}


@pytest.mark.parametrize(
    ("name", "values", "is_met"),
    [
        ("gaussian_mlp", {"val/ks": 0.03}, True),
        ("gaussian_mlp", {"val/ks": 0.031}, False),
        ("ring", {"val/modes": 8.0, "val/high_quality": 0.9}, True),
        ("ring", {"val/modes": 7.0, "val/high_quality": 0.99}, False),
        ("ring", {"val/modes": 8.0, "val/high_quality": 0.89}, False),
    ],
)
def test_goals(script: ModuleType, name: str, values: dict[str, float], is_met: bool) -> None:
    assert script.GOALS[name].is_met({key: torch.tensor(v, dtype=torch.float64) for key, v in values.items()}) == is_met


def test_start_sees_the_real_first_update(script: ModuleType) -> None:
    seconds = script.measure_start()
    assert 0 < seconds["help"] < seconds["first update"]  # which also imports torch


def test_start_says_when_there_was_none(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("print('nothing')\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    with pytest.raises(UsageError, match="printed no first update"):
        script.measure_start()


def child(code: str) -> list[str]:
    """What a process prints that has scripts/ at hand; this one, its parent, is large."""
    environment = os.environ | {"PYTHONPATH": f"{SCRIPTS}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_peak_memory_is_this_processs_own_and_outlives_what_took_it() -> None:
    code = "import benchmark; x = b'x' * ({} << 20); del x; print(benchmark.peak_resident())"
    small, large = (float(child(code.format(size))[0]) for size in (0, 300))
    assert small < 200
    assert large - small == pytest.approx(300, abs=15)


def test_the_limits_process_imports_nothing_of_lightning(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "system"
    file.write_bytes(pickle.dumps(script.build_system(script.WORKLOADS["ring"], script.Options())))
    code = f"""
import sys, benchmark
from pathlib import Path
peak = benchmark.peak_of("limit", [], Path({str(file)!r}), 0.1)
now = benchmark.peak_resident()  # of the same process, which may have grown since
print(0.95 * now <= peak <= now, "torch" in sys.modules, {{"lightning", "torchmetrics"}} & set(sys.modules))
"""
    assert child(code) == ["True", "True", "set()"]


def test_memory_gives_each_loop_its_own_form_of_the_data(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here:
        """Stands in for a new process."""

        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, function: Any, kind: str, overrides: list[str], file: Path, seconds: float) -> Future[float]:
            system = pickle.loads(file.read_bytes())
            seen[kind] = None if system is None else (system.images is not None, system.dataset is not None)
            future: Future[float] = Future()
            future.set_result(float(len(seen)))
            return future

    seen: dict[str, Any] = {}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(script, "ProcessPoolExecutor", Here)
    options = script.Options(cifar=picture_folder(tmp_path / "pictures"))
    assert script.measure_memory("cifar_dcgan", options) == {
        "complete": 1.0,
        "ours": 2.0,
        "tutorial": 3.0,
        "limit": 4.0,
    }
    assert seen == {"complete": None, "ours": None, "tutorial": (False, True), "limit": (True, False)}


# --------------------------------------------------------------------------------------------------------- printed


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert set(rows.pop(1)) == {"---"}
    return rows


def test_tables_have_medians_and_the_rounds_own_ratios(script: ModuleType) -> None:
    speeds = {"complete": [5.0, 5.0, 8.0], "ours": [10.0, 30.0, 20.0]}
    speeds |= {"tutorial": [5.0, 10.0, 40.0], "limit": [40.0, 60.0, 50.0]}
    header, row = cells(script.speed_table({"ring": speeds}))
    kinds = ["complete", "ours", "tutorial", "limit"]
    assert header == ["updates/s", *kinds, "ours/tutorial", "ours/limit", "complete/tutorial"]
    ratios = ["2.00 (0.50 to 3.00)", "0.40 (0.25 to 0.50)", "0.50 (0.20 to 1.00)"]
    assert row == ["ring", "5", "20", "10", "50", *ratios]
    peaks = {"complete": 600.0, "ours": 500.4, "tutorial": 450.0, "limit": 400.0}
    assert cells(script.memory_table({"ring": peaks}))[1] == ["ring", "600", "500", "450", "400", "100"]
    starts = {"help": [0.3, 0.5, 0.4], "first update": [3.0, 2.0, 9.0]}
    assert cells(script.start_table(starts))[1:] == [
        ["help", "0.40 (0.30 to 0.50)"],
        ["first update", "3.00 (2.00 to 9.00)"],
    ]
    runs = [{"seconds": s, "updates": u} for s, u in ((4.0, 1000), (None, None), (8.0, 500))]
    missed = [{"seconds": None, "updates": None}]
    assert [row[:1] + row[2:] for row in cells(script.quality_table({"ring": runs, "gaussian_mlp": missed}))[1:]] == [
        ["ring", "2 of 3", "6", "750"],
        ["gaussian_mlp", "0 of 1", "", ""],
    ]


def test_a_small_benchmark(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    arguments = ["workloads=[even_integers,mnist_mlp,cifar_dcgan]", "rounds=2", "seconds=0.1", f"json={file}"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    script.main()
    printed, written = capsys.readouterr().out, json.loads(file.read_text())
    machine = written["machine"]
    assert machine["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()
    assert printed.startswith(f"processor {machine['processor']}, cores {os.cpu_count()}, threads 1, ")
    assert "\nmnist_mlp is left out: give data=FOLDER\ncifar_dcgan is left out: give cifar=FOLDER\n" in printed
    assert set(written) == {"machine", "seconds", "speed"}
    assert list(written["speed"]) == ["even_integers"]
    speeds = written["speed"]["even_integers"]
    assert {kind: len(values) for kind, values in speeds.items()} == dict.fromkeys(script.KINDS, 2)
    assert all(value > 0 for values in speeds.values() for value in values)
    latest = ", ".join(f"{kind} {values[1]:.4g}" for kind, values in speeds.items())
    assert f"\neven_integers, round 2: {latest} updates/s\n" in printed
    ratios = np.array(speeds["ours"]) / np.array(speeds["limit"])
    assert cells(printed)[1][6] == f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


# --------------------------------------------------------------------------------------------------------- options


REFUSED = [
    (["rounds=0"], "rounds is 0: give a whole number, at least 1."),
    (["seconds=0"], "seconds is 0.0: give a number above 0."),
    (["workloads=[ring,moon]"], "workloads has 'moon': choose from gaussian_tutorial, gaussian_mlp, mixture_tutorial,"),
    (["workloads=ring"], "workloads is 'ring': give a list, such as [a,b]."),
    (["data=nowhere"], "data=nowhere has no MNIST/raw: give the folder that contains it."),
    (["cifar=nowhere"], "cifar=nowhere is not a folder: give one that contains cifar-10-batches-py or images."),
    (["json=nowhere/x.json"], "json=nowhere/x.json cannot be written: its folder does not exist."),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=[a[0] for a, _ in REFUSED])
def test_what_cannot_be_used_is_one_sentence(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        parse(script.Options, arguments)
    assert str(refused.value).startswith(sentence)
