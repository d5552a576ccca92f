"""A run that is killed, stopped or prolonged anywhere is, in all that it leaves, the run that never was.

GAN_LIGHTNING_KILLS is how many kills, and how many other ends, are tried; each at a place of the code or a moment.
"""

import csv
import json
import os
import random
import re
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import composed
from lightning import Callback
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from test_endings import Once, kill

from gan_lightning import files, lock, loggers, resumption, training
from gan_lightning.callbacks import checkpoint as checkpoints
from gan_lightning.callbacks import curves as curves_
from gan_lightning.callbacks import samples, summary
from gan_lightning.callbacks.checkpoint import RunCheckpoint
from gan_lightning.errors import Stopped
from gan_lightning.gan import GAN
from gan_lightning.loggers import CSVFile, EventFile
from gan_lightning.pictures import write_png
from gan_lightning.player import Move, Player
from gan_lightning.rounds import Round
from gan_lightning.validation import Validation

Act = Callable[[], None]
Whole = Callable[[str], tuple[Path, Counter[str]]]  # by its limit: a run that nothing has happened to

TRIALS = int(os.environ.get("GAN_LIGHTNING_KILLS", "15"))
TINY = (
    "trainer.accelerator=cpu",
    "data=ring",
    "data.rounds_per_epoch=20",
    "data.rounds_per_batch=4",
    "data.batch_size=8",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.generator.batch_norm=true",
    "model.discriminator.widths=[8]",
    "model.critic_steps=2",
    "regularizer=[r1,gradient_penalty]",
    "logger=[tensorboard,csv]",
    "trainer.log_every_n_steps=3",
    "trainer.limit_val_batches=1.0",
    "callbacks.samples.n=20",
    "callbacks.samples.every_n_steps=20",
    "+callbacks.diagnosis.lines=2",
    "+callbacks.curves._target_=gan_lightning.callbacks.curves.LossCurves",
    "+callbacks.film._target_=gan_lightning.callbacks.animation.Animation",
)
STOPS = (
    "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.stop.monitor=val/value",
    "+callbacks.stop.min_delta=10",  # which nothing reaches: it stops at a known validation
)
LIMITS = {
    "steps": ("trainer.max_steps=50",),  # within an epoch, and within a batch
    "epochs": ("trainer.max_epochs=3",),
    "time": ("schedule=linear", "trainer.max_epochs=3", "trainer.max_time=00:01:00:00"),
    "early stopping": (*STOPS, "+callbacks.stop.patience=2", "trainer.max_epochs=9"),
    "early stopping, steps": (*STOPS, "+callbacks.stop.patience=2", "trainer.max_steps=180"),
    "validation within epochs": ("trainer.max_steps=60", "trainer.val_check_interval=2"),
    "validation across epochs": (
        *("trainer.max_steps=60", "trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=null"),
    ),
    "validation after every batch": ("trainer.max_steps=40", "trainer.val_check_interval=1"),
}


# ---------------------------------------------------------------------------------------------- the places of a kill


def always(*_: Any) -> bool:
    return True


def of(pattern: str) -> Callable[..., bool]:
    """The call is about a file of such a name."""
    return lambda path, *_: re.match(pattern, Path(path).name) is not None


