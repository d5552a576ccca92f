"""Tables and pictures of many runs against the numbers written, and sweeps that go on where they were."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import programs
import pytest
import torch
from conftest import ROOT
from helpers import load_script
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils.tensorboard import SummaryWriter

from gan_lightning.config import choices_of
from gan_lightning.files import HOST
from gan_lightning.runs import labels as label_settings
from gan_lightning.runs import setting_of
from gan_lightning.training import train

Configure = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("report")


def write(folder: Path, config: dict[str, Any], **metrics: float) -> None:
    """A finished run's folder."""
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps({"step": 10, **named}))


def options(seed: int, name: str | None = "ring", loss: str = "Hinge", lr: float = 0.1) -> dict[str, Any]:
    """A configuration in small; all that depends on the seed or the place is different in each run."""
    return {
        "name": name,
        "seed": seed,
        "resume": f"somewhere/{seed}" if seed % 2 else None,
        "data": {"root": f"data/{seed}", "download": True, "seed": seed, "stds": [0.5, 1.0]},
        "loss": {"_target_": f"gan_lightning.losses.{loss}"},
        "model": {"lr": lr, "generator": {"widths": [8, 8]}},
    }


class Printed:
    """What the script prints: the table as cells without the line below the header, and the sentences below it."""

    def __init__(self, text: str) -> None:
        table, *self.notes = text.strip().split("\n\n")
        lines = table.splitlines()
        assert all(line.startswith("| ") and line.endswith(" |") for line in (lines[0], *lines[2:]))
        rows = [[cell.strip() for cell in line[1:-1].split(" |")] for line in lines]
        assert lines[1] == "|" + " --- |" * len(rows[0])
        self.header, _, *self.rows = rows
        assert {len(row) for row in self.rows} == {len(self.header)}

    def column(self, name: str) -> list[str]:
        return [row[self.header.index(name)] for row in self.rows]


Script = Callable[..., Printed]


