"""A run that was stopped and resumed is, bit for bit, the run that never was."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan_lightning import resumption, training
from gan_lightning.errors import UsageError

TINY = ("trainer.log_every_n_steps=7", "callbacks.samples.every_n_steps=40", "model.generator.widths=[16]")
RING = (
    *TINY,
    "data=ring",
    "data.rounds_per_epoch=40",
    "data.rounds_per_batch=10",
    "data.batch_size=16",
    "data.validation_samples=100",
    "model.discriminator.widths=[16]",
    "model.critic_steps=2",
    "schedule=linear",
    "regularizer=[r1,gradient_penalty]",  # the second draws random numbers of its own
)
Configure = Callable[..., DictConfig]


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_state(a: Any, b: Any, where: str = "") -> None:
    """Two checkpoints agree in every tensor and number, but for clocks, names of files and the configured length."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds", "config", "loops", "marks"}:
            assert_same_state(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run, but for speeds."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "images_per_second"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def in_parts(configure: Configure, folder: Path, overrides: tuple[str, ...], stops: list[int]) -> None:
    """Train to each stop in turn, every time from the checkpoint of the one before."""
    folder.mkdir()
    training.train(configure(*overrides, f"trainer.max_steps={stops[0]}"), folder)
    for stop in stops[1:]:
        training.train(resumption.resume(str(folder), [f"trainer.max_steps={stop}"]), folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 50 small pictures of noise."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for i in range(50):
        pixels = torch.randint(256, (28, 28), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:02}.png")
    return folder


# 100 ends within an epoch; 40 and 80 are ends of epochs
@pytest.mark.parametrize("stops", [[50, 100], [40, 100], [30, 40, 60, 80, 100]])
def test_parts_of_a_run_are_the_run(configure: Configure, tmp_path: Path, stops: list[int]) -> None:
    overrides = tuple(o for o in RING if o != "schedule=linear")  # a schedule depends on the length it was given
    in_parts(configure, tmp_path / "whole", overrides, [100])
    in_parts(configure, tmp_path / "parts", overrides, stops)
    assert_same_state(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))


def test_a_stop_within_a_batch_changes_no_weight(configure: Configure, tmp_path: Path) -> None:
    # a batch has ten rounds; later batches and epochs end where they would have ended
    overrides = tuple(o for o in RING if o != "schedule=linear")
    in_parts(configure, tmp_path / "whole", overrides, [100])
    in_parts(configure, tmp_path / "parts", overrides, [37, 43, 100])
    parts, whole = checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole")
    for key in ("state_dict", "optimizer_states", "gan", "global_step", "epoch"):
        assert_same_state(parts[key], whole[key])
    batches = "epoch_loop.batch_progress"
    assert_same_state(parts["loops"]["fit_loop"][batches], whole["loops"]["fit_loop"][batches])


def test_parts_of_a_run_whose_discriminator_is_constrained_are_the_run(configure: Configure, tmp_path: Path) -> None:
    """Spectral normalization, whose singular vectors are state, clipping, packs, and held-out samples beside packs."""
    overrides = (*(o for o in RING if o != "schedule=linear" and "regularizer" not in o), "~callbacks.samples")
    overrides += ("model.packing=2", "model.spectral_norm=true", "regularizer=[r1,dragan,weight_clipping]")
    overrides += ("data.validation_samples=63", "data.fixed_samples=100")
    in_parts(configure, tmp_path / "whole", overrides, [60])
    in_parts(configure, tmp_path / "parts", overrides, [25, 60])
    whole = checkpoint(tmp_path / "whole")
    assert_same_state(checkpoint(tmp_path / "parts"), whole)
    weight = "game.discriminator.layers.0.parametrizations.weight"
    assert whole["state_dict"][f"{weight}.0._u"].norm().item() == pytest.approx(1.0)
    assert whole["state_dict"][f"{weight}.original"].abs().max() <= 0.01 + 1e-8  # where it begins with up to 0.5


def of_pictures(folder: Path) -> tuple[str, ...]:
    data = ("data=image_folder", f"data.root={folder}", "data.size=28", "data.channels=1", "data.batch_size=8")
    return (*TINY, "model=mlp", *data, "model.discriminator.widths=[16]")


# of 40 rounds, in batches of 10; pictures take longer than the training
EPOCHS = (*(o for o in RING if o != "schedule=linear" and "samples" not in o), "~callbacks.samples")
ENDS = {
    "epoch": ["trainer.max_epochs=1"],
    "two epochs": ["trainer.max_epochs=2"],
    "mid-epoch": ["trainer.max_steps=50"],
    "mid-batch": ["trainer.max_steps=57"],
    "mid-batch, the epoch's last": ["trainer.max_steps=73"],
    "epoch's end by steps": ["trainer.max_steps=80"],
    "limited epochs": ["trainer.max_epochs=2", "trainer.limit_train_batches=3"],
    "one batch an epoch": ["trainer.max_epochs=1", "data.rounds_per_batch=40"],
    "short batches at epochs' ends": ["trainer.max_epochs=1", "data.rounds_per_batch=15"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[DictConfig], Path]:
    """The folder of a run of these options, each trained once."""
    done: dict[str, Path] = {}

    def run(config: DictConfig) -> Path:
        key = str(config)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("whole")
            training.train(config, done[key])
        return done[key]

    return run


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("longer", [["trainer.max_epochs=4"], ["trainer.max_steps=130"]], ids=["epochs", "steps"])
def test_every_end_and_extension_is_the_run(
    configure: Configure, tmp_path: Path, whole: Callable[[DictConfig], Path], end: str, longer: list[str]
) -> None:
    """Wherever a run ended, a longer one goes on as if it had not: weights, optimizers, losses and curves."""
    kept = [option for option in ENDS[end] if not option.startswith("trainer.max_")]
    complete = whole(configure(*EPOCHS, *kept, *longer))
    (tmp_path / "parts").mkdir()
    training.train(configure(*EPOCHS, *ENDS[end]), tmp_path / "parts")
    training.train(resumption.resume(str(tmp_path / "parts"), longer), tmp_path / "parts")
    parts, expected_state = checkpoint(tmp_path / "parts"), checkpoint(complete)
    assert expected_state["global_step"] in (130, 160, 120)
    for key in ("state_dict", "optimizer_states", "gan", "global_step", "epoch"):
        assert_same_state(parts[key], expected_state[key], key)
    logged, expected = scalars(tmp_path / "parts"), scalars(complete)
    if end.startswith("mid"):  # a run validates where it ends, which the whole one did not
        logged, expected = ({k: v for k, v in of.items() if not k.startswith("val/")} for of in (logged, expected))
    assert logged == expected


BURN_IN = (
    *(o for o in EPOCHS if not o.startswith("regularizer")),
    *("model.ema_warmup=false", "regularizer=r1", "trainer.limit_val_batches=0"),
    *("schedule=cosine", "schedule.steps=30", "schedule.final=0.25", "schedule.beta2=0.9"),
    "regularizer.r1.weight={_target_: gan_lightning.schedules.Ramp, initial: 1, final: 0.1, steps: 30}",
    "model.ema_decay={_target_: gan_lightning.schedules.HalfLife, images: "
    "{_target_: gan_lightning.schedules.Ramp, initial: 0, final: 500, steps: 30}}",
)


def test_a_burn_in_goes_on_in_its_middle(configure: Configure, tmp_path: Path) -> None:
    """Rates, betas, penalties and the average, of which nothing is saved but where they are."""
    in_parts(configure, tmp_path / "whole", BURN_IN, [40])
    in_parts(configure, tmp_path / "parts", BURN_IN, [17, 40])
    assert_same_state(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
    logged = scalars(tmp_path / "parts")
    assert logged == scalars(tmp_path / "whole")
    assert {"ramp/regularizers.r1.weight", "ramp/average.decay.images", "beta2/generator"} <= logged.keys()


def test_the_probability_of_augmentation_goes_on_along_its_ramp(
    configure: Configure, tmp_path: Path, pictures: Path
) -> None:
    ramp = "{_target_: gan_lightning.schedules.Ramp, initial: 0, final: 0.8, steps: 15}"
    overrides = (*of_pictures(pictures), "augment=ada", "augment.target=null", f"augment.p={ramp}")
    in_parts(configure, tmp_path / "whole", overrides, [20])
    in_parts(configure, tmp_path / "parts", overrides, [9, 20])
    assert_same_state(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))
    logged = scalars(tmp_path / "parts")["ramp/augment.p"]
    assert logged == scalars(tmp_path / "whole")["ramp/augment.p"]
    assert 0 < logged[0][1] < logged[-1][1]
    longer = resumption.resume(str(tmp_path / "parts"), ["augment.p.steps=30", "trainer.max_steps=21"])
    training.train(longer, tmp_path / "parts")
    assert scalars(tmp_path / "parts")["ramp/augment.p"][-1] == (
        21,
        pytest.approx(0.4 * (1 - math.cos(math.pi * 2 / 3))),
    )


def test_another_end_of_a_burn_in_takes_effect(configure: Configure, tmp_path: Path) -> None:
    """From the resumed step on, as if it had always been meant."""
    changes = ["schedule.beta2=0.8", "schedule.final=0.5", "regularizer.r1.weight.final=0.5"]
    changes += ["model.ema_decay.images.final=200"]
    in_parts(configure, tmp_path / "meant", (*BURN_IN, *changes), [40])
    in_parts(configure, tmp_path / "run", BURN_IN, [20])
    training.train(resumption.resume(str(tmp_path / "run"), [*changes, "trainer.max_steps=40"]), tmp_path / "run")
    run, meant = (scalars(tmp_path / name) for name in ("run", "meant"))
    ramps = ("ramp/regularizers.r1.weight", "ramp/average.decay.images")
    for name in (*ramps, "beta2/discriminator", "learning_rate/generator"):
        assert [point for point in run[name] if point[0] > 20] == [point for point in meant[name] if point[0] > 20]
        assert [point for point in run[name] if point[0] < 20] != [point for point in meant[name] if point[0] < 20]


@pytest.mark.parametrize("memory_limit", ["1.0", "1.0e-9"])  # one tensor, worker processes
def test_images_resume_within_an_epoch(configure: Configure, tmp_path: Path, pictures: Path, memory_limit: str) -> None:
    overrides = (
        *of_pictures(pictures),
        "data.horizontal_flips=true",
        f"data.memory_limit={memory_limit}",
        "data.workers=1",
        f"data.cache={tmp_path}/cache",
    )
    in_parts(configure, tmp_path / "whole", overrides, [20])
    in_parts(configure, tmp_path / "parts", overrides, [9, 12, 20])
    assert_same_state(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))


def test_a_run_killed_before_its_first_checkpoint_starts_again(configure: Configure, tmp_path: Path) -> None:
    in_parts(configure, tmp_path / "whole", RING, [20])
    run = tmp_path / "run"
    in_parts(configure, run, RING, [20])
    (run / "checkpoints" / "last.ckpt").rename(run / "checkpoints" / ".last.9999999.ckpt")  # half written
    (run / "metrics.json").unlink()
    beside = [run / ".config.9999999.yaml", run / "samples" / ".0000020.9999999.png"]
    for path in beside:
        path.touch()
    training.train(resumption.resume(str(run), []), run)
    assert_same_state(checkpoint(run), checkpoint(tmp_path / "whole"))
    assert not list((run / "checkpoints").glob(".*"))
    assert not any(path.exists() for path in beside)


def test_validation_does_not_move_training(configure: Configure, tmp_path: Path) -> None:
    in_parts(configure, tmp_path / "with", RING, [80])
    in_parts(configure, tmp_path / "without", (*RING, "trainer.limit_val_batches=0"), [80])
    with_, without = checkpoint(tmp_path / "with"), checkpoint(tmp_path / "without")
    assert_same_state(with_["state_dict"], without["state_dict"])


def test_resume_of_another_architecture_is_refused(configure: Configure, tmp_path: Path) -> None:
    in_parts(configure, tmp_path / "run", RING, [10])
    changed = resumption.resume(str(tmp_path / "run"), ["trainer.max_steps=20"])
    changed.model.generator.widths = [8]
    with pytest.raises(UsageError, match=r"another architecture: its average.* is \(16,\) .* \(8,\)"):
        training.train(changed, tmp_path / "run")


def test_resume_of_a_broken_checkpoint_is_refused(configure: Configure, tmp_path: Path) -> None:
    in_parts(configure, tmp_path / "run", RING, [10])
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_text("no checkpoint")
    with pytest.raises(UsageError, match=r"last\.ckpt is not a checkpoint"):
        training.train(resumption.resume(str(tmp_path / "run"), []), tmp_path / "run")


def test_an_optimizers_state_of_another_layout_is_the_same_state(
    configure: Configure, tmp_path: Path, pictures: Path
) -> None:
    """torch's fused Adam, on weights and moments of two layouts, would pair the wrong elements."""
    small = [f"model.{network}.width=4" for network in ("generator", "discriminator")]
    data = ["data=image_folder", f"data.root={pictures}", "data.size=28", "data.channels=1", "data.batch_size=8"]
    overrides = ("model=dcgan", *small, *data, f"data.cache={tmp_path}/cache")
    for name in ("whole", "relaid"):
        in_parts(configure, tmp_path / name, overrides, [5])
    last = tmp_path / "relaid" / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    states = [state for optimizer in saved["optimizer_states"] for state in optimizer["state"].values()]
    assert any(not moment.is_contiguous() for state in states for moment in state.values())  # channels last
    for state in states:
        state.update({name: moment.contiguous() for name, moment in state.items()})
    torch.save(saved, last)
    for name in ("whole", "relaid"):
        training.train(resumption.resume(str(tmp_path / name), ["trainer.max_steps=10"]), tmp_path / name)
    whole, relaid = (checkpoint(tmp_path / name) for name in ("whole", "relaid"))
    for key in ("state_dict", "optimizer_states"):
        assert_same_state(relaid[key], whole[key])
