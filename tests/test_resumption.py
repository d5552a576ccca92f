"""The configuration of a run that goes on, and what may be changed in it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from gan_lightning import __version__
from gan_lightning.config import check
from gan_lightning.errors import UsageError
from gan_lightning.resumption import (
    check_length,
    is_done,
    is_other_data,
    is_same_run,
    make_absolute,
    resume,
    run_folder,
)

Configure = Callable[..., DictConfig]


def write(config: DictConfig, folder: Path) -> Path:
    """A run folder as train makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), folder / "config.yaml")
    return folder


@pytest.fixture
def folder(configure: Configure, tmp_path: Path) -> Path:
    """A run of 100 steps whose groups are not the defaults."""
    options = ("trainer.max_steps=100", "data=image_folder", "data.root=/images", "model=mlp", "model.lr=0.01")
    groups = ("regularizer=[r1]", "schedule=linear", "loss=relativistic", "optimizer@discriminator_optimizer=sgd")
    return write(configure(*options, *groups), tmp_path / "run")


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as refused:
        function()
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---------------------------------------------------------------------------------------------------- which folder


def test_a_run_is_named_by_its_folder_or_its_last_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    assert run_folder(str(folder)) == folder
    assert run_folder(str(folder / "checkpoints" / "last.ckpt")) == folder
    assert "best.ckpt does not exist" in refusal(lambda: run_folder(str(folder / "checkpoints" / "best.ckpt")))
    for name in ("best.ckpt", "at_60s.ckpt"):  # a run does not go back to them
        other = folder / "checkpoints" / name
        other.touch()
        assert f"run with start_from={other}." in refusal(lambda place=str(other): run_folder(place))
    monkeypatch.chdir(folder / "checkpoints")
    assert run_folder("last.ckpt") == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder("~/run") == folder


@pytest.mark.parametrize("typed", ["", "nowhere", "true", "run/checkpoints", "run/config.yaml", "run/last.ckpt"])
def test_what_is_no_run_is_refused_and_nothing_made(folder: Path, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.parent.rglob("*"))
    assert refusal(lambda: run_folder(typed)).startswith(f"resume={typed} ")
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "model: {}\n", "", "model: 1\ndata: 2\ntrainer: 3\n"])
def test_another_yaml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert "config.yaml is not the configuration of a run" in refusal(lambda: resume(tmp_path))


@pytest.mark.parametrize("group", ["game", "augment", "generator_regularizer"])
def test_a_run_of_an_older_version_is_refused_as_such(folder: Path, group: str) -> None:
    path = folder / "config.yaml"
    former = OmegaConf.load(path)
    assert isinstance(former, DictConfig)
    del former[group]
    OmegaConf.save(former, path)
    assert refusal(lambda: resume(folder)) == (
        f"{path} has no {group}, so it was written by another version of gan_lightning than {__version__}: resume it "
        "with that version."
    )


# --------------------------------------------------------------------------------------------------------- changes

TAKEN = [
    "trainer.max_steps=200",
    "trainer.log_every_n_steps=7",
    "trainer.devices=[0,1]",
    "callbacks.samples.every_n_steps=7",
    "callbacks.checkpoint.every_seconds=7",
    "data.root=/moved/images",
    "data.root='/moved/images (1)'",
    "data.held_out=/held/out",
    "data.cache=/cache",
    "data.workers=3",
    "data.batch_size=8",
    "changed_data=accept",
    "data.memory_limit=1.5",
    "data.validation_samples=1000",
    "regularizer.r1.weight=0.1",
    "generator_optimizer.lr=0.5",
    "generator_optimizer.betas=[0.1,0.2]",
    "discriminator_optimizer.momentum=0.5",
    "schedule.start=0.3",
    "schedule.final=0.1",
    "name=mine",
]