@pytest.fixture
def report(script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Script:
    """Run the script on folders, with options as text, and read what it prints."""

    def call(*arguments: Path | str) -> Printed:
        given = [f"runs={argument}" if isinstance(argument, Path) else argument for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["report.py", *given])
        capsys.readouterr()
        script.main()
        return Printed(capsys.readouterr().out)

    return call


def refusal(report: Script, *arguments: Path | str) -> str:
    """The one sentence that ends the script with status 1."""
    with pytest.raises(SystemExit) as ended:
        report(*arguments)
    assert isinstance(ended.value.code, str)  # a text is printed to stderr and makes the exit status 1
    assert ended.value.code.startswith("Error: ")
    assert "\n" not in ended.value.code
    return ended.value.code


def sem(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


KS = {"Hinge": [0.0213, 0.0352, 0.0301, 0.0278], "Minimax": [0.31, 0.52]}
HINGE, MINIMAX = "ring loss=Hinge", "ring loss=Minimax"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four seeds of one setting and two of another, in folders as deep as sweeps of sweeps."""
    for loss, values in KS.items():
        for seed, value in enumerate(values):
            write(tmp_path / loss / str(seed), options(seed, loss=loss), val__ks=value, seconds=10.0 + seed)
    return tmp_path


def write_group(folder: Path, name: str, values: list[float], metric: str = "val__ks", **changes: Any) -> None:
    """A run for each value, with seeds from 0."""
    for seed, value in enumerate(values):
        write(folder / name / str(seed), options(seed, name) | changes, **{metric: value})


# ---------------------------------------------------------------------------------------------------- the numbers


def test_one_row_a_setting_with_mean_and_standard_error(report: Script, runs: Path) -> None:
    printed = report(runs)
    assert printed.header == ["setting", "seeds", "ks ↓", "seconds"]
    assert [row[:2] for row in printed.rows] == [[HINGE, "4"], [MINIMAX, "2"]]
    for cell, values in zip(printed.column("ks ↓"), KS.values(), strict=True):
        mean, error = (float(number) for number in cell.split(" ± "))
        assert error == pytest.approx(sem(values), rel=0.05)  # it is written to two figures
        assert mean == pytest.approx(np.mean(values), abs=0.05 * sem(values))


@pytest.mark.parametrize("seed", range(20))
def test_two_figures_of_the_error(script: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 3)
    values = (scale * rng.normal(3, 0.4, rng.integers(2, 9))).tolist()
    mean, error = script.mean_and_error(script.Sample.of(values)).split(" ± ")
    assert len(mean.partition(".")[2]) == len(error.partition(".")[2])
    figures = len(error.replace(".", "").lstrip("0"))
    exact = sem(values)
    assert figures == 2 or float(f"{exact:.1e}") != float(f"{exact:.2e}") or exact > 10  # .0996 is .100
    digits = len(error.partition(".")[2])
    assert (float(mean), float(error)) == pytest.approx((np.mean(values), exact), abs=0.5001 * 10.0**-digits)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.123456], "0.1235"),
        ([2.0, 2.0, 2.0], "2 ± 0"),
        ([1.0, 3.0], "2.0 ± 1.0"),
        ([1000.0, 3000.0], "2000 ± 1000"),
        ([0.12341, 0.12349], "0.123450 ± 0.000040"),
        ([9.551e-5, 9.5514e-5], "9.551e-05 ± 2.0e-09"),
    ],
)
def test_cells(script: ModuleType, values: list[float], text: str) -> None:
    assert script.mean_and_error(script.Sample.of(values)) == text


def test_metrics_are_chosen_and_absent_ones_left_empty(report: Script, tmp_path: Path) -> None:
    write(tmp_path / "a", options(0, "a"), val__ks=0.5, val__modes=8.0, seconds=1.0)
    write(tmp_path / "b", options(0, "b"), val__value=0.25, seconds=2.0)
    printed = report(tmp_path)
    assert printed.header == ["setting", "seeds", "ks ↓", "modes ↑", "value", "seconds"]
    assert printed.rows == [["a", "1", "0.5", "8", "", "1"], ["b", "1", "", "", "0.25", "2"]]
    chosen = report(tmp_path, "metrics=[val/modes,step]")
    assert chosen.header == ["setting", "seeds", "modes ↑", "step", "seconds"]
    assert chosen.rows[0] == ["a", "1", "8", "10", "1"]


def test_the_metric_of_a_class_has_the_direction_of_the_metric(script: ModuleType) -> None:
    """Though the classes are named as metrics of which more is better are."""
    names = ("intra_fid", "intra_fid/even", "intra_fid/precision", "class_accuracy/fid", "value")
    assert [script.arrow(f"val/{name}") for name in names] == ["↓", "↓", "↓", "↑", ""]


def test_several_folders_make_one_table_and_one_given_twice_counts_once(report: Script, runs: Path) -> None:
    whole = report(runs)
    assert report(runs / "Hinge", runs / "Minimax").rows == whole.rows
    again = report(runs, runs / "Hinge", runs / "Hinge" / ".." / "Hinge")
    assert (again.rows, again.notes) == (whole.rows, whole.notes)


# ------------------------------------------------------------------------------------------------------ the labels


def test_runs_are_one_setting_if_only_seed_place_and_resume_differ(report: Script, tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / str(seed), options(seed), val__ks=0.5, seconds=1.0)
    assert report(tmp_path).rows == [["ring", "3", "0.5 ± 0", "1 ± 0"]]


def test_hidden_folders_hold_no_runs(report: Script, tmp_path: Path) -> None:
    """Such as Hydra's own copy of a configuration."""
    write(tmp_path / "0", options(0), val__ks=0.5)
    write(tmp_path / "0" / ".hydra", options(0))
    (tmp_path / "0" / ".hydra" / "metrics.json").unlink()
    printed = report(tmp_path)
    assert len(printed.rows) == 1
    assert not any(".hydra" in note for note in printed.notes)


@pytest.mark.parametrize("kind", ["folder.ImageFolder", "pairs.PairedFolder", "own.Images"])
def test_images_of_other_folders_are_other_settings(report: Script, tmp_path: Path, kind: str) -> None:
    for i, animal in enumerate(("cats", "dogs")):
        data = {"_target_": f"gan_lightning.data.{kind}", "root": animal, "seed": i}
        write(tmp_path / animal, options(i) | {"data": data}, val__ks=0.5)
    assert report(tmp_path).column("setting") == ["ring data.root=cats", "ring data.root=dogs"]


def test_labels_name_what_differs_among_runs_of_a_name(report: Script, tmp_path: Path) -> None:
    for i, lr in enumerate((0.1, 0.2)):
        write(tmp_path / "ring" / str(i), options(0, lr=lr), val__ks=0.5)
        write(tmp_path / "none" / str(i), options(0, None, ("Hinge", "Minimax")[i], lr), val__ks=0.5)
    write(tmp_path / "grid", options(0, "grid", "Wasserstein", 0.7), val__ks=0.5)
    assert report(tmp_path).column("setting") == [
        "grid",  # alone of its name
        "loss=Hinge model.lr=0.1",
        "loss=Minimax model.lr=0.2",
        "ring model.lr=0.1",
        "ring model.lr=0.2",
    ]


def labels(*configs: dict[str, Any]) -> list[str]:
    return label_settings([setting_of(config) for config in configs])


def test_labels_leave_out_what_follows() -> None:
    """What a class brings along, and what is the model's value in another place."""
    r1 = {"r1": {"_target_": "package.R1", "weight": 0.1, "every": 16}}
    configs = [
        {"model": {"lr": lr}, "generator_optimizer": {"lr": lr, "fused": True}, "regularizer": regularizer}
        for lr in (0.1, 0.2)
        for regularizer in ({}, r1)
    ]
    assert labels(*configs) == [
        "model.lr=0.1 regularizer=none",
        "model.lr=0.1 regularizer.r1=R1",
        "model.lr=0.2 regularizer=none",
        "model.lr=0.2 regularizer.r1=R1",
    ]
    strong = {"r1": {**r1["r1"], "weight": 0.9}}
    assert labels(*({"regularizer": part} for part in ({}, r1, strong))) == [
        "regularizer=none",
        "regularizer.r1=R1 regularizer.r1.weight=0.1",
        "regularizer.r1=R1 regularizer.r1.weight=0.9",
    ]


def test_labels_hide_no_difference_of_another_part() -> None:
    pairs = [("Hinge", 0.1), ("Minimax", 0.2)]  # the rate goes with the loss by the user's choice
    configs = [{"loss": {"_target_": f"losses.{loss}"}, "sgd": {"lr": lr}} for loss, lr in pairs]
    assert labels(*configs) == ["loss=Hinge sgd.lr=0.1", "loss=Minimax sgd.lr=0.2"]


def chosen(*overrides: str) -> tuple[Any, dict[str, str]]:
    """The setting that the command line makes, and the choices that its config.yaml has."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    names = choices_of(config.hydra.runtime.choices)
    with open_dict(config):
        del config.hydra
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return setting_of({str(key): value for key, value in plain.items()}), names


def chosen_labels(*lines: str) -> list[str]:
    return label_settings(*zip(*(chosen(*line.split()) for line in lines), strict=True))


@pytest.mark.parametrize(
    ("group", "options"),
    [
        ("loss", ["hinge", "minimax", "cooperative"]),
        ("data", ["ring", "grid", "gaussian"]),
        ("model", ["points", "mlp", "linear"]),
        ("regularizer", ["none", "r1", "gradient_penalty"]),
        ("prior", ["normal", "uniform"]),
        ("schedule", ["constant", "cosine"]),
        ("optimizer@generator_optimizer", ["adam", "sgd"]),
    ],
)
def test_labels_say_what_one_types(group: str, options: list[str]) -> None:
    lines = [f"{group}={option}" for option in options]
    assert chosen_labels(*lines) == [line.removeprefix("optimizer@") for line in lines]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("model.conditional", ["true", "false"]),
        ("data.fixed_samples", ["null", "100"]),
        ("model.betas", ["[0.0,0.9]", "[0.5,0.999]"]),
        ("data.distribution.means", ["[-1.0,1.0]", "[0.0]"]),
    ],
)
def test_labels_have_values_as_one_types_them(option: str, values: list[str]) -> None:
    lines = [f"{option}={value}" for value in values]
    others = ["data=mixture", "data.distribution.stds=null"]
    labelled = [chosen("model=mlp", *others, line) for line in lines]
    settings = [tuple((k, v) for k, v in setting if k == option) for setting, _ in labelled]
    assert label_settings(settings) == lines


def test_labels_of_choices_keep_what_does_not_follow_from_them() -> None:
    assert chosen_labels("loss=hinge", "loss=minimax model.lr=0.5", "loss=minimax") == [
        "loss=hinge model.lr=0.001",
        "loss=minimax model.lr=0.5",
        "loss=minimax model.lr=0.001",
    ]
    weights = ("regularizer=r1", "regularizer=r1 regularizer.r1.weight=0.9", "regularizer=none")
    assert chosen_labels(*weights) == [
        "regularizer=r1 regularizer.r1.weight=1.0",
        "regularizer=r1 regularizer.r1.weight=0.9",
        "regularizer=none",
    ]
    assert chosen_labels("experiment=ring_collapse", "experiment=ring_relativistic") == [
        "ring_collapse",
        "ring_relativistic",
    ]


def test_labels_are_by_class_where_a_run_has_no_choices() -> None:
    (hinge, names), (minimax, _) = chosen("loss=hinge"), chosen("loss=minimax")
    assert label_settings([hinge, minimax], [names, {}]) == ["loss=Hinge", "loss=Minimax"]


def test_a_table_names_the_choices_of_config_yaml(report: Script, tmp_path: Path) -> None:
    for loss in ("Hinge", "Minimax"):
        config = options(0, None, loss) | {"choices": {"loss": loss.lower(), "data": "ring"}}
        for seed in (0, 1):
            write(tmp_path / f"{loss}{seed}", config | {"seed": seed}, val__ks=0.5)
    assert report(tmp_path).column("setting") == ["loss=hinge", "loss=minimax"]
    assert report(tmp_path).column("seeds") == ["2", "2"]


def test_a_config_of_another_project_is_not_a_runs(report: Script, tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / str(seed), options(seed), val__ks=0.5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("data: imagenet\nmodel: resnet\n")
    assert report(tmp_path).column("seeds") == ["2"]


def test_classes_are_as_long_as_tells_them_apart() -> None:
    classes = ("package.networks.mlp.Generator", "package.networks.dcgan.Generator", "package.networks.Linear")
    assert labels(*({"generator": {"_target_": c}} for c in classes)) == [
        "generator=mlp.Generator",
        "generator=dcgan.Generator",
        "generator=Linear",
    ]


def test_runs_without_a_name_or_a_difference_are_all(report: Script, tmp_path: Path) -> None:
    write(tmp_path / "a", options(0, None), val__ks=0.5)
    assert report(tmp_path).column("setting") == ["all"]


def test_how_it_was_measured_is_in_the_label_once(report: Script, tmp_path: Path) -> None:
    for n in (100, 200):
        data = {"validation_samples": n, "features": f"own{n}", "cache": str(n), "inception_weights": n}
        changes = {"data": data, "callbacks": {"samples": {"images": n}}}
        write(tmp_path / str(n), options(0) | changes, features="cnn", val__fid=0.5)  # type: ignore[arg-type]
    assert report(tmp_path).column("setting") == ["ring n=100", "ring n=200"]


@pytest.mark.parametrize("callbacks", [{}, {"samples": {"points": 10}}])
def test_callbacks_make_no_setting(report: Script, tmp_path: Path, callbacks: dict[str, Any]) -> None:
    write(tmp_path / "0", options(0), val__ks=0.5)
    write(tmp_path / "1", options(1) | {"callbacks": callbacks}, val__ks=0.5)
    assert [row[:2] for row in report(tmp_path).rows] == [["ring", "2"]]


# ------------------------------------------------------------------------------------------------------- the marks


def bold(cells: list[str]) -> list[bool]:
    assert all(cell.startswith("**") == cell.split(" (")[0].endswith("**") for cell in cells)
    return [cell.startswith("**") for cell in cells]


SMALLER = (
    *("val/ks", "val/wasserstein", "val/jsd", "val/reverse_kl", "val/reverse_kl_high_quality", "val/total_variation"),
    *("fid", "kid", "class_kl", "l1", "intra_fid", "sliced_wasserstein", "share_error", "reconstruction_error"),
)
LARGER = (
    *("val/modes", "val/high_quality", "val/even", "val/distinct", "classes", "inception_score"),
    *("precision", "recall", "coverage", "class_accuracy", "category_match", "sine_share"),
)


@pytest.mark.parametrize(
    ("metric", "marks"),
    [
        *((metric, [True, True, False]) for metric in SMALLER),
        *((metric, [False, False, True]) for metric in LARGER),
        *((metric, [False] * 3) for metric in ("val/value", "loss/generator", "seconds", "step", "density", "c2st")),
    ],
)
def test_the_best_and_its_ties_are_bold(report: Script, tmp_path: Path, metric: str, marks: list[bool]) -> None:
    for name, mean in (("a", 1.0), ("b", 1.03), ("c", 7.0)):
        write_group(tmp_path, name, [mean - 0.1, mean, mean + 0.1], metric)
    printed = report(tmp_path, f"metrics=[{metric}]")
    (column,) = {i for i, title in enumerate(printed.header) if title.split(" ")[0] == metric.removeprefix("val/")}
    assert bold([row[column] for row in printed.rows]) == marks
    assert ("Bold: " in printed.notes[0]) == any(marks)


def test_nothing_is_bold_where_all_tie_or_seeds_are_single(report: Script, runs: Path, tmp_path: Path) -> None:
    assert bold(report(runs).column("ks ↓")) == [False, False]  # two seeds of 0.31 and 0.52 say little
    assert "Nothing is bold" in report(runs).notes[0]
    write(tmp_path / "single" / "a", options(0, "a"), val__ks=0.1)
    write(tmp_path / "single" / "b", options(0, "b"), val__ks=0.9)
    single = report(tmp_path / "single")
    assert bold(single.column("ks ↓")) == [False, False]
    assert "or the best has one seed or a failed run" in single.notes[0]
    write_group(tmp_path, "double/a", [0.1, 0.9])
    write_group(tmp_path, "double/b", [0.2, 0.8])
    assert "no setting differs significantly from the best, or" in report(tmp_path / "double").notes[0]


def test_only_settings_on_the_same_data_are_ranked(report: Script, tmp_path: Path) -> None:
    for name, center, modes in (("a", 1.0, 8), ("b", 5.0, 8), ("c", 3.0, 25), ("d", 9.0, 25)):
        data = {"distribution": {"modes": modes}, "batch_size": 64 if name in "ac" else 128}
        write_group(tmp_path, name, [center - 0.1, center, center + 0.1], data=data)
    assert bold(report(tmp_path).column("ks ↓")) == [True, False, True, False]


# ------------------------------------------------------------------------------------------------ what is not there


def test_broken_numbers_are_left_out_and_named(report: Script, tmp_path: Path) -> None:
    write_group(tmp_path, "a", [0.1, math.nan, 0.2])
    write_group(tmp_path, "b", [9.1, 9.2, math.inf])
    write_group(tmp_path, "c", [math.nan, math.nan])
    write_group(tmp_path, "d", [9.5, 9.6, 9.7])
    printed = report(tmp_path)
    assert [row[1:3] for row in printed.rows] == [
        ["3", "0.150 ± 0.050 (2 of 3)"],  # far ahead of d, and not marked
        ["3", "9.150 ± 0.050 (2 of 3)"],
        ["2", "nan (0 of 2)"],
        ["3", "9.600 ± 0.058"],
    ]
    (line,) = (note for note in printed.notes if note.startswith("Left out because missing or not finite"))
    named = [f"val/ks of {tmp_path / run}" for run in ("a/1", "b/2", "c/0", "c/1")]
    assert line == f"Left out because missing or not finite: {', '.join(named)}."


def test_a_run_that_lacks_a_metric_is_named(report: Script, tmp_path: Path) -> None:
    write(tmp_path / "0", options(0), val__ks=0.5)
    write(tmp_path / "1", options(1), val__jsd=0.5)
    printed = report(tmp_path)
    assert printed.rows == [["ring", "2", "0.5 (1 of 2)", "0.5 (1 of 2)"]]
    assert printed.notes[1].endswith(f"val/jsd of {tmp_path / '0'}, val/ks of {tmp_path / '1'}.")


def test_runs_without_metrics_are_counted_and_named(report: Script, tmp_path: Path) -> None:
    write_group(tmp_path, "a", [0.1, 0.11, 0.12])
    write_group(tmp_path, "b", [9.1, 9.2, 9.3])
    assert bold(report(tmp_path).column("ks ↓")) == [True, False]
    (tmp_path / "a" / "1" / "metrics.json").unlink()
    printed = report(tmp_path)
    assert [row[1:3] for row in printed.rows] == [["2 of 3", "0.110 ± 0.010 (2 of 3)"], ["3", "9.200 ± 0.058"]]
    assert printed.notes[1] == f"Without metrics.json (stopped, diverged or not finished): {tmp_path / 'a' / '1'}."


def test_a_config_that_is_no_runs_is_passed_over(report: Script, runs: Path) -> None:
    before = report(runs)
    (runs / "config.yaml").write_text("defaults: [model]\nmodel: {}\n")
    assert report(runs).notes == before.notes


def test_twins_are_named_and_the_first_counts(report: Script, tmp_path: Path) -> None:
    for place, value in (("a", 0.25), ("b", 0.75)):
        write(tmp_path / place, options(0), val__ks=value)
    printed = report(tmp_path)
    assert printed.rows == [["ring", "1", "0.25"]]
    assert printed.notes[1:] == [
        f"{tmp_path / 'a'} and {tmp_path / 'b'} have the same setting and seed: only the first is counted."
    ]


def test_refusals(report: Script, runs: Path, tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} is not a folder" in refusal(report, tmp_path / "nowhere")
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "config.yaml").write_text("{data: {}, model: {}}\n")
    assert f"no run with metrics.json below {tmp_path / 'stopped'}" in refusal(report, tmp_path / "stopped")
    assert "no run has val/kss: choose from seconds, step, val/ks" in refusal(report, runs, "metrics=[val/kss]")
    assert "ends.txt is not a picture" in refusal(report, runs, "figure=ends.txt")
    assert "give each a name of its own" in refusal(report, runs, "figure=a.png", "curves=a.png")
    assert "curves has nothing to draw" in refusal(report, runs, f"curves={tmp_path / 'c.png'}")
    write(tmp_path / "images" / "0", options(0, "images"), seconds=1.0)
    assert "figure has nothing to draw" in refusal(report, tmp_path / "images", f"figure={tmp_path / 'f.png'}")
    assert "no run with evaluation.json" in refusal(report, runs, "evaluation=true")


BOMB = "a0: &a0 [x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("metrics.json", "{"), ("metrics.json", "[1]"), ("metrics.json", "[" * 100_000)),
        *(("config.yaml", "a: ["), ("config.yaml", BOMB), ("config.yaml", "!!python/name:os.system")),
    ],
    ids=["cut", "list", "deep", "no YAML", "aliases", "tag"],
)
def test_unreadable_files_are_one_sentence(report: Script, runs: Path, file: str, content: str) -> None:
    (runs / "Hinge" / "2" / file).write_text(content)
    assert f"{runs / 'Hinge' / '2' / file} cannot be read" in refusal(report, runs)


def test_metrics_without_a_config_are_one_sentence(report: Script, runs: Path) -> None:
    (runs / "Hinge" / "2" / "config.yaml").unlink()
    assert f"{runs / 'Hinge' / '2'} has a metrics.json but no config.yaml" in refusal(report, runs)


# ---------------------------------------------------------------------------------------------------- evaluations


def evaluate(folder: Path, features: str | None, n: int, changes: dict[str, Any] | None = None, **metrics: Any) -> None:
    content = {
        **{"checkpoint": f"{folder}/checkpoints/last.ckpt", "step": 10, "weights": "average", "n": n, "seed": 3},
        **{"held_out": features and f"digest of {n}", "features": features, "metrics": metrics},
    }
    (folder / "evaluation.json").write_text(json.dumps(content | (changes or {})))


def test_evaluations_of_other_features_or_sizes_are_neither_averaged_nor_ranked(report: Script, runs: Path) -> None:
    for seed, fid in enumerate((1.0, 1.1, 50.0, 50.1)):
        evaluate(runs / "Hinge" / str(seed), ("mnist-cnn-a", "mnist-cnn-b")[seed // 2], 100, fid=fid)
    evaluate(runs / "Minimax" / "0", "mnist-cnn-b", 100, fid=2.0)
    evaluate(runs / "Minimax" / "1", "mnist-cnn-b", 500, fid=3.0)
    printed = report(runs, "evaluation=true")
    assert printed.header == ["setting", "seeds", "fid ↓"]
    b = "features=mnist-cnn-b"
    assert printed.rows == [
        ["ring features=mnist-cnn-a loss=Hinge n=100", "2", "1.050 ± 0.050"],
        [f"ring {b} loss=Hinge n=100", "2", "50.050 ± 0.050"],
        [f"ring {b} loss=Minimax n=100", "1", "2"],
        [f"ring {b} loss=Minimax n=500", "1", "3"],
    ]


def test_final_scores_of_other_features_are_neither_averaged_nor_ranked(report: Script, tmp_path: Path) -> None:
    for seed, (features, fid) in enumerate((("a", 1.0), ("a", 1.1), ("b", 50.0), ("b", 50.1))):
        write(tmp_path / str(seed), options(seed), features=features, val__fid=fid)  # type: ignore[arg-type]
    printed = report(tmp_path)
    assert printed.rows == [
        ["ring features=a", "2", "1.050 ± 0.050"],
        ["ring features=b", "2", "50.050 ± 0.050"],
    ]


@pytest.mark.parametrize(
    ("changes", "told_by", "is_ranked"),
    [
        ({"held_out": "other"}, ["held_out=digest of 100", "held_out=other"], False),
        ({"checkpoint": "a/checkpoints/best.ckpt", "step": 7}, ["checkpoint=last.ckpt", "checkpoint=best.ckpt"], True),
        ({"weights": "raw"}, ["weights=average", "weights=raw"], True),
    ],
)
def test_evaluations_of_other_things_are_not_averaged(
    report: Script, tmp_path: Path, changes: dict[str, Any], told_by: list[str], is_ranked: bool
) -> None:
    write_group(tmp_path, "ring", [0.1] * 6)
    for seed, fid in enumerate((1.0, 1.1, 1.2, 50.0, 50.1, 50.2)):
        evaluate(tmp_path / "ring" / str(seed), "cnn", 100, changes if seed > 2 else None, fid=fid)
    printed = report(tmp_path, "evaluation=true")
    assert {row[0]: row[2].strip("*") for row in printed.rows} == {
        f"ring {told_by[0]}": "1.100 ± 0.058",
        f"ring {told_by[1]}": "50.100 ± 0.058",
    }
    assert any(bold(printed.column("fid ↓"))) == is_ranked


def test_the_raw_generator_of_a_run_without_average_follows(report: Script, tmp_path: Path) -> None:
    for name, decay in (("average", 0.99), ("raw", 0.0)):
        write(tmp_path / name, options(0) | {"model": {"ema_decay": decay}}, val__fid=0.5)
        evaluate(tmp_path / name, "cnn", 100, {"weights": name}, fid=1.0)
    printed = report(tmp_path, "evaluation=true")
    assert printed.column("setting") == ["ring model.ema_decay=0.0", "ring model.ema_decay=0.99"]


def test_an_evaluation_from_before_the_run_went_on_is_left_out(report: Script, tmp_path: Path) -> None:
    write_group(tmp_path, "a", [0.1, 0.1, 0.1, 0.1])
    for seed, fid in enumerate((1.0, 3.0, 9.0, 9.0)):
        evaluate(tmp_path / "a" / str(seed), "cnn", 100, {"step": 6} if seed == 2 else None, fid=fid)
    (tmp_path / "a" / "3" / "metrics.json").unlink()  # nobody knows its last step
    printed = report(tmp_path, "evaluation=true")
    assert printed.rows == [["a", "2 of 4", "2.0 ± 1.0 (2 of 4)"]]
    two, three = (tmp_path / "a" / seed for seed in "23")
    assert printed.notes[1:] == [
        f"Left out because evaluated at a step other than the run's last (evaluate again): {two}.",
        f"Without metrics.json (stopped, diverged or not finished): {three}.",
    ]
    (tmp_path / "a" / "0" / "evaluation.json").unlink()
    assert (
        f"Without evaluation.json (run evaluate.py): {tmp_path / 'a' / '0'}."
        in report(tmp_path, "evaluation=true").notes
    )


@pytest.mark.parametrize("lost", ["held_out", "checkpoint", "weights", "metrics"])
def test_an_evaluation_that_does_not_say_of_what_is_one_sentence(report: Script, runs: Path, lost: str) -> None:
    evaluate(runs / "Hinge" / "0", "cnn", 100, fid=1.0)
    path = runs / "Hinge" / "0" / "evaluation.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != lost}))
    assert f"{path} lacks values to compare: run python" in refusal(report, runs, "evaluation=true")


def test_evaluations_of_one_kind_are_ranked(report: Script, runs: Path) -> None:
    for seed, coverage in enumerate((0.9, 0.91, 0.92, 0.93)):
        evaluate(runs / "Hinge" / str(seed), None, 100, coverage=coverage)
    for seed in range(2):
        evaluate(runs / "Minimax" / str(seed), None, 100, coverage=0.2 + 0.01 * seed, kid=None)
    printed = report(runs, "evaluation=true")
    assert bold(printed.column("coverage ↑")) == [True, False]
    assert printed.column("kid ↓") == ["", "nan (0 of 2)"]
    (runs / "Hinge" / "3" / "evaluation.json").unlink()
    assert report(runs, "evaluation=true").column("seeds") == ["3 of 4", "2"]


def test_what_validation_measured_with_does_not_part_evaluations(report: Script, tmp_path: Path) -> None:
    for name, center, samples in (("a", 1.0, 0), ("b", 9.0, 500)):
        write_group(tmp_path, name, [center, center + 0.1, center + 0.2], data={"validation_samples": samples})
        for seed in range(3):
            evaluate(tmp_path / name / str(seed), "inception", 100, fid=center + 0.1 * seed)
    assert bold(report(tmp_path).column("ks ↓")) == [False, False]
    assert bold(report(tmp_path, "evaluation=true").column("fid ↓")) == [True, False]


# ------------------------------------------------------------------------------------------------ CSV and pictures


def test_the_csv_has_the_numbers_in_full(report: Script, tmp_path: Path) -> None:
    values = {"a": [0.1, 0.12, 0.13], "b": [0.9, 0.8, math.nan], "c": [0.95, 0.96, 0.97]}
    for name, group in values.items():
        write_group(tmp_path, name, group)
    write(tmp_path / "d", options(0, "d"), val__value=-1.0)
    report(tmp_path, f"csv={tmp_path / 'made' / 'table.csv'}")
    with (tmp_path / "made" / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["setting"], line["metric"], line["best"]) for line in lines] == [
        ("a", "val/ks", "1"),
        ("b", "val/ks", "0"),
        ("c", "val/ks", "0"),
        ("d", "val/value", ""),
    ]
    for line, group in zip(lines, values.values(), strict=False):
        finite = [v for v in group if math.isfinite(v)]
        assert (line["seeds"], line["values"]) == ("3", str(len(finite)))
        assert float(line["mean"]) == pytest.approx(np.mean(finite), rel=1e-12)
        assert float(line["standard_error"]) == pytest.approx(sem(finite), rel=1e-12)
    assert (float(lines[-1]["mean"]), lines[-1]["standard_error"]) == (-1, "nan")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that are saved, by the name that their file will have; they are written too."""
    figures = {}
    save = Figure.savefig

    def savefig(figure: Figure, path: Path) -> None:
        save(figure, path)
        figures[path.name.removeprefix(".").replace(f".{os.getpid()}@{HOST}", "")] = figure

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def test_the_figure_has_means_errors_and_seeds(report: Script, drawn: dict[str, Figure], tmp_path: Path) -> None:
    values = {"a": [0.1, 0.12, 0.13], "b": [0.8, 0.9, 0.85], "c": [0.5]}
    for name, group in values.items():
        write_group(tmp_path, name, group)
    write_group(tmp_path, "d", [8.0, 8.0], "val/modes")
    report(tmp_path, f"figure={tmp_path / 'f.png'}")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    report(tmp_path, f"figure={tmp_path / 'f.JPG'}")
    assert (tmp_path / "f.JPG").read_bytes().startswith(b"\xff\xd8")
    ks, modes = drawn["f.png"].axes
    assert (ks.get_title(loc="left"), modes.get_title(loc="left")) == ("ks ↓", "modes ↑")
    assert [label.get_text() for label in ks.get_yticklabels()] == ["a", "b", "c", "d"]
    dots = [line for line in ks.lines if line.get_marker() == "."]
    assert [line.get_xdata().tolist() for line in dots] == list(values.values())
    assert [set(line.get_ydata()) for line in dots] == [{0}, {1}, {2}]
    for bars, (i, group), marker in zip(ks.containers, enumerate(values.values()), ("D", "o", "o"), strict=True):
        point, _, spans = bars.lines
        assert (point.get_xdata(), point.get_ydata()) == (pytest.approx(np.mean(group)), i)
        assert point.get_marker() == marker
        reach = [np.mean(group) - sem(group), np.mean(group) + sem(group)] if len(group) > 1 else []
        assert [x for span in spans for x, _ in span.get_segments()[0]] == pytest.approx(reach)
    (container,) = modes.containers
    assert container.lines[0].get_xydata().tolist() == [[8, 3]]


@pytest.mark.parametrize(
    ("metric", "low", "high", "scale"),
    [
        ("val/ks", 0.001, 0.5, "log"),
        ("val/ks", 0.01, 0.5, "linear"),
        ("val/ks", 0.0, 0.5, "linear"),
        ("val/recall", 0.001, 0.5, "linear"),
    ],
)
def test_distances_of_several_orders_of_magnitude_have_a_logarithmic_axis(
    report: Script, drawn: dict[str, Figure], tmp_path: Path, metric: str, low: float, high: float, scale: str
) -> None:
    for name, value in (("a", low), ("b", high)):
        write(tmp_path / name, options(0, name), **{metric: value})
        write_curve(tmp_path / name, metric, {10: value})
    report(tmp_path, f"figure={tmp_path / 'f.png'}", f"curves={tmp_path / 'c.png'}")
    assert drawn["f.png"].axes[0].get_xscale() == scale
    assert drawn["c.png"].axes[0].get_yscale() == scale


def write_curve(run: Path, name: str, curve: dict[int, float]) -> None:
    with SummaryWriter(run) as writer:
        for step, value in curve.items():
            writer.add_scalar(name, value, step)


def test_curves_are_joined_on_the_steps_of_all_seeds(report: Script, drawn: dict[str, Figure], tmp_path: Path) -> None:
    write_group(tmp_path, "a", [0.1, 0.1, 0.1])
    write_group(tmp_path, "b", [0.2])
    curves = [{10: 1.0, 20: 2.0, 30: 7.0}, {10: 3.0, 15: 9.0, 20: 4.0, 30: 8.0}, {10: 8.0, 30: 0.0, 20: math.nan}]
    for seed, curve in enumerate(curves):
        write_curve(tmp_path / "a" / str(seed), "val/ks", curve)
    write_curve(tmp_path / "b" / "0", "val/ks", {10: 5.0, 20: 6.0})
    write_curve(tmp_path / "b" / "0", "val/value_bound", {10: 5.0})
    write_curve(tmp_path / "b" / "0", "loss/generator", {10: 0.5})
    write_curve(tmp_path / "b" / "0", "gradient_norm/generator", {10: 0.5})
    report(tmp_path, f"curves={tmp_path / 'c.png'}")
    ks, loss = drawn["c.png"].axes
    assert [axes.get_title(loc="left") for axes in (ks, loss)] == ["ks ↓", "loss/generator"]
    assert ks.get_xlabel() == "generator updates"
    a, b = ks.lines
    assert [(line.get_linestyle(), line.get_marker()) for line in (a, b)] == [("-", "."), ("-", ".")]
    at_10, at_30 = [1.0, 3.0, 8.0], [7.0, 8.0, 0.0]
    assert a.get_xydata().tolist() == [[10, pytest.approx(4)], [30, pytest.approx(5)]]
    assert b.get_xydata().tolist() == [[10, 5], [20, 6]]
    (band,) = ks.collections  # one seed has none
    corners = {(x, round(y, 5)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert corners == {
        (x, round(float(np.mean(v)) + s * sem(v), 5)) for x, v in ((10, at_10), (30, at_30)) for s in (-1, 1)
    }
    (legend,) = drawn["c.png"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["a (3)", "b (1)"]
    assert [line.get_color() for line in legend.get_lines()] == [a.get_color(), b.get_color()]


def test_many_settings_are_told_apart(report: Script, drawn: dict[str, Figure], tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / str(i), options(0, f"{i:02}"), val__ks=0.1)
        write_curve(tmp_path / str(i), "val/ks", dict.fromkeys(range(20), 0.1 * i))
    report(tmp_path, f"curves={tmp_path / 'c.png'}")
    lines = drawn["c.png"].axes[0].lines
    assert [(line.get_linestyle(), line.get_marker()) for line in lines] == [("-", "None")] * 10 + [("--", "None")] * 2
    assert lines[0].get_color() != lines[1].get_color()
    (legend,) = drawn["c.png"].legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{i:02} (1)" for i in range(12)]


def test_curves_are_chosen_and_their_gaps_named(report: Script, drawn: dict[str, Figure], tmp_path: Path) -> None:
    write_group(tmp_path, "a", [0.1, 0.1])
    write_group(tmp_path, "b", [0.1, 0.1])
    write_curve(tmp_path / "a" / "0", "loss/generator", {10: 0.5, 20: 0.6})
    for seed in range(2):
        write_curve(tmp_path / "b" / str(seed), "loss/generator", {10 + seed: 0.5})
    printed = report(tmp_path, "metrics=[val/ks,loss/generator]", f"curves={tmp_path / 'c.png'}")
    assert printed.header == ["setting", "seeds", "ks ↓"]
    assert [axes.get_title(loc="left") for axes in drawn["c.png"].axes] == ["loss/generator"]
    assert printed.notes[1:] == [
        "The curve of loss/generator for a is of 1 of 2 seeds.",
        "The curve of loss/generator for b is empty: its seeds share no step.",
    ]
    write_curve(tmp_path / "a" / "0", "val/ks", {10: 0.5, 20: 0.6})
    printed = report(tmp_path, "metrics=[val/ks]", f"curves={tmp_path / 'd.png'}")
    assert "There is no curve of val/ks for b." in printed.notes


def test_a_player_with_several_terms_has_a_curve_for_each(
    report: Script, drawn: dict[str, Figure], tmp_path: Path
) -> None:
    write_group(tmp_path, "a", [0.1])
    for name in (
        "discriminator",
        "discriminator/adversarial",
        "discriminator/r1",
        "generator",
        "generator/adversarial",
    ):
        write_curve(tmp_path / "a" / "0", f"loss/{name}", {10: 0.5, 20: 0.6})
    report(tmp_path, f"curves={tmp_path / 'c.png'}")
    titles = [axes.get_title(loc="left").split(" ")[0] for axes in drawn["c.png"].axes]
    assert [title for title in titles if title.startswith("loss/")] == [
        *("loss/discriminator", "loss/discriminator/adversarial", "loss/discriminator/r1", "loss/generator"),
    ]


def test_the_curves_of_a_real_run(
    report: Script, drawn: dict[str, Figure], configure: Configure, tmp_path: Path
) -> None:
    short = ("trainer.max_steps=20", "trainer.log_every_n_steps=5", "data.validation_samples=64")
    metrics = train(configure(*TINY, *short), tmp_path / "run")
    report(tmp_path, f"curves={tmp_path / 'c.png'}")
    curves = {axes.get_title(loc="left").split(" ")[0]: axes.lines[0] for axes in drawn["c.png"].axes}
    assert list(curves) == ["energy", "jsd", "ks", "value", "wasserstein", "loss/discriminator", "loss/generator"]
    for name in ("energy", "jsd", "ks", "value", "wasserstein"):
        assert curves[name].get_xydata()[-1].tolist() == [20, pytest.approx(metrics[f"val/{name}"])]
    assert curves["loss/generator"].get_xdata().tolist() == [5, 10, 15, 20]


def test_the_table_needs_no_torch(runs: Path) -> None:
    """In a process of its own; torch takes seconds."""
    code = (
        "import runpy, sys; sys.argv = ['report.py', 'runs=' + sys.argv[1]]; "
        f"runpy.run_path({str(ROOT / 'scripts' / 'report.py')!r}, run_name='__main__'); "
        "print(sorted({'torch', 'matplotlib', 'tensorboard'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------------------- a sweep that goes on

TINY = ("data.batch_size=16", "data.rounds_per_epoch=10", "trainer.accelerator=cpu", "callbacks.samples.n=100")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_stopped_sweep_goes_on(configure: Configure, tmp_path: Path) -> None:
    """The finished run is left alone, the stopped one goes on from its checkpoint, the third starts."""
    finished, stopped, new = (tmp_path / "sweep" / f"points_gaussian_seed-{i}" for i in range(3))
    train(configure(*TINY, "trainer.max_steps=30", "seed=0"), finished)
    train(configure(*TINY, "trainer.max_steps=20", "seed=1"), stopped)
    (stopped / "metrics.json").unlink()
    train(configure(*TINY, "trainer.max_steps=30", "seed=1"), tmp_path / "whole")
    shutil.copy(tmp_path / "whole" / "config.yaml", stopped)  # as if 30 had been asked for and a kill had come at 20
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    sweep = ["-m", "seed=0,1,2", "trainer.max_steps=30", *TINY, "hydra.sweep.dir=sweep"]
    result = programs.run(ROOT / "train.py", *sweep, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert f"{finished.name} has already finished" in result.stdout
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == sorted(
        folder.name for folder in (finished, stopped, new)
    )
    for run in (stopped, new):
        summary = json.loads((run / "metrics.json").read_text())
        assert (summary["step"], summary["images_seen"]) == (30, 30 * 16)
    ended, whole = weights(stopped), weights(tmp_path / "whole")
    assert all(torch.equal(ended[name], whole[name]) for name in whole)
    assert not all(torch.equal(weights(new)[name], whole[name]) for name in whole)


def test_runs_of_different_lengths_are_marked(report: Script, tmp_path: Path) -> None:
    for seed, step in ((0, 10), (1, 10), (2, 7)):
        write(tmp_path / "a" / str(seed), options(seed, "a"), val__ks=0.1)
        (tmp_path / "a" / str(seed) / "metrics.json").write_text(json.dumps({"step": step, "val/ks": 0.1}))
    write_group(tmp_path, "b", [0.1, 0.2])
    printed = report(tmp_path)
    assert printed.column("setting") == ["a (different lengths)", "b"]
    (note,) = [line for line in printed.notes if "different lengths" in line]
    places = ", ".join(f"{tmp_path}/a/{seed} at step {step}" for seed, step in ((0, 10), (1, 10), (2, 7)))
    assert note == f"a has runs of different lengths: {places}."
