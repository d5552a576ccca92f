"""The tutorials' callbacks: loss curves, films, printed samples, diagnoses, and D beside the optimal D*."""

import copy
import math
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from matplotlib.axes import Axes
from omegaconf import DictConfig
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torch.testing import assert_close

from gan_lightning import losses, priors, resumption, training
from gan_lightning.callbacks.animation import Animation, animate
from gan_lightning.callbacks.curves import LossCurves
from gan_lightning.callbacks.diagnosis import Diagnosis
from gan_lightning.callbacks.optimal_discriminator import OptimalDiscriminator, kernel_density
from gan_lightning.callbacks.printing import PrintSamples
from gan_lightning.callbacks.samples import SamplePictures
from gan_lightning.data.bits import EvenIntegers
from gan_lightning.data.synthetic import Synthetic
from gan_lightning.distributions import GaussianMixture, gaussian, mixture
from gan_lightning.errors import Diverged, UsageError
from gan_lightning.game import Game
from gan_lightning.games.san import SAN
from gan_lightning.gan import GAN

Configure = Callable[..., DictConfig]
SGD = partial(torch.optim.SGD, lr=0.05)
STILL = partial(torch.optim.SGD, lr=0.0)
QUIET = {"num_sanity_val_steps": 0, "limit_val_batches": 0}


def plane_rounds(n: int) -> Tensor:
    return torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(7), dtype=torch.double)


def line_gan(loss: losses.Loss | None = None, **options: Any) -> GAN:
    """A GAN over the line, G an affine map."""
    discriminator = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    game = Game(nn.Linear(1, 1), discriminator, priors.Normal(1), loss)
    return GAN(game, **{"generator_optimizer": SGD, "discriminator_optimizer": SGD} | options)


def line_data(distribution: GaussianMixture, *, batch_size: int = 64, rounds_per_batch: int = 1) -> Synthetic:
    return Synthetic(distribution, batch_size, 50, validation_samples=100, rounds_per_batch=rounds_per_batch)


