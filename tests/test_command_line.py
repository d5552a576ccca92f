"""What Hydra is given of what is typed."""

import re
from itertools import permutations
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from gan_lightning.command_line import (
    NAMED_ALL,
    differences,
    first_choices,
    for_hydra,
    options_alone,
    options_first,
    resumption,
    typed_option_names,
)
from gan_lightning.errors import UsageError

ODD = [
    *("/tmp/a,b", "/tmp/data (1)", "/tmp/[x]", "/tmp/a#b", "/tmp/it's", "/tmp/图像", "/tmp/a=b"),
    *("multirun/T/loss=hinge,seed=0", '/tmp/"x"', "/tmp/{x}", "back\\slash", "end\\", "end\\'", "a\\'b", "$x", "a:b"),
    *("007", "1e3", "true", "a~b", "%x", "*?", " spaces ", "-x", "+x", "é\u0301", "a\tb", "a;b", "a&b|c", "(x)"),
    *("choice(a)", "!x", "@x", "x" * 300),
]
PATHS = [
    *("data.root", "data.held_out", "data.inception_weights", "data.cache", "hydra.run.dir", "hydra.sweep.dir"),
    *("logger.tensorboard.save_dir", "callbacks.mc.dirpath", "callbacks.mc.filename", "trainer.profiler.dirpath"),
    *("logger.mlflow.tracking_uri", "start_from"),
]


def values(argument: str) -> list[object]:
    """What Hydra makes of one argument; of a sweep, each value."""
    override = OverridesParser.create().parse_override(argument)
    if not override.is_sweep_override():
        return [override.value()]
    return [OverridesParser.create().parse_override(f"x={v}").value() for v in override.sweep_string_iterator()]