def test_what_another_option_makes_idle_is_refused_on_resume(folder: Path) -> None:
    algorithm = "trainer.gradient_clip_algorithm=value"
    says = f"{algorithm} would have no effect: no gradient is clipped; give trainer.gradient_clip_val."
    assert refusal(lambda: resume(folder, [algorithm])) == says
    assert resume(folder, [algorithm, "trainer.gradient_clip_val=1.0"]).trainer.gradient_clip_algorithm == "value"


def test_a_momentum_that_a_schedule_sets_is_refused_on_resume(configure: Configure, tmp_path: Path) -> None:
    folder = write(configure("schedule=goodfellow", "optimizer@generator_optimizer=sgd"), tmp_path / "run")
    for option in ("discriminator_optimizer.betas=[0.9,0.999]", "generator_optimizer.momentum=0.9"):
        assert "schedule.momentum sets the initial momentum, or beta_1" in refusal(
            lambda line=option: resume(folder, [line])
        )
    assert resume(folder, ["discriminator_optimizer.betas=[0.5,0.99]"]).discriminator_optimizer.betas == [0.5, 0.99]


@pytest.mark.parametrize("override", TAKEN)
def test_what_a_run_can_change_is_changed_and_nothing_else(folder: Path, override: str) -> None:
    config = resume(folder, [override])
    name, _, value = override.partition("=")
    former = OmegaConf.load(folder / "config.yaml")
    assert isinstance(former, DictConfig)
    expected = OmegaConf.create({"value": OmegaConf.from_dotlist([f"value={value.strip(chr(39))}"]).value})
    assert OmegaConf.select(config, name) == expected.value
    OmegaConf.update(former, name, expected.value)
    former.resume = str(folder)
    assert config == former
    check(config, {})


REFUSED = [
    *("data=grid", "model=mlp", "regularizer=[r1]", "loss=hinge", "optimizer@generator_optimizer=sgd"),
    *("+experiment=ring_relativistic", "experiment=ring_relativistic", "schedule=cosine", "callbacks=none"),
    *("+model.new=1", "~seed", "~callbacks.samples", "model={lr: 1}", "data.distribution=1"),
    *("model.latent_size=8", "model.generator.latent_size=8", "model.generator.widths=[8]", "model.critic_steps=2"),
    *("model.discriminator.slope=0.1", "model.ema_decay=0.9", "model.order=simultaneous", "model.needs=null"),
    *("data.size=8", "data.channels=1", "data.classes=[a]", "data.seed=1", "seed=1"),
    *("regularizer.r1.interval=4", "regularizer.r1._target_=gan_lightning.regularizers.R2"),
    *("generator_optimizer._target_=torch.optim.SGD", "schedule._target_=gan_lightning.optim.cosine"),
    *("loss._target_=gan_lightning.losses.Hinge", "prior._target_=gan_lightning.priors.Uniform"),
    *("data._target_=gan_lightning.data.bits.EvenIntegers", "schedule._partial_=false"),
]


@pytest.mark.parametrize("override", REFUSED)
def test_what_a_run_has_learnt_with_cannot_change(folder: Path, override: str) -> None:
    message = refusal(lambda: resume(folder, [override]))
    assert message.startswith((override, override.partition("=")[0]))
    assert "cannot change a resumed run" in message or "is not an option of this run" in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.lrr=1", "model.lrr is not an option of this run: did you mean model.lr?"),
        ("lr=1", "lr is not an option of this run: did you mean model.lr?"),
        ("nonsense=1", "nonsense is not an option of this run"),
        ("regularizer.r2.weight=1", "did you mean regularizer.r1.weight?"),
        ("generator_optimizer.lr=0.1,0.2", "gives several values"),
        ("trainer.max_steps=[1", "trainer.max_steps=[1"),
        ("data.root=a b(", "data.root"),
        ("trainer.fast_dev_run=true", "cannot resume a run, since it saves nothing: try it in a new run"),
    ],
)
def test_other_changes_are_refused_in_a_sentence(folder: Path, override: str, says: str) -> None:
    assert says in refusal(lambda: resume(folder, [override]))