class _KeepLog(Logger):
    """A logger that keeps every number: name to {step: value}."""

    name = version = "kept"

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, dict[int, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.lines.setdefault(name, {})[step] = float(value)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


# ------------------------------------------------------------------------------------------------------ loss curves

TINY = (
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.log_every_n_steps=5",
    "trainer.limit_val_batches=0",
    "data=ring",
    "data.batch_size=16",
    "data.rounds_per_epoch=20",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "~callbacks.samples",
    "+callbacks.curves={_target_:gan_lightning.callbacks.curves.LossCurves}",
)


class _KeepLines(Callback):
    """Both losses of every line of the log."""

    def __init__(self) -> None:
        self.lines: dict[str, dict[int, float]] = {"discriminator": {}, "generator": {}}

    def on_train_batch_end(self, trainer: Trainer, module: GAN, *_: Any) -> None:
        for network, points in self.lines.items():
            if module.log_step > 0:
                points[module.log_step] = module.log_line[f"loss/{network}"]


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, float]]:
    """What matplotlib is given to plot, by label; the last picture's."""
    curves: dict[str, dict[int, float]] = {}
    plot = Axes.plot

    def spy(self: Axes, x: Any, y: Any, **options: Any) -> Any:
        curves[options["label"]] = dict(zip(x, y, strict=True))
        return plot(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    return curves


def has_curves(path: Path) -> bool:
    """Whether the picture has many pixels in each of matplotlib's first two colors."""
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return all((pixels == color).all(1).sum() > 100 for color in ([0x1F, 0x77, 0xB4], [0xFF, 0x7F, 0x0E]))


def test_loss_curves_go_on_after_a_resume(configure: Configure, tmp_path: Path, plotted: dict[str, Any]) -> None:
    run, seen = tmp_path / "run", _KeepLines()
    training.train(configure(*TINY, "data.rounds_per_batch=5", "trainer.max_steps=40"), run, [seen])
    assert has_curves(run / "losses.png")
    assert list(plotted["generator"]) == list(range(5, 45, 5))
    (run / "losses.png").unlink()
    training.train(resumption.resume(str(run), ["trainer.max_steps=80"]), run, [seen])
    assert has_curves(run / "losses.png")
    assert list(seen.lines["generator"]) == list(range(5, 85, 5))
    for network, points in seen.lines.items():
        assert plotted[network] == pytest.approx(points, rel=1e-6)


@pytest.mark.parametrize("log_every_n_steps", [2, 100])
def test_loss_curves_need_no_logger_but_a_line_of_the_log(
    tmp_path: Path, plotted: dict[str, Any], log_every_n_steps: int
) -> None:
    seen, data = _KeepLines(), GivenData(plane_rounds(4), 4)
    options = {"log_every_n_steps": log_every_n_steps, "default_root_dir": tmp_path}
    fit(small_gan(), data, 4, callbacks=[LossCurves(), seen], **options)
    assert plotted == {network: points for network, points in seen.lines.items() if points}
    assert (tmp_path / "losses.png").exists() == (log_every_n_steps == 2)
    assert list(seen.lines["generator"]) == ([2, 4] if log_every_n_steps == 2 else [])


# -------------------------------------------------------------------------------------------------------- animation


def colored(folder: Path, n: int) -> list[Path]:
    """n pictures, each with a field of a color of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(n):
        pixels = np.full((24, 32, 3), 255, dtype=np.uint8)
        pixels[4:20, 4:28] = (10 * i, 255 - 10 * i, 100)
        paths.append(folder / f"{i:07d}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def frames(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Every frame's pixels and its milliseconds, of an endless film."""
    pixels, durations = [], []
    with Image.open(path) as film:
        assert film.n_frames == 1 or film.info["loop"] == 0
        for i in range(film.n_frames):
            film.seek(i)
            pixels.append(np.asarray(film.convert("RGB")).astype(int))
            durations.append(film.info["duration"])
    return pixels, durations


def same_picture(frame: np.ndarray, path: Path) -> bool:
    """Equal but for the rounding of a palette; neighbors of ``colored`` differ by 10."""
    return bool(np.abs(frame - np.asarray(Image.open(path).convert("RGB")).astype(int)).max() <= 4)


@pytest.mark.parametrize(("pictures", "most", "kept"), [(7, 60, 7), (20, 5, 5), (20, 20, 20), (3, 2, 2)])
def test_a_film_has_first_and_last_and_even_steps_between(tmp_path: Path, pictures: int, most: int, kept: int) -> None:
    paths = colored(tmp_path / "samples", pictures)
    animate(paths, tmp_path / "film.gif", most, seconds=2.0)
    pixels, durations = frames(tmp_path / "film.gif")
    assert len(pixels) == kept
    assert same_picture(pixels[0], paths[0])
    assert same_picture(pixels[-1], paths[-1])
    shown = [next(i for i, path in enumerate(paths) if same_picture(frame, path)) for frame in pixels]
    assert set(np.diff(shown)) <= {math.floor((pictures - 1) / (kept - 1)), math.ceil((pictures - 1) / (kept - 1))}
    # a GIF counts hundredths of a second
    assert durations == pytest.approx([2000 / kept] * (kept - 1) + [1500], abs=10)


def test_one_picture_is_a_film_too(tmp_path: Path) -> None:
    paths = colored(tmp_path, 1)
    animate(paths, tmp_path / "film.gif", 60, seconds=6.0)
    pixels, _ = frames(tmp_path / "film.gif")
    assert len(pixels) == 1
    assert same_picture(pixels[0], paths[0])


def test_a_run_ends_with_its_film(tmp_path: Path) -> None:
    callbacks = [SamplePictures(4, n=16), Animation(frames=3, seconds=0.3)]
    fit(small_gan(), GivenData(plane_rounds(12), 4), 12, callbacks=callbacks, default_root_dir=tmp_path)
    pictures = sorted((tmp_path / "samples").glob("*.png"))
    assert [int(path.stem) for path in pictures] == [0, 4, 8, 12]
    pixels, _ = frames(tmp_path / "samples.gif")
    assert len(pixels) == 3
    for frame, path in zip((pixels[0], pixels[-1]), (pictures[0], pictures[-1]), strict=True):
        distance = np.abs(frame - np.asarray(Image.open(path).convert("RGB")).astype(int))
        other = np.abs(frame - np.asarray(Image.open(pictures[2]).convert("RGB")).astype(int))
        assert distance.mean() < 1.0
        assert distance.mean() < 0.5 * other.mean()


def test_no_film_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / ".0000004.123.png").write_bytes(b"half of a picture, from a killed process")
    fit(small_gan(), GivenData(plane_rounds(2), 4), 2, callbacks=[Animation()], default_root_dir=tmp_path)
    assert not list(tmp_path.rglob("*.gif"))