def halve(path: Path, *_: Any) -> None:
    if path.stat().st_nlink == 1:  # a second link is there at once
        os.truncate(path, path.stat().st_size // 2)


def half_a_record(writer: RecordWriter, data: bytes) -> None:
    writer._writer.write(data[: len(data) // 2])


def is_of_generator(round_: Round, move: Move, terms: Any) -> bool:
    return move.player is round_.g


class Point:
    """Before or after a call of the code; ``spoil`` is what it leaves half done."""

    def __init__(
        self,
        owner: Any,
        name: str,
        matches: Callable[..., bool] = always,
        after: bool = False,
        spoil: Callable[..., None] | None = None,
    ) -> None:
        self.owner, self.name, self.matches, self.after, self.spoil = owner, name, matches, after, spoil

    def patch(self, patch: pytest.MonkeyPatch, reached: Callable[..., None]) -> None:
        """Have ``reached`` called there."""
        method = getattr(self.owner, self.name)

        def call(*args: Any, **kwargs: Any) -> Any:
            matches = self.matches(*args)
            if matches and not self.after:
                reached(*args)
            result = method(*args, **kwargs)
            if matches and self.after:
                reached(*args)
            return result

        patch.setattr(self.owner, self.name, call)

    def arm(self, count: int) -> None:
        """Kill this process when it comes there for the count-th time."""
        left = [count]

        def reached(*args: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                if self.spoil is not None:
                    self.spoil(*args)
                os.kill(os.getpid(), signal.SIGKILL)

        self.patch(pytest.MonkeyPatch(), reached)


def written(pattern: str) -> dict[str, Point]:
    """The three places of a file that is written aside."""
    return {
        "half": Point(files, "_sync", of(pattern), spoil=halve),
        "aside": Point(files, "_sync", of(pattern), after=True),
        "in place": Point(Path, "replace", of(pattern), after=True),
    }


FILES = {"config": r"\.config\.", "last": r"\.last\.", "previous": r"\.previous\.", "best": r"\.best\."}
FILES |= {"picture": r"\.\d{7}\.", "real": r"\.real\.", "metrics": r"\.metrics\.\d", "losses": r"\.losses\."}
FILES |= {"film": r"\.samples\."}
POINTS = {f"{name} {place}": point for name, pattern in FILES.items() for place, point in written(pattern).items()} | {
    "lock": Point(lock, "_sign", after=True),
    "batch": Point(GAN, "training_step"),
    "batch, after": Point(GAN, "training_step", after=True),
    "D's step": Point(Player, "step", after=True),
    "between D and G": Point(Round, "_finish", is_of_generator),
    "G's step": Point(Round, "_finish", is_of_generator, after=True),
    "line of the log": Point(GAN, "_log_line", after=True),
    "half a record": Point(RecordWriter, "write", spoil=half_a_record),
    "record": Point(RecordWriter, "write", after=True),
    "row": Point(CSVFile, "log_metrics", after=True),
    "new columns": Point(loggers, "_write_rows"),
    "validation": Point(Validation, "update"),
    "validation, after": Point(GAN, "on_validation_epoch_end", after=True),
    "best, not last": Point(RunCheckpoint, "on_validation_end", after=True),
    "epoch's end": Point(RunCheckpoint, "on_train_epoch_end"),
    "epoch's end, after": Point(RunCheckpoint, "on_train_epoch_end", after=True),
    "checkpoint": Point(checkpoints, "keep"),
    "end": Point(RunCheckpoint, "on_train_end", after=True),
    "before metrics": Point(training, "write_metrics"),
    "end of the loggers": Point(loggers, "finish"),
}
RESUMED = {  # where only a resumed run comes to
    "what is there": Point(training, "last_checkpoint", after=True),
    "loaded": Point(GAN, "on_load_checkpoint", after=True),
    "curves, before": Point(EventFile, "go_on"),
    "curves": Point(EventFile, "go_on", after=True),
    "rows": Point(CSVFile, "go_on", after=True),
    "start": Point(summary.Throughput, "on_train_start", after=True),
}


# ------------------------------------------------------------------------------------------------------------ runs


def in_child(act: Act) -> int:
    """How a process ends that does this, from what this one has imported."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        except Stopped as stopped:
            status = stopped.status
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def save_every(steps: int) -> None:
    """Checkpoints by steps, which a clock would make now and then."""
    RunCheckpoint._is_due = lambda self, trainer: trainer.global_step % steps == 0  # type: ignore[method-assign]


@pytest.fixture(autouse=True, scope="module")
def _cheap() -> Iterator[None]:
    """Pictures of plain numbers, which matplotlib would draw, and files that nobody pulls a plug under."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "drawn", lambda trainer, shown, caption: as_pixels(shown.x))
        patch.setattr(curves_, "draw_losses", lambda steps, losses, path: write_png(as_pixels([steps, losses]), path))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def as_pixels(numbers: Any) -> torch.Tensor:
    """A picture that is another one for other numbers."""
    content = repr(numbers.tolist() if isinstance(numbers, torch.Tensor) else numbers)
    return torch.frombuffer(bytearray(sha256(content.encode()).digest()), dtype=torch.uint8)[:30].view(3, 2, 5)


def configured(limit: str, *overrides: str) -> DictConfig:
    return composed(*TINY, *LIMITS[limit], *overrides)


def begun_or_resumed(config: DictConfig, folder: Path, *callbacks: Callback) -> None:
    """As the same command with resume=auto."""
    if (folder / "config.yaml").exists():
        config = resumption.resume(str(folder))
    folder.mkdir(exist_ok=True)
    training.train(config, folder, extra_callbacks=callbacks)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """By its limit: a run that nothing has happened to, and how often it has come to each point."""
    done: dict[str, tuple[Path, Counter[str]]] = {}

    def run(limit: str) -> tuple[Path, Counter[str]]:
        if limit not in done:
            counts: Counter[str] = Counter()
            with pytest.MonkeyPatch.context() as patch:
                for name, point in POINTS.items():
                    point.patch(patch, lambda *_, name=name: counts.update([name]))
                patch.setattr(RunCheckpoint, "_is_due", lambda self, trainer: trainer.global_step % 8 == 0)
                folder = tmp_path_factory.mktemp("whole")
                training.train(configured(limit), folder)
            done[limit] = folder, counts
        return done[limit]

    return run


# ------------------------------------------------------------------------------------------------------ what is left

CLOCKS = {"seconds", "images_per_second", "peak_memory_bytes", "time_elapsed", "marks"}
PLACES = {"resume", "changed_data"}


def assert_equal(a: Any, b: Any, where: str, but: set[str] = CLOCKS | PLACES) -> None:
    """In every tensor, number and name, but for clocks and places."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - but:
            assert_equal(a[key], b[key], f"{where}.{key}", but)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]", but)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def saved(folder: Path, name: str) -> Any:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def curves(folder: Path) -> dict[str, list[Any]]:
    """What TensorBoard shows: every scalar, of speeds only the steps, and the steps of pictures."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    shown: dict[str, list[Any]] = {
        tag: [(e.step, None if tag in CLOCKS else e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]
    }
    return shown | {tag: [e.step for e in events.Images(tag)] for tag in tags["images"]}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v and k not in CLOCKS} for row in csv.DictReader(file)]


def pictures(folder: Path) -> dict[str, bytes]:
    paths = [*folder.rglob("*.png"), *folder.rglob("*.gif")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def metrics(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


def assert_same_run(run: Path, whole: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        assert_equal(saved(run, name), saved(whole, name), name)
    assert_equal(curves(run), curves(whole), "TensorBoard", set())
    assert rows(run) == rows(whole)
    assert pictures(run) == pictures(whole)
    assert_equal(metrics(run), metrics(whole), "metrics.json")
    hidden = [path for path in run.rglob(".*") if path.is_file()]
    assert not hidden


# ------------------------------------------------------------------------------------------------------------- tests


def places(trial: int, counts: Counter[str], chance: random.Random) -> list[tuple[str, Act]]:
    """A trial's kills: by their names, and what arms each."""
    names = [*POINTS, *RESUMED]
    random.Random(11).shuffle(names)
    every = len(names) / min(TRIALS, len(names))  # so that any number of trials comes to most of the points
    first = names[int(trial * every) % len(names)]
    others = [chance.choice([*RESUMED, "picture half", "last aside", "half a record", "batch"]), "moment"]
    if first in RESUMED:
        others = [first, "moment"]
        first = "between D and G"
    kills: list[tuple[str, Act]] = []
    for name in (first, *others[: chance.choice([0, 1, 2]) if first not in RESUMED and others[0] != first else 2]):
        if name == "moment":
            seconds = chance.uniform(0.05, 0.5)
            kills.append((name, lambda seconds=seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None))  # type: ignore[misc]
        else:
            point, n = (POINTS | RESUMED)[name], chance.randint(1, counts[name]) if counts[name] and not kills else 1
            kills.append((f"{name} {n}", lambda point=point, n=n: point.arm(n)))  # type: ignore[misc]
    return kills


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_killed_run_is_the_run(tmp_path: Path, whole: Whole, trial: int) -> None:
    limit = list(LIMITS)[trial % len(LIMITS)]
    expected, counts = whole(limit)
    config, run, chance = configured(limit), tmp_path / "run", random.Random(trial)
    every = chance.choice([4, 8, 20, 1000])

    def train(arm: Act) -> Act:
        def act() -> None:
            save_every(every)
            arm()
            begun_or_resumed(config, run)

        return act

    for name, arm in places(trial, counts, chance):
        ended = in_child(train(arm))
        print(f"{limit}, a checkpoint every {every} steps: {name} {ended}")
        assert ended in (-signal.SIGKILL, -signal.SIGALRM, 0)
        assert ended < 0 or (run / "metrics.json").exists()
    assert in_child(train(lambda: None)) == 0
    assert_same_run(run, expected)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@pytest.mark.parametrize("trial", range(TRIALS // 2))
def test_a_stopped_run_is_the_run(tmp_path: Path, whole: Whole, trial: int) -> None:
    limit = list(LIMITS)[trial % len(LIMITS)]
    expected, _ = whole(limit)
    config, run, chance = configured(limit), tmp_path / "run", random.Random(trial)
    stop, signum = chance.randint(1, metrics(expected)["step"]), SIGNALS[trial % len(SIGNALS)]
    print(f"{limit}: {signum.name} at step {stop}")
    assert in_child(lambda: begun_or_resumed(config, run, Once(stop, kill(signum)))) == 128 + signum
    assert in_child(lambda: begun_or_resumed(config, run)) == 0
    assert_same_run(run, expected)


@pytest.mark.parametrize(
    ("limit", "step"),
    [
        *(("validation across epochs", 24), ("validation after every batch", 8)),
        *(("steps", 20), ("early stopping", 20), ("early stopping, steps", 20)),
    ],
)
def test_a_run_stops_after_the_validation_of_its_batch(tmp_path: Path, whole: Whole, limit: str, step: int) -> None:
    expected, _ = whole(limit)
    config, run = configured(limit), tmp_path / "run"
    assert in_child(lambda: begun_or_resumed(config, run, Once(step, kill(signal.SIGTERM)))) == 128 + signal.SIGTERM
    assert saved(run, "last.ckpt")["global_step"] == step
    assert [row["step"] for row in rows(run) if "val/value" in row][-1] == str(step)
    assert in_child(lambda: begun_or_resumed(config, run)) == 0
    assert_same_run(run, expected)


def test_a_checkpoint_of_the_users_sees_the_validation_that_a_run_stops_at(tmp_path: Path) -> None:
    """Whatever Lightning saves besides: resumed, the run does not repeat that validation."""
    kept = ("+callbacks.kept._target_=lightning.pytorch.callbacks.ModelCheckpoint", "+callbacks.kept.monitor=val/value")
    run = tmp_path / "run"
    config = configured("validation within epochs", *kept)
    assert in_child(lambda: begun_or_resumed(config, run, Once(8, kill(signal.SIGTERM)))) == 128 + signal.SIGTERM
    (state,) = (value for name, value in saved(run, "last.ckpt")["callbacks"].items() if "ModelCheckpoint" in name)
    assert state["current_score"].item() == pytest.approx(
        float([row for row in rows(run) if "val/value" in row][-1]["val/value"])
    )


PROLONGED = {  # by limits: a shorter one, at a step, and the longer one, of which the whole run is
    "steps": ("trainer.max_steps={}", ["trainer.max_steps=50"]),
    "epochs": ("trainer.max_epochs={}", ["trainer.max_epochs=3"]),
    "early stopping": ("callbacks.stop.patience=1", ["callbacks.stop.patience=2"]),
    "validation within epochs": ("trainer.max_steps={}", ["trainer.max_steps=60"]),
}


@pytest.mark.parametrize("trial", range(TRIALS - TRIALS // 2))
def test_a_prolonged_run_is_the_run(tmp_path: Path, whole: Whole, trial: int) -> None:
    """But for what the end of the shorter run has added: a validation and a picture."""
    limit = list(PROLONGED)[trial % len(PROLONGED)]
    expected, _ = whole(limit)
    run, chance = tmp_path / "run", random.Random(trial)
    length, longer = PROLONGED[limit]
    epoch, batch = chance.randint(1, 2), chance.randint(1, 11)
    shorter = length.format(epoch if "epochs" in length else 4 * batch)
    print(f"{limit}: {shorter}")
    assert in_child(lambda: training.train(configured(limit, shorter), run)) == 0
    end = metrics(run)["step"]
    assert in_child(lambda: training.train(resumption.resume(str(run), longer), run)) == 0
    assert_equal(saved(run, "last.ckpt"), saved(expected, "last.ckpt"), "last.ckpt")
    assert_equal(saved(run, "best.ckpt"), saved(expected, "best.ckpt"), "best.ckpt", CLOCKS | {"config", "patience"})
    assert_equal(without(curves(run), curves(expected), end), curves(expected), "TensorBoard", set())
    assert [row for row in rows(run) if row in rows(expected) or int(row["step"]) != end] == rows(expected)
    drawn = pictures(run)
    for name, picture in pictures(expected).items():
        assert drawn[name] == picture or name == "samples.gif", name
    assert_equal(metrics(run), metrics(expected), "metrics.json")


def without(shown: dict[str, list[Any]], expected: dict[str, list[Any]], step: int) -> dict[str, list[Any]]:
    """Without what is there of a step and is not expected."""
    return {
        tag: [e for e in events if (e[0] if isinstance(e, tuple) else e) != step or e in expected[tag]]
        for tag, events in shown.items()
    }