@pytest.mark.parametrize(
    ("overrides", "rates"),
    [
        (["model.lr=0.5"], (0.5, 0.02)),
        (["model.lr=0.5", "generator_optimizer.lr=0.1"], (0.1, 0.02)),
        (["generator_optimizer.lr=0.1", "model.lr=0.5"], (0.1, 0.02)),
        (["discriminator_optimizer.lr=0.1"], (0.01, 0.1)),
    ],
)
def test_the_models_rate_is_that_of_the_optimizers_which_had_it(
    configure: Configure, tmp_path: Path, overrides: list[str], rates: tuple[float, float]
) -> None:
    options = ("model.lr=0.01", "optimizer@discriminator_optimizer=sgd", "discriminator_optimizer.lr=0.02")
    config = resume(write(configure(*options), tmp_path / "run"), overrides)
    assert (config.generator_optimizer.lr, config.discriminator_optimizer.lr) == rates


def test_a_rate_that_no_optimizer_reads_is_refused(configure: Configure, tmp_path: Path) -> None:
    options = ("generator_optimizer.lr=0.1", "discriminator_optimizer.lr=0.2", "model.lr=0.3")
    folder = write(configure(*options), tmp_path / "run")
    assert "give generator_optimizer.lr or" in refusal(lambda: resume(folder, ["model.lr=0.5"]))
    config = resume(folder, ["model.betas=[0.1,0.2]"])
    assert config.generator_optimizer.betas == config.discriminator_optimizer.betas == [0.1, 0.2]


@pytest.mark.parametrize(
    ("first", "then", "steps", "epochs"),
    [
        ((100, -1), [], 100, -1),
        ((100, -1), ["trainer.max_steps=200"], 200, -1),
        ((100, -1), ["trainer.max_epochs=3"], -1, 3),
        ((100, -1), ["trainer.max_steps=200", "trainer.max_epochs=3"], 200, 3),
        ((-1, 20), [], -1, 20),
        ((-1, 20), ["trainer.max_steps=200"], 200, -1),
        ((-1, 20), ["trainer.max_epochs=30"], -1, 30),
    ],
)
def test_a_resumed_run_has_the_length_that_was_asked_for_last(
    folder: Path, first: tuple[int, int], then: list[str], steps: int, epochs: int
) -> None:
    former = OmegaConf.load(folder / "config.yaml")
    former.trainer.max_steps, former.trainer.max_epochs = first
    OmegaConf.save(former, folder / "config.yaml")
    trainer = resume(folder, then).trainer
    assert (trainer.max_steps, trainer.max_epochs) == (steps, epochs)


def saved(step: int, started: int, processed: int) -> dict[str, Any]:
    """What a checkpoint says of how far its run has come."""
    progress = {"current": {"started": started, "processed": processed}}
    return {"global_step": step, "loops": {"fit_loop": {"epoch_progress": progress}}}


def test_a_run_cannot_end_before_what_it_has_reached(folder: Path) -> None:
    config = resume(folder, ["trainer.max_steps=50"])
    message = refusal(lambda: check_length(config, saved(51, 9, 9)))
    assert "trainer.max_steps is 50, but the run is already at step 51" in message
    check_length(config, saved(50, 9, 9))
    shorter = resume(folder, ["trainer.max_epochs=1"])
    message = refusal(lambda: check_length(shorter, saved(9, 2, 1)))
    assert "trainer.max_epochs is 1, but the run is already at epoch 2" in message
    check_length(shorter, saved(1000, 1, 1))
    check_length(shorter, {})


