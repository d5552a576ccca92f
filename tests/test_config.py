"""What check, resume and explain say, before anything slow is imported."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gan_lightning.config import RULES, check, explain, is_same_run, resume
from gan_lightning.errors import UsageError

Configure = Callable[..., DictConfig]
NONE = {"model": "points", "data": "gaussian"}

# overrides, the option and value that the sentence must name, what it must expect; at least one row of each family
REFUSED = [
    (["data.batch_size=0"], "data.batch_size is 0", "a whole number, at least 1"),
    (["data.batch_size=2.5"], "data.batch_size is 2.5", "a whole number, at least 1"),
    (["data.batch_size=true"], "data.batch_size is True", "a whole number, at least 1"),
    (["data.batch_size=many"], "data.batch_size is 'many'", "a whole number, at least 1"),
    (["data.batch_size=null"], "data.batch_size is None", "a whole number, at least 1"),
    (["model.critic_steps=0"], "model.critic_steps is 0", "a whole number, at least 1"),
    (["model.latent_size=-3"], "model.latent_size is -3", "a whole number, at least 1"),
    (["data=ring", "data.distribution.modes=0"], "data.distribution.modes is 0", "a whole number, at least 1"),
    (["regularizer=r1", "regularizer.r1.interval=0"], "regularizer.r1.interval is 0", "a whole number, at least 1"),
    (["callbacks.samples.every_n_steps=0"], "callbacks.samples.every_n_steps is 0", "a whole number, at least 1"),
    (["trainer.log_every_n_steps=0"], "trainer.log_every_n_steps is 0", "a whole number, at least 1"),
    (["seed=-1"], "seed is -1", "a whole number from 0 to 4294967295"),
    (["seed=4294967296"], "seed is 4294967296", "a whole number from 0 to 4294967295"),
    (
        ["data=image_folder", "data.root=x", "data.workers=-1"],
        "data.workers is -1",
        "a whole number, at least 0",
    ),
    (["model.lr=0"], "model.lr is 0", "a number above 0"),
    (["model.lr=-1e-3"], "model.lr is -0.001", "a number above 0"),
    (["model.lr=nan"], "model.lr is nan", "a number above 0"),
    (["model.lr=inf"], "model.lr is inf", "a number above 0"),
    (["data.distribution.std=0.0"], "data.distribution.std is 0.0", "a number above 0"),
    (["trainer.gradient_clip_val=0"], "trainer.gradient_clip_val is 0", "a number above 0"),
    (["regularizer=r2", "regularizer.r2.weight=-1"], "regularizer.r2.weight is -1", "a number, at least 0"),
    (["callbacks.progress.every_seconds=-1"], "callbacks.progress.every_seconds is -1", "a number, at least 0"),
    (["model.ema_decay=1.0"], "model.ema_decay is 1.0", "a number from 0 up to, not including, 1"),
    (["loss.label_smoothing=-0.1"], "loss.label_smoothing is -0.1", "a number from 0 up to, not including, 1"),
    (["schedule=linear", "schedule.start=1"], "schedule.start is 1", "a number from 0 up to, not including, 1"),
    (["model.reuse_fakes=1"], "model.reuse_fakes is 1", "true or false"),
    (["model.ema_warmup=maybe"], "model.ema_warmup is 'maybe'", "true or false"),
    (["model.generator.widths=64"], "model.generator.widths is 64", "a list of whole numbers, each at least 1"),
    (["model.generator.widths=[64,0]"], "model.generator.widths is [64, 0]", "a list of whole numbers, each at"),
    (["data=mixture", "data.distribution.stds=[1,0,1]"], "stds is [1, 0, 1]", "a list of numbers above 0"),
    (["data=mixture", "data.distribution.weights=[1,0,1]"], "weights is [1, 0, 1]", "a list of numbers above 0"),
    (["data=mixture", "data.distribution.means=3"], "data.distribution.means is 3", "a list of numbers"),
    (["model.betas=0.5"], "model.betas is 0.5", "a list of two numbers from 0 up to, not including, 1"),
    (["model.betas=[0.5]"], "model.betas is [0.5]", "a list of two numbers from 0 up to, not including, 1"),
    (["model.order=sideways"], "model.order is 'sideways'", "one of discriminator_first, generator_first, simultan"),
    (["trainer.precision=8"], "trainer.precision is 8", "one of 32-true, bf16-mixed, 16-mixed"),
    (["trainer.gradient_clip_algorithm=l1"], "trainer.gradient_clip_algorithm is 'l1'", "one of norm, value"),
    (["data=image_folder", "data.root=x", "data.channels=2"], "data.channels is 2", "one of 1, 3"),
    (["data=image_folder", "data.root=x", "data.unreadable=no"], "data.unreadable is", "one of refuse, skip"),
    (["trainer.max_steps=0"], "trainer.max_steps is 0", "a whole number, at least 1, or -1 for no limit"),
    (["trainer.devices=0"], "trainer.devices is 0", "a whole number, at least 1, -1 or auto for all"),
    (["trainer.devices=[]"], "trainer.devices is []", "or a list of devices"),
    (["trainer.num_nodes=0"], "trainer.num_nodes is 0", "a whole number, at least 1"),
    (["trainer.max_epochs=-2"], "trainer.max_epochs is -2", "a whole number, at least 1, or -1 for no limit"),
    # a single value where a part belongs
    (["generator_optimizer=sgd"], "generator_optimizer is 'sgd'", "optimizer@generator_optimizer=OPTION"),
    (["~data"], "data is None", "data=OPTION"),
    (["+callbacks.x=1"], "callbacks.x is 1", "a _target_"),
    (["regularizer=r1", "++regularizer.r1=2"], "regularizer.r1 is 2", "~regularizer.r1"),
    (["model.generator=5"], "model.generator is 5", "a _target_"),
    # what is missing or cannot be read
    (["data=image_folder"], "data.root is not set", "data.root=VALUE"),
    (["model.lr=${nowhere}"], "model.lr cannot be read", "'nowhere' not found"),
]

FOREIGN = [
    "os.system",
    "torch.load",
    "builtins.eval",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.optim.adam.torch.load",
    "gan_lightning.build.torch.load",
    "gan_lightning.data.folder.Image",
    "gan_lightning.data.images.Path",
    "gan_lightning.losses.relu",
    "gan_lightning.losses.NonSaturating.__init__",
    "gan_lightning",
    "gan_lightning.losses",
    "gan_lightning..losses.Hinge",
    "gan_lightning.data.../losses.Hinge",
    "gan_lightnings.losses.Hinge",
    "lightning.fabric.x",
    "lightning.pytorch.callbacks.os.system",
    "lightning.pytorch.trainer.Trainer",
    "5",
]


def targets(folder: Path) -> set[str]:
    """Every _target_ that the YAML files name, read as text."""
    return {t for path in folder.rglob("*.yaml") for t in re.findall(r"_target_:\s*([\w.]+)", path.read_text())}


def refusal(config: DictConfig, choices: dict[str, str] = NONE) -> str:
    with pytest.raises(UsageError) as refused:
        check(config, choices)
    return str(refused.value)


@pytest.mark.parametrize(("overrides", "names", "expects"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_a_wrong_value_is_refused_in_one_sentence(
    configure: Configure, overrides: list[str], names: str, expects: str
) -> None:
    message = refusal(configure(*overrides))
    assert names in message
    assert expects in message
    assert message.endswith(".")
    assert "\n" not in message


def test_every_rule_refuses_a_value_of_the_wrong_kind() -> None:
    for key, (fits, expected) in RULES.items():
        assert not fits(OmegaConf.create({"a": 1})), key
        assert not fits("nonsense"), key
        assert expected, key


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.max_steps=-1", "trainer.max_epochs=5"],
        ["trainer.max_epochs=null", "trainer.max_steps=7"],
        ["trainer.devices=-1"],
        ["trainer.devices=[0,1]", "trainer.num_nodes=2"],
        ["trainer.devices=auto"],
        ["trainer.gradient_clip_val=0.5", "trainer.gradient_clip_algorithm=value"],
        ["model.ema_decay=0", "loss.label_smoothing=0.1"],
        ["data=mixture", "data.distribution.weights=[1,2,1]"],
        ["model.lr=1e-3", "model.betas=[0,0.9]", "model.generator.widths=[]"],
        ["seed=4294967295", "trainer.precision=16-mixed", "regularizer=[r1,r2]"],
        ["~callbacks.samples"],
        ["+callbacks.stop._target_=lightning.pytorch.callbacks.DeviceStatsMonitor"],
        ["generator_optimizer._target_=torch.optim.AdamW"],
    ],
)
def test_sensible_values_are_accepted(configure: Configure, overrides: list[str]) -> None:
    check(configure(*overrides), NONE)


@pytest.mark.parametrize("target", FOREIGN)
def test_a_foreign_target_is_refused(configure: Configure, target: str) -> None:
    config = configure()
    OmegaConf.update(config, "loss._target_", target)
    message = refusal(config)
    assert f"loss._target_ is {target!r}" in message
    assert "gan_lightning" in message.split("give", 1)[1]


def test_a_target_is_refused_wherever_it_hides(configure: Configure) -> None:
    config = configure()
    OmegaConf.update(config, "data.distribution.std", {"_target_": "os.system"}, force_add=True)
    assert "data.distribution.std._target_ is 'os.system'" in refusal(config)


def test_every_target_of_the_options_is_accepted(configure: Configure) -> None:
    found = targets(ROOT / "conf")
    assert len(found) > 20
    config = configure()
    for target in found:
        OmegaConf.update(config, "loss._target_", target)
        check(config, NONE)


def test_networks_for_images_refuse_points(configure: Configure) -> None:
    message = refusal(configure("model=dcgan"), {"model": "dcgan", "data": "gaussian"})
    assert "model=dcgan makes images, but data=gaussian has points" in message
    check(configure("model=dcgan", "data=mnist"), {"model": "dcgan", "data": "mnist"})


def test_checking_imports_no_torch() -> None:
    code = "import sys; from gan_lightning import config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("loss=hinge,seed=0", "loss=hinge,seed=0"),
        ("a" * 200, "a" * 200),
        ("a" * 201, "a" * 200 + "," + digest("a" * 201)),
        ("data.root=/x/y,seed=0", "data.root=_x_y,seed=0," + digest("data.root=/x/y,seed=0")),
    ],
)
def test_a_sweeps_folders_have_names_that_a_file_system_takes(overrides: str, name: str) -> None:
    config = OmegaConf.create({"o": overrides, "name": "${job_folder:${o}}"})
    assert config.name == name


def test_a_run_is_the_same_wherever_its_data_lies(configure: Configure, run_folder: Path) -> None:
    options = ["trainer.max_steps=100", "data=ring", "model.lr=0.01"]
    assert is_same_run(configure(*options), run_folder)
    assert is_same_run(configure(*options, "+data.root=/elsewhere"), run_folder)
    assert not is_same_run(configure(*options, "seed=1"), run_folder)
    assert not is_same_run(configure(*options[:2]), run_folder)


# --------------------------------------------------------------------------------------------------------- resume


@pytest.fixture
def run_folder(configure: Configure, tmp_path: Path) -> Path:
    """A folder with the configuration of a run of 100 steps."""
    config = configure("trainer.max_steps=100", "data=ring", "model.lr=0.01")
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), tmp_path / "config.yaml")
    return tmp_path


@pytest.mark.parametrize("folder", ["nowhere", True, 5])
def test_resume_refuses_what_is_no_run_folder(tmp_path: Path, folder: object) -> None:
    with pytest.raises(UsageError, match=rf"resume=.*{folder} is not the folder of a run"):
        resume(str(tmp_path / folder) if isinstance(folder, str) else folder, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "model: {}\n", ""])
def test_resume_refuses_another_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"config\.yaml is not the configuration of a run"):
        resume(str(tmp_path), [])


@pytest.mark.parametrize(
    "override",
    [
        "data=grid",
        "model=mlp",
        "regularizer=[r1]",
        "optimizer@generator_optimizer=sgd",
        "+experiment=ring_relativistic",
    ],
)
def test_resume_refuses_another_option_of_a_group(run_folder: Path, override: str) -> None:
    with pytest.raises(UsageError, match=r"cannot change a run that is resumed") as refused:
        resume(str(run_folder), [f"resume={run_folder}", override])
    assert str(refused.value).startswith(override)


@pytest.mark.parametrize("override", ["model.lrr=1", "nonsense=1", "+model.new=1", "~seed", "model={lr: 1}"])
def test_resume_refuses_unknown_and_new_and_deleted_options(run_folder: Path, override: str) -> None:
    with pytest.raises(UsageError, match=r"cannot change a run that is resumed"):
        resume(str(run_folder), [override])


def test_resume_keeps_the_run_and_takes_changed_values(run_folder: Path) -> None:
    config = resume(str(run_folder), [f"resume={run_folder}", "model.lr=0.5", "model.generator.widths=[8,8]"])
    former = OmegaConf.load(run_folder / "config.yaml")
    assert (config.model.lr, config.model.generator.widths) == (0.5, [8, 8])
    assert config.resume == str(run_folder)
    former.merge_with_dotlist(["model.lr=0.5", "model.generator.widths=[8,8]", f"resume={run_folder}"])
    assert config == former


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
    run_folder: Path, first: tuple[int, int], then: list[str], steps: int, epochs: int
) -> None:
    former = OmegaConf.load(run_folder / "config.yaml")
    former.trainer.max_steps, former.trainer.max_epochs = first
    OmegaConf.save(former, run_folder / "config.yaml")
    trainer = resume(str(run_folder), then).trainer
    assert (trainer.max_steps, trainer.max_epochs) == (steps, epochs)


def test_a_run_has_twenty_epochs_or_its_steps(configure: Configure) -> None:
    assert configure().trainer.max_epochs == 20
    assert configure("trainer.max_steps=5").trainer.max_epochs == -1
    assert configure("trainer.max_steps=5", "trainer.max_epochs=2").trainer.max_epochs == 2


# -------------------------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=foo", "model=foo does not exist: choose one of {model}."),
        ("optimizer@generator_optimizer=foo", "optimizer=foo does not exist: choose one of {optimizer}."),
        ("regularizer=[r1,foo]", "regularizer=foo does not exist: `python train.py --help` lists what does."),
        ("lr=1", "lr is not an option here: `python train.py --cfg job` prints all of them."),
        ("data.foo=1", "data.foo is not an option here: `python train.py --cfg job` prints all of them."),
        (
            "optimizer=sgd",
            "optimizer is not an option here: did you mean optimizer@discriminator_optimizer, "
            "optimizer@generator_optimizer?",
        ),
        ("+data=ring", "data has an option already: choose another with data=OPTION, without a plus sign."),
        ("~model.foo", "Could not delete from config. 'model.foo' does not exist."),
        (
            "regularizer=null",
            "A group cannot be null: choose one of its options, such as regularizer=none, callbacks=none.",
        ),
    ],
)
def test_composition_errors_become_one_sentence(configure: Configure, override: str, says: str) -> None:
    groups = ("model", "optimizer")
    listed = {group: ", ".join(sorted(path.stem for path in (ROOT / "conf" / group).iterdir())) for group in groups}
    with pytest.raises((HydraException, ValueError)) as refused:
        configure(override)
    assert explain(refused.value) == says.format(**listed)


@pytest.mark.parametrize("override", ["a", "model.generator.widths=[1", "seed='1", "+seed=1"])
def test_other_composition_errors_stay_one_line_that_names_the_place(configure: Configure, override: str) -> None:
    with pytest.raises(HydraException) as refused:
        configure(override)
    sentence = explain(refused.value)
    assert "\n" not in sentence
    assert os.fspath(ROOT) not in sentence
    assert override.lstrip("+").partition("=")[0].split(".")[-1] in sentence or "[1" in sentence