# -------------------------------------------------------------------------------------------------- printed samples


def bits_gan() -> GAN:
    generator = nn.Sequential(nn.Linear(4, 7), nn.Sigmoid())
    discriminator = nn.Sequential(nn.Linear(7, 1), nn.Flatten(0))
    return GAN(Game(generator, discriminator, priors.Bernoulli(4)), SGD, SGD)


def even_integers(rounds_per_batch: int = 1) -> EvenIntegers:
    return EvenIntegers(128, 8, rounds_per_epoch=100, validation_samples=50, rounds_per_batch=rounds_per_batch)


def printed(text: str) -> dict[int, list[int]]:
    """Step to integers, each step at most once."""
    lines = [line.split(": ") for line in text.splitlines() if line.strip()]
    steps = {int(step): [int(number) for number in numbers.strip("[]").split(", ")] for step, numbers in lines}
    assert len(steps) == len(lines)
    return steps


@pytest.mark.parametrize(
    ("asked", "rounds_per_batch", "steps"),
    [
        ([0], 1, [0, 12]),
        ([], 1, [12]),
        ([7, 3], 1, [3, 7, 12]),
        ([0, 1, 12], 1, [0, 1, 12]),
        ([0, 5], 4, [0, 8, 12]),  # step 5 is inside the second batch
        ([1, 2, 3, 9, 10], 4, [4, 12]),
        ([100], 4, [12]),
    ],
)
def test_samples_are_printed_once_at_each_step(
    capsys: pytest.CaptureFixture[str], asked: list[int], rounds_per_batch: int, steps: list[int]
) -> None:
    fit(bits_gan(), even_integers(rounds_per_batch), 12, callbacks=[PrintSamples(asked, samples=6)], **QUIET)
    said = printed(capsys.readouterr().out)
    assert list(said) == steps
    assert all(len(numbers) == 6 for numbers in said.values())


def test_a_resumed_run_does_not_print_its_first_step_again(capsys: pytest.CaptureFixture[str]) -> None:
    printing = PrintSamples([5, 6])
    printing.on_train_start(SimpleNamespace(global_step=5), bits_gan())
    printing.on_train_end(SimpleNamespace(global_step=5), bits_gan())
    assert capsys.readouterr().out == ""


def test_the_generators_integers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    gan = bits_gan()
    fit(gan, even_integers(), 5, callbacks=[PrintSamples([0], samples=20)], **QUIET)
    said = printed(capsys.readouterr().out)[5]
    latents = torch.randint(2, (20, 4), generator=torch.Generator().manual_seed(5)).float()
    bits = (gan.game.generator(latents) >= 0.5).int().tolist()
    assert said == [int("".join(map(str, row)), 2) for row in bits]
    assert len(set(said)) > 1


# -------------------------------------------------------------------------------------------------------- diagnoses

RANK_ZERO = SimpleNamespace(is_global_zero=True)


def findings(gan: GAN, data: Synthetic, steps: int, lines: int, *others: Callback) -> list[str]:
    """What Diagnosis warns of in a run with a line of the log at every other step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        fit(gan, data, steps, callbacks=[Diagnosis(lines), *others], log_every_n_steps=2, **QUIET)
    return [str(w.message) for w in caught if "Common remedies" in str(w.message)]


def strong_discriminator(loss: losses.Loss) -> GAN:
    """D learns fast, on data far from G's samples, and G hardly."""
    adam = partial(torch.optim.Adam, lr=0.05)
    return line_gan(
        loss=loss, generator_optimizer=partial(torch.optim.SGD, lr=1e-4), discriminator_optimizer=adam, critic_steps=2
    )


def test_a_perfect_discriminator_and_a_vanished_gradient_are_told_once_each() -> None:
    said = findings(strong_discriminator(losses.Minimax()), line_data(gaussian(6.0, 0.3)), 150, lines=10)
    assert len(said) == 2
    (perfect,) = [text for text in said if "discriminator has been right on 100.0%" in text]
    assert "for 10 log lines, at step " in perfect
    (vanished,) = [text for text in said if "generator's gradient has almost vanished" in text]
    assert "loss=non_saturating" in vanished


def test_no_gradient_vanishes_with_non_saturating() -> None:
    said = findings(strong_discriminator(losses.NonSaturating()), line_data(gaussian(6.0, 0.3)), 150, lines=10)
    assert len(said) == 1
    assert "discriminator has been right" in said[0]


