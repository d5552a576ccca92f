"""What TensorBoard shows of a run: which curves, on which axis, and whether the numbers are true."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GivenData, fit, small_gan
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch.testing import assert_close

from gan_lightning import losses
from gan_lightning.gan import GAN
from gan_lightning.streams import Streams
from gan_lightning.training import train

Configure = Callable[..., DictConfig]
N = 8
TINY = (
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.max_steps=40",
    "trainer.log_every_n_steps=5",
    "data=ring",
    "data.batch_size=16",
    "data.rounds_per_epoch=20",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "callbacks.samples.n=16",
    "callbacks.samples.every_n_steps=20",
)
OF_THE_LINE = {
    "loss/discriminator",
    "loss/generator",
    "discriminator/real",
    "discriminator/fake",
    "discriminator/accuracy",
    "loss/discriminator/adversarial",
    "loss/generator/adversarial",
    "gradient_norm/discriminator",
    "gradient_norm/generator",
    "learning_rate/discriminator",
    "learning_rate/generator",
}


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def curve(folder: Path, tag: str) -> dict[int, float]:
    read = [(event.step, event.value) for event in events(folder).Scalars(tag)]
    assert len(dict(read)) == len(read), f"{tag} has two values at one step"
    return dict(read)


def rounds(n: int, samples: int = N) -> Tensor:
    return torch.randn(n, samples, 2, generator=torch.Generator().manual_seed(7), dtype=torch.double)


def logged(folder: Path, gan: GAN, data: GivenData, steps: int, **options: Any) -> dict[str, dict[int, float]]:
    """Every curve of a small run."""
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    fit(gan, data, steps, logger=logger, **{"log_every_n_steps": 1} | options)
    return {tag: curve(folder, tag) for tag in events(folder).Tags()["scalars"]}


def norm(gradients: tuple[Tensor, ...]) -> float:
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


# ------------------------------------------------------------------------------------------------- tags and axis


@pytest.mark.parametrize("critic_steps", [1, 5])
@pytest.mark.parametrize("rounds_per_batch", [1, 10])
def test_every_curve_is_there_on_the_axis_of_generator_updates(
    configure: Configure, tmp_path: Path, critic_steps: int, rounds_per_batch: int
) -> None:
    config = configure(*TINY, f"model.critic_steps={critic_steps}", f"data.rounds_per_batch={rounds_per_batch}")
    metrics = train(config, tmp_path)
    tags = events(tmp_path).Tags()
    others = {tag for tag in tags["scalars"] if not tag.startswith("val/")}
    assert others == OF_THE_LINE | {"images_per_second"}
    assert set(tags["scalars"]) - others >= set(metrics) > set()
    for tag in OF_THE_LINE:
        assert list(curve(tmp_path, tag)) == list(range(5, 41, 5)), tag
    for name, value in metrics.items():
        values = curve(tmp_path, name)
        assert list(values) == [20, 40], name
        assert values[40] == pytest.approx(value, rel=1e-6, nan_ok=True)
    speed = curve(tmp_path, "images_per_second")
    every = max(5, rounds_per_batch)
    assert list(speed) == list(range(every, 41, every))
    assert all(value > 0 for value in speed.values())
    assert sorted(tags["images"]) == ["real", "samples"]
    assert [image.step for image in events(tmp_path).Images("samples")] == [0, 20, 40]


def test_there_is_no_placeholder_metric_and_the_options_are_there_once(configure: Configure, tmp_path: Path) -> None:
    config = configure(*TINY, "generator_optimizer.lr=0.0125", "seed=3")
    metrics = train(config, tmp_path, options={"model": "points", "data.batch_size": 16})
    read = events(tmp_path)
    tags = {tag for kind in read.Tags().values() if isinstance(kind, list) for tag in kind}
    assert not {tag for tag in tags if "hp_metric" in tag or "epoch" in tag}
    contents = {
        tag: HParamsPluginData.FromString(content) for tag, content in read.PluginTagToContent("hparams").items()
    }
    assert sorted(tag.rsplit("/", 1)[-1] for tag in contents) == [
        "experiment",
        "session_end_info",
        "session_start_info",
    ]
    (start,) = (c.session_start_info.hparams for c in contents.values() if c.HasField("session_start_info"))
    assert {name: start[name].number_value for name in start if start[name].WhichOneof("kind") == "number_value"} == {
        "seed": 3,
        "generator_optimizer.lr": 0.0125,
        "discriminator_optimizer.lr": 0.001,
        "data.batch_size": 16,
    }
    assert start["model"].string_value == "points"
    (experiment,) = (c.experiment for c in contents.values() if c.HasField("experiment"))
    shown = {metric.name.tag for metric in experiment.metric_infos}
    assert shown == set(metrics) > {"val/reverse_kl", "val/modes"}
    assert shown <= set(read.Tags()["scalars"])  # the HPARAMS tab shows curves that exist


def test_without_a_logger_nothing_is_written(configure: Configure, tmp_path: Path) -> None:
    train(configure(*TINY, "logger=none"), tmp_path)
    assert not list(tmp_path.rglob("*tfevents*"))


# ------------------------------------------------------------------------------------------------- true numbers


@pytest.mark.parametrize("rounds_per_batch", [1, 4, 10])
def test_logged_losses_are_the_means_of_the_rounds_since_the_last_line(tmp_path: Path, rounds_per_batch: int) -> None:
    torch.manual_seed(3)
    each = logged(tmp_path / "each", small_gan(), GivenData(rounds(20), N, 1), 20)
    torch.manual_seed(3)
    data = GivenData(rounds(20), N, rounds_per_batch)
    fifth = logged(tmp_path / "fifth", small_gan(), data, 20, log_every_n_steps=5)
    losses_ = {tag for tag in OF_THE_LINE if tag.startswith("loss/")}
    for tag in losses_:
        assert len(set(each[tag].values())) == 20
        expected = {end: sum(each[tag][step] for step in range(end - 4, end + 1)) / 5 for end in (5, 10, 15, 20)}
        assert fifth[tag] == pytest.approx(expected, rel=1e-5), tag
    for tag in OF_THE_LINE - losses_:
        assert fifth[tag] == pytest.approx({step: each[tag][step] for step in (5, 10, 15, 20)}, rel=1e-5), tag


CASES = {
    losses.NonSaturating: (
        lambda r, f: (softplus(-r) + softplus(f)).mean(),
        lambda f: softplus(-f).mean(),
        torch.sigmoid,
        0.5,
    ),
    losses.LeastSquares: (
        lambda r, f: (((r - 1) ** 2 + f**2) / 2).mean(),
        lambda f: ((f - 1) ** 2 / 2).mean(),
        lambda logits: logits,
        0.5,
    ),
    losses.Hinge: (
        lambda r, f: (relu(1 - r) + relu(1 + f)).mean(),
        lambda f: -f.mean(),
        lambda logits: logits,
        0.0,
    ),
}


@pytest.mark.parametrize("loss", list(CASES))
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_a_line_is_what_its_round_was(tmp_path: Path, loss: type[losses.Loss], clip: float | None) -> None:
    """One round by hand: outputs and gradients before the step and before clipping."""
    loss_d, loss_g, output, half = CASES[loss]
    gan = small_gan(loss=loss(), gradient_clip_val=clip)
    real = rounds(1)[0]
    streams = Streams(torch.initial_seed(), 0, 1, gan.device)
    streams.begin(0)
    noise = streams.generator
    g, d = gan.game.generator, gan.game.discriminator
    fake = g(torch.randn(N, 3, generator=noise).double()).detach()
    outputs = output(d(real)), output(d(fake))
    right = (outputs[0] > half).double().mean() / 2 + (outputs[1] <= half).double().mean() / 2
    of_d = loss_d(d(real), d(fake))
    slopes = torch.autograd.grad(of_d, list(d.parameters()))
    scale = min(1.0, clip / norm(slopes)) if clip else 1.0
    stepped = {n: w - 0.1 * scale * s for (n, w), s in zip(d.named_parameters(), slopes, strict=True)}
    second = g(torch.randn(N, 3, generator=noise).double())
    of_g = loss_g(torch.func.functional_call(d, stepped, (second,)))
    expected = {
        "loss/discriminator": of_d,
        "loss/generator": of_g,
        "loss/discriminator/adversarial": of_d,
        "loss/generator/adversarial": of_g,
        "discriminator/real": outputs[0].mean(),
        "discriminator/fake": outputs[1].mean(),
        "discriminator/accuracy": right,
        "gradient_norm/discriminator": torch.tensor(norm(slopes)),
        "gradient_norm/generator": torch.tensor(norm(torch.autograd.grad(of_g, list(g.parameters())))),
    }
    curves = logged(tmp_path, gan, GivenData(real[None], N), 1)
    for tag, value in expected.items():
        assert_close(curves[tag][1], value.item(), rtol=2e-4 if clip else 1e-5, atol=1e-7, msg=tag)


def test_accuracy_counts_both_kinds_of_mistakes(tmp_path: Path) -> None:
    """D's logit is the first coordinate: three of eight real ones and no sample of G's are above zero."""
    real = torch.tensor([1.0, 2.0, 3.0, -1.0, -2.0, -3.0, -4.0, -5.0], dtype=torch.double)
    gan = small_gan(discriminator_optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    gan.game.discriminator = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0)).double()
    with torch.no_grad():
        gan.game.discriminator[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        gan.game.generator[2].weight.zero_()
        gan.game.generator[2].bias.fill_(-1.0)
    curves = logged(tmp_path, gan, GivenData(torch.stack([real, real], 1)[None], N), 1)
    assert curves["discriminator/accuracy"][1] == (3 / 8 + 1) / 2


def test_learning_rates_are_those_of_the_schedule(tmp_path: Path) -> None:
    """A rate that falls by a tenth of itself each step; a line shows the rate after its step, for the next one."""

    def falling(optimizer: torch.optim.Optimizer, _: int) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)

    gan = small_gan(schedule=falling, critic_steps=2)
    gan.discriminator_optimizer = lambda p: torch.optim.SGD(p, lr=0.4)
    curves = logged(tmp_path, gan, GivenData(rounds(3, 2 * N), N), 3)
    for tag, lr in (("learning_rate/generator", 0.1), ("learning_rate/discriminator", 0.4)):
        assert curves[tag] == pytest.approx({step: lr * 0.9**step for step in (1, 2, 3)})
