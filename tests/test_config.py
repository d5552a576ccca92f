"""What check, check_changes and explain say, before anything slow is imported."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gan_lightning.config import check, check_changes, explain, guess, keep_typed_length
from gan_lightning.errors import UsageError
from gan_lightning.resumption import option_names
from gan_lightning.rules import RULES

Configure = Callable[..., DictConfig]
NONE = {"model": "points", "data": "gaussian"}

# overrides, the option and value that the sentence must name, what it must expect; at least one row of each family
REFUSED = [
    (["data.batch_size=0"], "data.batch_size is 0", "a whole number, at least 1"),
    (["data.batch_size=2.5"], "data.batch_size is 2.5", "a whole number, at least 1"),
    (["data.batch_size=true"], "data.batch_size is True", "a whole number, at least 1"),
    (["data.batch_size=many"], "data.batch_size is 'many'", "a whole number, at least 1"),
    (["data.batch_size=null"], "data.batch_size is None", "a whole number, at least 1"),
    (["data=sines", "data.steps=null"], "data.steps is None", "a whole number, at least 1"),
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
    (["model.ema_decay=1.0"], "model.ema_decay is 1.0", "a number from 0 up to but not including 1"),
    (["loss.label_smoothing=-0.1"], "loss.label_smoothing is -0.1", "a number from 0 up to but not including 1"),
    (["schedule=linear", "schedule.start=1"], "schedule.start is 1", "a number from 0 up to but not including 1"),
    (["schedule=cosine", "schedule.steps=0"], "schedule.steps is 0", "a whole number, at least 1"),
    (["schedule=cosine", "schedule.beta2=1"], "schedule.beta2 is 1", "a number from 0 up to but not including 1"),
    (["regularizer=r1", "regularizer.r1.weight={a: 1}"], "regularizer.r1.weight is {'a': 1}", "a number, at least 0"),
    (["data.distribution=5"], "data.distribution is 5", "a _target_ and its options"),
    (["model.discriminator=5"], "model.discriminator is 5", "a _target_ and its options"),
    (["augment=ada", "augment.p=1.5"], "augment.p is 1.5", "a number from 0 to 1"),
    (["augment=ada", "augment.pipeline.color=-1"], "augment.pipeline.color is -1", "a number from 0 to 1"),
    (["augment=ada", "augment.p={a: 1}"], "augment.p is {'a': 1}", "a number from 0 to 1"),
    (["game.weight={_target_: gan_lightning.schedules.Ramp}", "game=acgan"], "game.weight is", "a number, at least 0"),
    (["model.reuse_fakes=1"], "model.reuse_fakes is 1", "true or false"),
    (["model.ema_warmup=maybe"], "model.ema_warmup is 'maybe'", "true or false"),
    (["model.generator.widths=64"], "model.generator.widths is 64", "a list of whole numbers, each at least 1"),
    (["model.generator.widths=[64,0]"], "model.generator.widths is [64, 0]", "a list of whole numbers, each at"),
    (["data=mixture", "data.distribution.stds=[1,0,1]"], "stds is [1, 0, 1]", "a list of numbers above 0"),
    (["data=mixture", "data.distribution.weights=[1,0,1]"], "weights is [1, 0, 1]", "a list of numbers above 0"),
    (
        ["callbacks=race", "callbacks.clock.at_seconds=[]"],
        "at_seconds is []",
        "a list of numbers above 0, at least one",
    ),
    (
        ["callbacks=race", "callbacks.clock.at_seconds=60"],
        "at_seconds is 60",
        "a list of numbers above 0, at least one",
    ),
    (["data=mixture", "data.distribution.means=3"], "data.distribution.means is 3", "a list of numbers"),
    (["model.betas=0.5"], "model.betas is 0.5", "a list of two numbers from 0 up to but not including 1"),
    (["model.betas=[0.5]"], "model.betas is [0.5]", "a list of two numbers from 0 up to but not including 1"),
    (["model.scheduled=nobody"], "model.scheduled is 'nobody'", "one of both, generator, discriminator"),
    (["model.order=sideways"], "model.order is 'sideways'", "one of discriminator_first, generator_first, simultan"),
    (["trainer.precision=8"], "trainer.precision is 8", "one of 32-true, bf16-mixed, 16-mixed"),
    (["trainer.gradient_clip_algorithm=l1"], "trainer.gradient_clip_algorithm is 'l1'", "one of norm, value"),
    (["data=image_folder", "data.root=x", "data.channels=5"], "data.channels is 5", "one of 1, 2, 3, 4"),
    (["data=image_folder", "data.root=x", "data.fit=cover"], "data.fit is 'cover'", "one of crop, pad, stretch"),
    (["data=image_folder", "data.root=x", "data.depth=12"], "data.depth is 12", "one of 8, 16, float"),
    (["data=image_folder", "data.root=x", "data.size=[8,8,8]"], "data.size is [8, 8, 8]", "two, [height, width]"),
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
    (["++generator_regularizer.r1=1"], "generator_regularizer.r1 is 1", "~generator_regularizer.r1"),
    (["~game"], "game is None", "game=OPTION"),
    (["~regularizer@generator_regularizer"], "generator_regularizer is None", "regularizer@generator_"),
    # what is missing or cannot be read
    (["data=image_folder"], "data.root is not set", "data.root=VALUE"),
    (["model.lr=${nowhere}"], "model.lr refers to nowhere, which does not exist", "+nowhere=VALUE"),
    (
        ["~model.latent_size"],
        "model.generator.latent_size refers to model.latent_size",
        "add model.latent_size to your YAML file",
    ),
    (["data=image_folder", "model.lr=${data.root}"], "model.lr cannot be read", "Missing mandatory value: data.root"),
    (["data=mnist", "data.root=''"], "data.root is empty", "give a path"),
    # what single precision cannot hold
    (["data.distribution.mean=1e39"], "data.distribution.mean is 1e+39", "a number from -1e9 to 1e9"),
    (["data.distribution.std=1e-300"], "data.distribution.std is 1e-300", "from 1e-9 to 1e9"),
    (["data=ring", "data.distribution.radius=1e38"], "data.distribution.radius is 1e+38", "from 1e-9 to 1e9"),
    (["data=mixture", "data.distribution.means=[0,1e39,1]"], "means is [0, 1e+39, 1]", "a list of numbers from"),
    # how much of the data
    (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch is 0", "a whole number, at least 1"),
    (["trainer.limit_val_batches=0.0001"], "trainer.limit_val_batches is 0.0001", "a share of them from 0.01 to 1"),
    (["trainer.limit_train_batches=1.5"], "trainer.limit_train_batches is 1.5", "a whole number of batches"),
    (["trainer.val_check_interval=0"], "trainer.val_check_interval is 0", "a whole number of batches"),
    (["trainer.val_check_interval=1.5"], "trainer.val_check_interval is 1.5", "a share of an epoch"),
    (["trainer.max_time={hour: 1}"], "trainer.max_time is {'hour': 1}", "a mapping such as {hours: 1}"),
    (["trainer.max_time=1:00"], "trainer.max_time is '1:00'", "DD:HH:MM:SS"),
    # what a trainer is made of
    (["trainer.plugins=slurm"], "trainer.plugins is 'slurm'", "the _target_ of a plugin"),
    (["trainer.plugins=[x]"], "trainer.plugins is ['x']", "the _target_ of a plugin"),
    (["trainer.num_sanity_val_steps=-2"], "trainer.num_sanity_val_steps is -2", "or -1 for all"),
    (["trainer.deterministic=maybe"], "trainer.deterministic is 'maybe'", "true, false or warn"),
    (["trainer.accelerator=abacus"], "trainer.accelerator is 'abacus'", "one of auto, cpu, gpu"),
]

NO_TARGETS = [
    ("5", "loss._target_ is 5: give the dotted name"),
    ("null", "loss._target_ is None: give the dotted name"),
    ("hinge", "'hinge': give the dotted name"),
    ("gan_lightning..losses.Hinge", "give the dotted name"),
    ("'gan_lightning.losses.Hinge '", "give the dotted name"),
    ("gan_lightning.losses.Hing", "did you mean gan_lightning.losses.Hinge?"),
    ("gan_lightning.loses.Hinge", "which does not exist: correct the name."),
    ("gan_lightning.losses.hinge.Hinge", "which does not exist"),
    ("gan_lightning", "give the dotted name"),
    (
        "my_lab_that_is_not.nets.Net",
        "package my_lab_that_is_not was not found: install it, or run the command in the folder that contains it.",
    ),
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
        ["trainer.max_time=00:01:00:00", "trainer.val_check_interval={minutes: 1.5}", "trainer.deterministic=warn"],
        ["trainer.plugins=[]", "trainer.fast_dev_run=3", "trainer.num_sanity_val_steps=-1", "trainer.min_epochs=2"],
        ["~callbacks.samples"],
        ["+callbacks.stop._target_=lightning.pytorch.callbacks.DeviceStatsMonitor"],
        ["generator_optimizer._target_=torch.optim.AdamW"],
    ],
)
def test_sensible_values_are_accepted(configure: Configure, overrides: list[str]) -> None:
    check(configure(*overrides), NONE)


@pytest.mark.parametrize(("target", "says"), NO_TARGETS)
def test_a_target_that_is_not_there_is_refused_without_importing_it(
    configure: Configure, target: str, says: str
) -> None:
    message = refusal(configure(f"++loss._target_={target}"))
    assert message.startswith("loss._target_ is")
    assert says in message


@pytest.mark.parametrize(
    "target", ["torch.nn.Identity", "email.message.Message", "gan_lightning.losses.relu", "os.getcwd"]
)
def test_a_command_line_may_name_anything_that_can_be_imported(configure: Configure, target: str) -> None:
    check(configure(f"loss._target_={target}"), NONE)


OWN = "email.message.Message"  # stands for a class of one's own, with options that are called as ours


@pytest.mark.parametrize(
    "options",
    [
        ["+loss.decay=-1", "+loss.widths=all"],
        ["+loss.inner={decay: -1, list: [{lr: -1}]}"],
        ["+loss.start._target_=email.message.Message", "+loss.start.size=0"],
    ],
)
def test_rules_on_values_are_for_this_packages_own_parts(configure: Configure, options: list[str]) -> None:
    check(configure(f"loss._target_={OWN}", *options), NONE)
    named = options[0].partition("=")[0].lstrip("+")
    config = configure(*options)
    if "_target_" not in options[0]:
        assert refusal(config).startswith(named)


def test_rules_hold_again_for_our_part_within_anothers(configure: Configure) -> None:
    config = configure(f"loss._target_={OWN}", "+loss.parts=[[{_target_: gan_lightning.losses.Hinge, decay: 0}]]")
    assert refusal(config).startswith("loss.parts[0][0].decay is 0")


@pytest.mark.parametrize(
    "name", ["seed", "model.lr", "model.critic_steps", "trainer.max_steps", "data.distribution.std"]
)
@pytest.mark.parametrize("value", ["{a: 1}", "[{a: 1}]"])
def test_a_mapping_where_a_number_belongs_is_refused(configure: Configure, name: str, value: str) -> None:
    assert refusal(configure(f"{name}={value}")).startswith(f"{name} is ")


def test_parts_may_have_any_name(configure: Configure) -> None:
    check(configure("+callbacks.start._target_=lightning.pytorch.callbacks.DeviceStatsMonitor"), NONE)


# ------------------------------------------------------------------------------------- options added and taken away


def changes(*lines: str) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(lines))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("+model.foo=1", "that nothing uses"),
        ("++model.foo=1", "that nothing uses"),
        ("+model.critic_step=1", "did you mean model.critic_steps?"),
        ("+trainer.max_step=1", "did you mean trainer.max_steps?"),
        ("+foo=1", "that nothing uses"),
        ("+lr=1", "did you mean model.lr?"),
        ("~trainer.devices", "set it by trainer.devices=VALUE."),
        ("~trainer.strategy", "set it by trainer.strategy=VALUE."),
        ("~model.lr", "set it by model.lr=VALUE."),
        ("~seed", "set it by seed=VALUE."),
        ("~data._target_", "set it by data._target_=VALUE."),
        ("~loss._target_", "set it by loss._target_=VALUE."),
        ("~prior._target_", "set it by prior._target_=VALUE."),
        ("~callbacks.samples._target_", "set it by callbacks.samples._target_=VALUE."),
        ("~generator_optimizer._partial_", "set it by generator_optimizer._partial_=VALUE."),
        ("+regularizer.r1.weight=10", "choose regularizer=r1, or give +regularizer.r1._target_=CLASS."),
        ("+regularizer.r1={weight: 10}", "choose regularizer=r1"),
        ("++generator_regularizer.r2.weight=1", "choose regularizer@generator_regularizer=r2"),
        ("+callbacks.stop.patience=3", "or give +callbacks.stop._target_=CLASS."),
        ("+logger.csv.save_dir=x", "choose logger=csv"),
    ],
)
def test_what_nothing_reads_is_not_added_and_what_is_read_not_taken_away(
    configure: Configure, line: str, says: str
) -> None:
    names = option_names(configure())
    with pytest.raises(UsageError) as refused:
        check_changes(changes(line), configure(line), lambda: names)
    assert str(refused.value).startswith(line)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "~callbacks.samples",
        "~schedule",
        "+callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping",
        "+loss.label_smoothing=0.1",
        "+model.generator.slope=0.1",
        "+data.distribution.x=1",
        "++model.lr=0.1",
        "++trainer.max_steps=5",
    ],
)
def test_parts_and_their_options_are_added_and_taken_away(configure: Configure, line: str) -> None:
    names = option_names(configure())
    override = line if line != "+loss.label_smoothing=0.1" else f"+{line}"
    check_changes(changes(override), configure(override), lambda: names)


@pytest.mark.parametrize(
    ("typed", "steps", "epochs"),
    [
        ({"trainer.max_epochs": 3}, -1, 3),
        ({"trainer.max_steps": 7}, 7, -1),
        ({"trainer.max_steps": 7, "trainer.max_epochs": 3}, 7, 3),
        ({"trainer.max_steps": -1}, -1, 250),
        ({"trainer.max_epochs": None}, 100, None),
        ({"seed": 1}, 100, 250),
    ],
)
def test_a_typed_length_replaces_an_experiments(
    configure: Configure, typed: dict[str, int | None], steps: int, epochs: int | None
) -> None:
    config = configure("trainer.max_steps=100", "trainer.max_epochs=250")
    for name, value in typed.items():
        OmegaConf.update(config, name, value)
    keep_typed_length(config, typed)
    assert (config.trainer.max_steps, config.trainer.max_epochs) == (steps, epochs)


def test_options_of_a_part_that_only_an_experiment_names_are_refused_on_the_command_line(configure: Configure) -> None:
    """The experiment sets the weights of its penalties, whoever chooses them."""
    names: Callable[[], list[str]] = list
    chosen = ("experiment=ring_relativistic", "regularizer=none")
    check(configure(*chosen), NONE)
    with pytest.raises(UsageError, match=r"choose regularizer=r1"):
        check_changes(changes("regularizer.r1.weight=1"), configure(*chosen, "regularizer.r1.weight=1"), names)
    for others in (["~regularizer.r1"], ["+regularizer.r1._target_=gan_lightning.regularizers.R1"]):
        check_changes(changes(*others), configure(*chosen, *others), names)
    check_changes(changes("regularizer.r1.weight=1"), configure(chosen[0], "regularizer.r1.weight=1"), names)
    constant = ("experiment=r3gan_cifar10_published", "schedule=constant", "schedule.final=1")
    with pytest.raises(UsageError, match=r"^schedule\.final=1 sets an option of a schedule, but none is chosen"):
        check_changes(changes(constant[-1]), configure(*constant), names)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "model.lr"),
        ("epochs", "trainer.max_epochs"),
        ("batch_size", "data.batch_size"),
        ("steps", "trainer.max_steps"),
        ("trainer.max_step", "trainer.max_steps"),
        ("model.latent_dim", "model.latent_size"),
        ("latent_sizes", "model.latent_size"),
        ("critic_step", "model.critic_steps"),
        ("sed", "seed"),
    ],
)
def test_what_was_meant_is_guessed(configure: Configure, name: str, meant: str) -> None:
    assert guess(name, option_names(configure())) == f"did you mean {meant}?"
    assert guess("qqqq", option_names(configure())) == "`python train.py --cfg job` prints all of them."


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
        ("lr=1", "lr is not an option here: did you mean model.lr?"),
        ("data.foo=1", "data.foo is not an option here: `python train.py --cfg job` prints all of them."),
        (
            "optimizer=sgd",
            "optimizer is not an option here: did you mean optimizer@discriminator_optimizer, "
            "optimizer@generator_optimizer?",
        ),
        ("+data=ring", "data already has an option: choose another with data=OPTION, without a plus sign."),
        ("~model.foo", "~model.foo removes an option that does not exist: leave it out."),
        ("~trainer.logger", "~trainer.logger removes an option that does not exist: leave it out."),
        (
            "model.generator=[1]",
            "model.generator has options of its own: set them one by one, such as model.generator.OPTION=VALUE.",
        ),
        (
            "regularizer=null",
            "A group takes the name of one of its options, such as trainer=ddp or regularizer=none.",
        ),
    ],
)
def test_composition_errors_become_one_sentence(configure: Configure, override: str, says: str) -> None:
    groups = ("model", "optimizer")
    listed = {group: ", ".join(sorted(path.stem for path in (ROOT / "conf" / group).iterdir())) for group in groups}
    with pytest.raises((HydraException, ValueError)) as refused:
        configure(override)
    assert explain(refused.value) == says.format(**listed)


def test_a_mapping_in_the_place_of_another_says_how(configure: Configure) -> None:
    other = "data.distribution={_target_:torch.distributions.Laplace,loc:0.0,scale:1.0}"
    with pytest.raises(HydraException) as refused:
        configure(other)
    sentence = explain(refused.value, lambda: ["data.distribution.mean", "data.distribution.std"])
    assert sentence == (
        "data.distribution has no loc, and a mapping only updates existing options: to replace it, give "
        "~data.distribution and +data.distribution=VALUE."
    )
    assert set(configure("~data.distribution", f"+{other}").data.distribution) == {"_target_", "loc", "scale"}


@pytest.mark.parametrize("override", ["a", "model.generator.widths=[1", "seed='1", "+seed=1"])
def test_other_composition_errors_stay_one_line_that_names_the_place(configure: Configure, override: str) -> None:
    with pytest.raises(HydraException) as refused:
        configure(override)
    sentence = explain(refused.value)
    assert "\n" not in sentence
    assert os.fspath(ROOT) not in sentence
    assert override.lstrip("+").partition("=")[0].split(".")[-1] in sentence or "[1" in sentence