def test_fewer_perfect_lines_than_asked_are_no_finding() -> None:
    said = findings(strong_discriminator(losses.NonSaturating()), line_data(gaussian(6.0, 0.3)), 38, lines=20)
    assert said == []


class _Gradients(Callback):
    """The generator's gradient norms, as the log has them."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: GAN, *_: Any) -> None:
        if module.log_step == trainer.global_step:
            self.norms.append(module.log_line["gradient_norm/generator"])


@pytest.mark.parametrize("loss", [losses.Minimax, losses.NonSaturating])
def test_a_run_at_the_equilibrium_is_healthy(loss: type[losses.Loss]) -> None:
    """G makes what the data is and stays. D, steep at first, falls to 1/2, and G's gradient below a hundredth."""
    gan = line_gan(loss=loss(), generator_optimizer=STILL)
    nn.init.ones_(gan.game.generator.weight)
    nn.init.zeros_(gan.game.generator.bias)
    nn.init.constant_(gan.game.discriminator[0].weight, 1.0)
    nn.init.constant_(gan.game.discriminator[2].weight, 0.5)
    seen = _Gradients()
    assert findings(gan, line_data(gaussian(), batch_size=256), 200, 10, seen) == []
    assert min(seen.norms) < 0.01 * max(seen.norms)