def refusal(arguments: list[str]) -> str:
    with pytest.raises(UsageError) as refused:
        resumption(arguments) or for_hydra(arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("path", ODD)
@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_taken_as_typed(name: str, path: str) -> None:
    sweep = ["-m"] if name == "hydra.sweep.dir" else []
    for option in (name, f"+{name}", f"++{name}"):
        argument = for_hydra([*sweep, f"{option}={path}"])[-1]
        assert values(argument) == [path]
        assert for_hydra([*sweep, argument])[-1] == argument


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (argument,) = for_hydra(["data.root=~/data"])
    assert values(argument) == [f"{tmp_path}/data"]
    assert for_hydra(["data.root=~no_such_user/data"]) == ["data.root='~no_such_user/data'"]


@pytest.mark.parametrize(
    "argument",
    [
        "data.root=null",
        "data.root='a b'",
        'data.root="a"',
        "data.root=${oc.env:X}/a",
        "model.lr=1,2",
        "~data.root",
        "--cfg",
        "name=a b",
    ],
)
def test_other_arguments_stay_as_they_are(argument: str) -> None:
    arguments = [argument, *(["job"] if argument == "--cfg" else [])]
    assert for_hydra(arguments) == arguments


@pytest.mark.parametrize(
    ("typed", "roots"),
    [
        ("A,B", ["A", "B"]),
        ("/tmp/data (1),/tmp/[x]", ["/tmp/data (1)", "/tmp/[x]"]),
        ("'a,b',c", ["a,b", "c"]),
        ('"a,b"', ["a,b"]),
        ("'it\\'s,x',y", ["it's,x", "y"]),
        ("choice(A,B)", ["A", "B"]),
        ("A", ["A"]),
    ],
)
def test_commas_of_a_sweep_are_between_paths(typed: str, roots: list[str]) -> None:
    ready = for_hydra(["-m", f"data.root={typed}", "hydra.sweep.dir=a,b"])
    assert values(ready[1]) == roots
    assert values(ready[2]) == ["a,b"]
    assert (NAMED_ALL in ready) == (len(roots) > 1)


@pytest.mark.parametrize("argument", ["data.root=", "hydra.run.dir=", "data.held_out=", "++data.root="])
def test_an_empty_path_is_refused(argument: str) -> None:
    assert refusal([argument]) == f"{argument[:-1]} is empty: give a path."
    assert "is empty" in refusal(["-m", "data.root=a,,b"])


@pytest.mark.parametrize(
    "arguments", [["--config-dir", "/nope"], ["--config-dir=/nope"], ["-cd", "/nope"], ["-cd", __file__]]
)
def test_a_folder_of_options_that_is_not_there_is_refused(arguments: list[str]) -> None:
    assert refusal(["seed=1", *arguments]).startswith("--config-dir /")
    assert refusal(["--help", *arguments]).startswith("--config-dir /")


# --------------------------------------------------------------------------------------------------------- resume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    return tmp_path / "run"


def test_a_resumed_run_is_apart_with_its_changes_and_trust(folder: Path) -> None:
    typed = [f"resume={folder}", "data.root=/a b", "+callbacks.mc.dirpath=/tmp/a=b", "trainer.max_steps=5", "~x"]
    typed += ["trust=[my_lab, his]", "trust=hers"]
    found = resumption(typed)
    assert found is not None
    assert (found.folder, found.trust) == (folder, ["my_lab", "his", "hers"])
    assert found.changes == ["data.root='/a b'", "+callbacks.mc.dirpath='/tmp/a=b'", "trainer.max_steps=5", "~x"]
    assert resumption(["trainer.max_steps=5", "resume=null"]) is None
    assert resumption([f"resume={folder}", "--help"]) is None


@pytest.mark.parametrize("name", ["loss=hinge,seed=0", "data (1)", "it's", "图像", "a#b", "'quoted"])
def test_a_run_folder_has_any_name(folder: Path, name: str) -> None:
    moved = folder.rename(folder.parent / name)
    for typed in (f"resume={moved}", *for_hydra([f"resume={moved}"])):
        found = resumption([typed])
        assert found is not None
        assert found.folder == moved


@pytest.mark.parametrize(
    ("others", "says"),
    [
        (["-m"], "leave out -m"),
        (["--multirun", "seed=0,1"], "leave out -m"),
        (["--cfg", "job"], "config.yaml"),
        (["hydra.run.dir=x"], "hydra.run.dir=x cannot be combined with resume"),
        (["--config-dir", "/nope"], "--config-dir /nope is not a folder"),
        (["--config-dir", "/tmp"], "--config-dir cannot be combined with resume"),
        (["--config-name", "mine"], "--config-name cannot be combined with resume"),
        (["hydra/launcher=submitit_local"], "hydra/launcher=submitit_local cannot be combined with resume"),
    ],
)
def test_what_does_not_go_with_resume_is_refused(folder: Path, others: list[str], says: str) -> None:
    assert says in refusal([*others, f"resume={folder}"])


SWEEPS = ["hydra.sweep.dir=x", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra/launcher=submitit_local"]


@pytest.mark.parametrize("option", SWEEPS)
def test_options_of_sweeps_need_a_sweep(option: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(option)} is for sweeps: add -m, or leave it out\\.$"):
        for_hydra([option, "seed=1"])
    assert len(for_hydra(["-m", option, "seed=1,2"])) == 3
    assert for_hydra(["--cfg", "hydra", option])


def test_no_run_and_no_resume_are_refused() -> None:
    assert "resume=nowhere is not the folder of a run" in refusal(["resume=nowhere"])
    assert "resume= is not the folder of a run" in refusal(["resume="])
    assert "give it together with resume=" in refusal(["trust=[my_lab]"])


# ------------------------------------------------------------------------------------------------------- names


def test_the_names_are_those_of_the_chosen_groups(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("generator: {thickness: 1}\n")
    conf = ROOT / "conf"
    assert "data.distribution.std" in typed_option_names(["lr=1"], conf)
    assert "data.distribution.std" not in typed_option_names(["lr=1", "data=ring"], conf)
    assert "data.distribution.radius" in typed_option_names(["lr=1", "data=ring"], conf)
    assert "model.generator.thickness" in typed_option_names(["--config-dir", str(tmp_path), "model=mine"], conf)
    assert "seed" in typed_option_names(["data=nothing", "lr=1"], conf)


def test_what_an_experiment_sets_is_told_beside_what_its_groups_bring() -> None:
    typed = ["experiment=ring_relativistic", "~callbacks.samples", "+callbacks.mine._target_=my_lab.Mine"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=typed, return_hydra_config=True)
    lines = differences(typed, ROOT / "conf", config, config.hydra.runtime.choices).splitlines()[1:]
    said = {tuple(re.split(r"  +", line.strip())) for line in lines}
    assert said >= {
        ("experiment=ring_relativistic",),
        ("data=ring", "(gaussian)"),
        ("regularizer=[r1,r2]", "(none)"),
        ("regularizer.r1.weight=0.02", "(1.0)"),
        ("trainer.max_steps=20000", "(-1)"),
        ("callbacks.samples.every_n_steps=nothing", "(500)"),
        ("callbacks.mine._target_=my_lab.Mine",),
    }
    assert not [line for line in lines if "distribution" in line or "_target_=gan_lightning" in line]


def test_a_ramp_in_place_of_a_number_is_told_by_its_own_options() -> None:
    typed = ["experiment=r3gan_stacked_mnist"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=typed, return_hydra_config=True)
    said = differences(typed, ROOT / "conf", config, config.hydra.runtime.choices)
    assert "regularizer.r1.weight.final=0.1" in said
    assert "nothing" not in said


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("seed=3", "seed=3"),
        ("experiment=ring_relativistic,table", "experiment=ring_relativistic"),
        ("optimizer@generator_optimizer=sgd,adam", "optimizer@generator_optimizer=sgd"),
        ("seed=range(2,5)", "seed=2"),
        ("seed=range(0)", "seed=range(0)"),
        ("model.betas=[0.1,0.2],[0.3,0.4]", "model.betas=[0.1,0.2]"),
        ("+a=choice(x,y)", "+a=x"),
        ("data.root='a,b','c'", "data.root='a,b'"),
        ("model.lr=interval(0,1)", "model.lr=interval(0,1)"),
        ("data.root=glob(*)", "data.root=glob(*)"),
    ],
)
def test_the_first_run_of_a_sweep_has_the_first_choices(typed: str, first: str) -> None:
    assert first_choices([typed]) == [first]


def test_nothing_differs_from_the_defaults() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
    assert differences([], ROOT / "conf", config, config.hydra.runtime.choices) == "All options are the defaults"


def test_auto_goes_on_with_whatever_its_folder_needs() -> None:
    assert resumption(["resume=auto", "hydra.run.dir=run", "trainer.max_steps=7"]) is None
    with pytest.raises(UsageError, match=r"give hydra\.run\.dir=FOLDER"):
        resumption(["resume=auto"])


@pytest.mark.parametrize("given", [[], ["--config-dir", "/tmp"], ["--config-name", "mine", "--config-dir", "/tmp"]])
def test_where_options_are_goes_to_every_process(given: list[str]) -> None:
    assert sorted(options_alone(["-m", *given, "seed=0,1"])) == sorted(given)


@pytest.mark.parametrize("typed", list(permutations(["-m", "seed=0,1", "loss=hinge", ("--config-dir", "seed=0,1")])))
def test_options_stand_anywhere(typed: tuple[str | tuple[str, str], ...]) -> None:
    """Also one whose value is an override's text."""
    arguments = [word for words in typed for word in ([words] if isinstance(words, str) else words)]
    given = get_args_parser().parse_args(options_first(arguments))
    assert given.multirun
    assert given.config_dir == "seed=0,1"
    assert given.overrides == [word for word in typed if word in ("seed=0,1", "loss=hinge")]
