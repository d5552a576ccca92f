"""scripts/race.py: what runs have after the same seconds, measured once, against evaluate.py's own figures."""

import csv
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from composing import composed
from conftest import ROOT
from helpers import TOY
from PIL import Image

from gan_lightning import training
from gan_lightning.callbacks import clock

RACE = ("callbacks=race", "callbacks.clock.at_seconds=[2,5]")
QUIET = ("logger=none", "trainer.limit_val_batches=0", *TOY)


class Time:
    """A second passes whenever it is looked at, so that a batch, of four updates, takes one."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """scripts/race.py, which is no part of the package, beside those that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield import_module("race")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a setting that lasts five seconds, one that ends by itself after three, and one without a clock."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", Time())
        for name, options in {
            "long/0": ("name=long", *RACE),
            "long/1": ("name=long", "seed=1", *RACE),
            "short/0": ("name=short", "loss=hinge", "trainer.max_steps=12", *RACE),
            "other/0": ("name=other", "trainer.max_steps=4"),
        }.items():
            training.train(composed(*QUIET, *options), folder / name)
    return folder


def race(script: ModuleType, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["race.py", "at=[2,5]", "metrics=[ks,wasserstein]", "n=200", *arguments])
        script.main()


def test_a_table_after_the_same_seconds(
    script: ModuleType, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    race(script, f"runs={runs}", f"out={tmp_path / 'race.png'}", f"csv={tmp_path / 'race.csv'}")
    printed, told = capsys.readouterr()
    header, _, *rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert header == "| setting | seeds | 2 s/ks ↓ | 5 s/ks ↓ | 2 s/wasserstein ↓ | 5 s/wasserstein ↓ |"
    assert [row.split(" | ")[0] for row in rows] == ["| long", "| short"]
    assert f"Without a checkpoint of these times (train with callbacks=race): {runs / 'other' / '0'}." in printed
    assert len(told.splitlines()) == 6  # what was measured: two times of each run, one of them at the run's own end

    with (tmp_path / "race.csv").open(newline="") as file:
        table = {(row["setting"], row["metric"]): row for row in csv.DictReader(file)}
    expected = {
        ("long", "2 s/step"): 8,
        ("long", "5 s/step"): 20,
        ("long", "5 s/seconds"): 5,
        ("long", "2 s/images_seen"): 64,
        ("short", "2 s/step"): 8,
        ("short", "5 s/step"): 12,  # the end of the run
        ("short", "5 s/seconds"): 3,
    }
    assert {place: float(table[place]["mean"]) for place in expected} == expected
    evaluate = import_module("gan_lightning.commands.evaluate")
    places = [runs / "long" / seed / "checkpoints" / "at_2s.ckpt" for seed in "01"]
    ks = [evaluate.evaluate(evaluate.Options(place, n=200))["metrics"]["val/ks"] for place in places]
    cell = table["long", "2 s/ks"]
    assert (cell["seeds"], cell["values"]) == ("2", "2")
    assert float(cell["mean"]) == pytest.approx(sum(ks) / 2)
    assert float(cell["standard_error"]) == pytest.approx(abs(ks[0] - ks[1]) / 2)
    with Image.open(tmp_path / "race.png") as picture:
        assert picture.size[0] == 800  # of two panels, seconds and images, for each metric

    # what is known is read, and only what has gone is measured again
    (runs / "long" / "1" / "checkpoints" / "at_5s.json").unlink()
    race(script, f"runs={runs}")
    again, told = capsys.readouterr()
    assert again == printed
    assert told.endswith("at_5s.ckpt: 5.0 s, step 20\n")
    monkeypatch.setattr(evaluate, "evaluate", None)
    race(script, f"runs={runs}")
    assert capsys.readouterr() == (printed, "")
    for other in ("n=300", "root=elsewhere"):  # another measurement
        with pytest.raises(TypeError):
            race(script, f"runs={runs / 'long'}", other)


def test_another_checkpoint_of_that_name_is_measured_again(script: ModuleType, runs: Path) -> None:
    path = runs / "short" / "0" / "checkpoints" / "at_2s.ckpt"
    first = script.measure(path, script.Options([runs], n=200))
    former = path.read_bytes()
    path.write_bytes((runs / "long" / "0" / "checkpoints" / "at_5s.ckpt").read_bytes())
    other = script.measure(path, script.Options([runs], n=200))
    path.write_bytes(former)
    assert (first["step"], other["step"]) == (8, 20)
    assert (
        script.measure(path, script.Options([runs], n=200))
        == first
        == json.loads(path.with_suffix(".json").read_text())
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"metrics": "[fid]"}, r"no run has fid: choose from .*ks"),
    ({"at": "[2,3]"}, r"no run keeps a checkpoint after 3 s: give times of at=\[2,5\]"),
    (
        {"runs": "other", "at": "[2,3]"},
        r"no run below .* has kept a checkpoint after 2, 3 s: train with callbacks=race",
    ),
    ({"at": "[]"}, r"at is \[\]: give a list of numbers above 0"),
    ({"at": "[0]"}, r"at is \[0\.0\]: give a list of numbers above 0"),
    ({"metrics": "[]"}, r"metrics is empty: give names"),
    ({"n": "0"}, r"n is 0: give a whole number, at least 1"),
    ({"out": "a.png", "csv": "a.png"}, r"out and csv are both a\.png: give each its own file"),
    ({"out": "a.gif"}, r"a\.gif is not a picture format that can be written"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_what_cannot_be_compared_is_one_sentence(
    script: ModuleType, runs: Path, options: dict[str, str], sentence: str
) -> None:
    given = {"runs": "long"} | options
    with pytest.raises(SystemExit, match=rf"^Error: {sentence}.*\.$"):
        race(script, *(f"{name}={runs / value if name == 'runs' else value}" for name, value in given.items()))