def test_a_perfect_streak_must_be_unbroken() -> None:
    """A line counts once however many batches pass before the next."""
    diagnosis, gan = Diagnosis(lines=3), small_gan()
    accuracies = [1.0, 1.0, 0.99, 0.995, 1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step, accuracy in enumerate(accuracies):
            gan.log_step = step
            gan.log_line = {"discriminator/accuracy": accuracy, "gradient_norm/generator": 1.0}
            for _ in range(4):
                diagnosis.on_train_batch_end(RANK_ZERO, gan, None, None, 0)
    gan.log_step = 5
    with pytest.warns(UserWarning, match=r"right on 100\.0% of samples for 3 log lines, at step 5\."):
        diagnosis.on_train_batch_end(RANK_ZERO, gan, None, None, 0)


def observe(diagnosis: Diagnosis, gan: GAN, step: int, trainer: SimpleNamespace = RANK_ZERO) -> list[str]:
    """What it tells of one line of the log with a perfect discriminator."""
    gan.log_step, gan.log_line = step, {"discriminator/accuracy": 1.0, "gradient_norm/generator": 1.0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        diagnosis.on_train_batch_end(trainer, gan, None, None, 0)
    return [str(w.message) for w in caught]


def test_a_streak_goes_on_in_a_resumed_run_and_is_told_once() -> None:
    first, gan = Diagnosis(lines=3), small_gan()
    assert observe(first, gan, 1) == observe(first, gan, 2) == []
    resumed = Diagnosis(lines=3)
    resumed.load_state_dict(first.state_dict())
    resumed.on_train_batch_end(RANK_ZERO, small_gan(), None, None, 0)  # before its first line of the log
    assert observe(resumed, gan, 2) == []  # the line that the checkpoint had counted
    assert len(observe(resumed, gan, 3)) == 1
    again = Diagnosis(lines=3)
    again.load_state_dict(resumed.state_dict() | {"perfect": 2})
    assert observe(again, gan, 4) == []


def test_only_the_first_process_tells() -> None:
    assert observe(Diagnosis(lines=1), small_gan(), 1, SimpleNamespace(is_global_zero=False)) == []


@pytest.mark.parametrize("loss", [losses.Wasserstein, losses.Relativistic])
def test_no_logit_is_right_or_wrong_where_only_differences_count(loss: type[losses.Loss]) -> None:
    real, fake = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shifted = loss().discriminator(real_logits=real + 7, fake_logits=fake + 7)
    assert_close(shifted, loss().discriminator(real_logits=real, fake_logits=fake))
    assert observe(Diagnosis(lines=1), small_gan(loss=loss()), 1) == []


# --------------------------------------------------------------------------------------------- optimal discriminator


def silverman(samples: np.ndarray) -> stats.gaussian_kde:
    """scipy's estimate, with the bandwidth of Silverman 1986, equation 3.31."""
    spread = min(samples.std(ddof=1), np.subtract(*np.quantile(samples, [0.75, 0.25])) / 1.34)
    return stats.gaussian_kde(samples, 0.9 * spread * len(samples) ** -0.2 / samples.std(ddof=1))


@pytest.mark.parametrize("shape", ["normal", "modes", "heavy"])
def test_the_kernel_density_is_scipys(shape: str) -> None:
    rng = np.random.default_rng(3)
    samples = {
        "normal": rng.normal(1.0, 2.0, 500),
        "modes": np.concatenate([rng.normal(-3, 0.5, 300), rng.normal(3, 0.5, 300)]),
        "heavy": rng.standard_t(3, 400),  # its quartiles are nearer than its standard deviation says
    }[shape]
    x = np.linspace(samples.min() - 5, samples.max() + 5, 2001)
    density = kernel_density(torch.from_numpy(samples).float(), torch.from_numpy(x).float()).numpy()
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(density, silverman(samples)(x), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [-2.0, 0.30001, 2.0])
def test_the_density_of_a_collapsed_generator_is_a_visible_peak(value: float) -> None:
    x = torch.linspace(-2.0, 2.0, 500)
    density = kernel_density(torch.full((100,), value), x)
    assert x[density.argmax()].item() == pytest.approx(value, abs=0.005)
    inside = 0.5 if abs(value) == 2.0 else 1.0  # of the mass; at an end of x, half of a kernel
    assert np.trapezoid(density, x) == pytest.approx(inside, abs=0.02)


@pytest.mark.parametrize(
    ("rounds_per_batch", "every", "expected"),
    [(1, 5, [5, 10, 12]), (4, 5, [8, 12]), (1, 6, [6, 12]), (1, 100, [12])],
)
def test_discriminators_are_drawn_at_the_steps(
    tmp_path: Path, rounds_per_batch: int, every: int, expected: list[int]
) -> None:
    log = _KeepLog()
    data = line_data(gaussian(), rounds_per_batch=rounds_per_batch)
    callbacks = [OptimalDiscriminator(every, samples=100)]
    fit(line_gan(), data, 12, callbacks=callbacks, default_root_dir=tmp_path, logger=log, **QUIET)
    pictures = sorted((tmp_path / "discriminator").glob("*.png"))
    assert [int(path.stem) for path in pictures] == expected
    assert list(log.lines["theory/discriminator_gap"]) == expected
    for path in pictures:
        assert np.asarray(Image.open(path)).std() > 10


def gap_by_hand(gan: GAN, generator: nn.Module, step: int) -> float:
    """E_{p_data} |D - D*| on a fine grid, of 2,000 samples and a mixture of two."""
    latents = torch.randn(2000, 1, generator=torch.Generator().manual_seed(step))
    x = np.linspace(-15, 15, 6001)
    p_data = (stats.norm(-2, 0.5).pdf(x) + stats.norm(1, 1).pdf(x)) / 2
    with torch.no_grad():
        p_g = silverman(generator(latents)[:, 0].double().numpy())(x)
        logits = gan.game.discriminator(torch.from_numpy(x).float()[:, None]).double().numpy()
    gap = np.abs(1 / (1 + np.exp(-logits)) - p_data / (p_data + p_g + 1e-12))
    return np.trapezoid(p_data * gap, x)


def test_the_logged_gap_is_that_of_the_trained_generator(tmp_path: Path) -> None:
    """Not of the average, and not of the generator of another step."""
    log = _KeepLog()
    truth = mixture([-2.0, 1.0], [0.5, 1.0])
    callbacks = [OptimalDiscriminator(1000, samples=2000)]
    gan = line_gan(ema_decay=0.999, ema_warmup=False, generator_optimizer=partial(torch.optim.SGD, lr=0.2))
    nn.init.ones_(gan.game.generator.weight)
    nn.init.constant_(gan.game.generator.bias, 2.0)
    start = copy.deepcopy(gan.game.generator)
    fit(gan, line_data(truth), 30, callbacks=callbacks, default_root_dir=tmp_path, logger=log, **QUIET)
    expected = gap_by_hand(gan, gan.game.generator, 30)
    assert abs(expected - gap_by_hand(gan, start, 30)) > 0.01
    assert abs(expected - gap_by_hand(gan, gan, 30)) > 0.01
    assert log.lines["theory/discriminator_gap"][30] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("loss", [losses.LeastSquares, losses.Wasserstein, losses.Hinge, losses.Relativistic])
def test_nothing_is_drawn_where_d_is_no_probability(tmp_path: Path, loss: type[losses.Loss]) -> None:
    log, gan = _KeepLog(), line_gan(loss=loss())
    callbacks = [OptimalDiscriminator(2, samples=50)]
    fit(gan, line_data(gaussian()), 4, callbacks=callbacks, default_root_dir=tmp_path, logger=log, **QUIET)
    assert not list(tmp_path.iterdir())
    assert "theory/discriminator_gap" not in log.lines


def test_smoothed_labels_move_the_optimum(tmp_path: Path) -> None:
    """G makes the data's distribution, and D says half of its target everywhere: no gap but the density's error."""
    log, gan = _KeepLog(), line_gan(losses.NonSaturating(0.2), generator_optimizer=STILL, discriminator_optimizer=STILL)
    with torch.no_grad():
        for weight, value in zip(gan.game.generator.parameters(), (1.0, 0.0), strict=True):
            weight.fill_(value)
        for weight in gan.game.discriminator.parameters():
            weight.zero_()
        gan.game.discriminator[2].bias.fill_(math.log(0.4 / 0.6))
    callbacks = [OptimalDiscriminator(2)]
    fit(gan, line_data(gaussian()), 2, callbacks=callbacks, default_root_dir=tmp_path, logger=log, **QUIET)
    assert log.lines["theory/discriminator_gap"][2] < 0.01


def test_the_gap_is_that_of_the_games_first_output(tmp_path: Path) -> None:
    """SAN's discriminator gives a second one, its direction."""
    log, plain = _KeepLog(), line_gan()
    parts = copy.deepcopy((plain.game.generator, plain.game.discriminator[:3]))
    gan = GAN(SAN(*parts, priors.Normal(1)), SGD, SGD)
    callbacks = [OptimalDiscriminator(2, samples=50)]
    fit(gan, line_data(gaussian()), 2, callbacks=callbacks, default_root_dir=tmp_path, logger=log, **QUIET)
    assert 0 < log.lines["theory/discriminator_gap"][2] < 1


class _OfPairs(Game):
    judges_pairs = True


def test_nothing_is_drawn_where_d_judges_pairs(tmp_path: Path) -> None:
    gan = GAN(_OfPairs(*line_gan().game.children()), SGD, SGD)
    callbacks = [OptimalDiscriminator(2, samples=50)]
    fit(gan, line_data(gaussian()), 2, callbacks=callbacks, default_root_dir=tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


def test_nothing_is_drawn_in_the_plane(tmp_path: Path) -> None:
    callbacks = [OptimalDiscriminator(2, samples=50)]
    fit(small_gan(), GivenData(plane_rounds(4), 4), 4, callbacks=callbacks, default_root_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_discriminators_are_drawn_in_every_precision(tmp_path: Path, precision: str) -> None:
    log = _KeepLog()
    callbacks = [OptimalDiscriminator(2, samples=50)]
    options = {"callbacks": callbacks, "logger": log, "precision": precision}
    fit(line_gan(), line_data(gaussian()), 2, default_root_dir=tmp_path, **options, **QUIET)
    assert 0 < log.lines["theory/discriminator_gap"][2] < 1


def test_a_diverged_generator_is_left_to_the_log(tmp_path: Path) -> None:
    gan = line_gan(generator_optimizer=partial(torch.optim.SGD, lr=float("inf")))
    callbacks = [OptimalDiscriminator(1, samples=50)]
    with pytest.raises(Diverged):
        fit(
            gan, line_data(gaussian()), 10, callbacks=callbacks, default_root_dir=tmp_path, log_every_n_steps=5, **QUIET
        )
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Animation(frames=0), "frames is 0: give a whole number, at least 1."),
        (lambda: Animation(seconds=0.0), "seconds is 0.0: give a number above 0."),
        (lambda: Diagnosis(lines=0), "lines is 0: give a whole number, at least 1."),
        (lambda: OptimalDiscriminator(samples=1), "samples is 1: give a whole number, at least 2."),
    ],
)
def test_numbers_that_nothing_can_be_made_of_are_refused(make: Callable[[], Callback], sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        make()


def test_a_step_that_a_gradient_scaler_skips_is_no_measure_of_later_gradients() -> None:
    diagnosis, gan = Diagnosis(), small_gan()
    for step, gradient in enumerate((math.inf, 1.0)):
        gan.log_step, gan.log_line = step, {"discriminator/accuracy": 0.96, "gradient_norm/generator": gradient}
        diagnosis.on_train_batch_end(RANK_ZERO, gan, None, None, 0)  # no warning, which would be an error