@pytest.mark.parametrize(
    ("length", "done"),
    [
        (["trainer.max_steps=50"], True),
        (["trainer.max_steps=51"], False),
        (["trainer.max_epochs=2"], True),
        (["trainer.max_epochs=3"], False),
        (["trainer.max_steps=51", "trainer.max_epochs=2"], True),
        (["trainer.max_steps=-1", "trainer.max_epochs=null"], False),
    ],
)
def test_a_run_is_done_by_either_limit(folder: Path, length: list[str], done: bool) -> None:
    assert is_done(saved(50, 2, 2), resume(folder, length), is_stopped=False) == done
    assert is_done(saved(50, 2, 2), resume(folder, length), is_stopped=True)
    least = resume(folder, [*length, "trainer.min_epochs=3"])
    assert is_done(saved(50, 2, 2), least, is_stopped=True) == done


@pytest.mark.parametrize("option", ["experiment", "name"])
def test_a_run_of_mlflow_stays_what_it_was_begun_as(configure: Configure, tmp_path: Path, option: str) -> None:
    run = write(configure("logger=mlflow"), tmp_path / "run")
    assert f"logger.mlflow.{option}=x cannot change" in refusal(lambda: resume(run, [f"logger.mlflow.{option}=x"]))
    assert resume(run, ["logger.mlflow.save_dir=x"]).logger.mlflow.save_dir == "x"


# ------------------------------------------------------------------------------------------------------- the same run


def test_a_run_is_the_same_wherever_data_with_a_name_and_its_folder_lie(configure: Configure, tmp_path: Path) -> None:
    options = ["data=mnist", "model=mlp", "trainer.max_steps=100", "model.lr=0.01"]
    folder = write(configure(*options), tmp_path / "run")
    assert is_same_run(configure(*options), folder)
    assert is_same_run(configure(*options, "data.root=/elsewhere", "data.cache=/c"), folder)
    assert is_same_run(resume(folder), folder)
    assert is_same_run(configure(*options, "+choices.model=mlp"), folder)
    assert not is_same_run(configure(*options, "seed=1"), folder)
    assert not is_same_run(configure(*options[:3]), folder)


def test_a_run_of_another_image_folder_is_another(configure: Configure, tmp_path: Path) -> None:
    options = ["data=image_folder", "model=mlp"]
    folder = write(configure(*options, f"data.root={os.getcwd()}/images"), tmp_path / "run")
    assert is_same_run(configure(*options, "data.root=images"), folder)
    assert not is_same_run(configure(*options, "data.root=others"), folder)


def test_paths_that_are_written_to_stay_where_they_are(configure: Configure, tmp_path: Path) -> None:
    """Wherever the run is resumed; the same relative path typed again is the same run."""
    options = ["logger=csv", "logger.csv.save_dir=curves"]
    elsewhere = configure(options[0], "logger.csv.save_dir='s3://bucket/curves'")
    make_absolute(elsewhere)
    assert elsewhere.logger.csv.save_dir == "s3://bucket/curves"
    config = configure(*options)
    make_absolute(config)
    assert config.logger.csv.save_dir == f"{os.getcwd()}/curves"
    folder = write(config, tmp_path / "run")
    assert is_same_run(configure(*options), folder)
    assert not is_same_run(configure(options[0], "logger.csv.save_dir=others"), folder)


def test_a_run_folder_is_compared_as_plain_data(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    folder = write(configure("name=swordfish"), tmp_path / "run")
    assert is_same_run(configure("name=swordfish"), folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("swordfish", "${oc.env:SECRET}"))
    assert not is_same_run(configure("name=swordfish"), folder)


@pytest.mark.parametrize(
    ("former", "present", "is_other"),
    [
        ("6 images in memory, digest a", "6 images in memory, digest a", False),
        ("6 images in memory, digest a", "6 images in memory, digest b", True),
        ("6 files, digest a", "6 files, digest b", True),
        ("6 images in memory, digest a", "6 files, digest b", False),
        ("6 images in memory, digest a", "7 files, digest a", True),
        ("6 files, digest a", "16 images in memory, digest a", True),
        (None, "6 files, digest a", False),
        (None, None, False),
    ],
)
def test_data_are_others_by_their_digest_or_at_least_by_their_number(
    former: str | None, present: str | None, is_other: bool
) -> None:
    assert is_other_data(former, present) == is_other
