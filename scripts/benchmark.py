"""Benchmark speed, memory, startup and time to quality of training against two hand-written loops.

    python scripts/benchmark.py data=FOLDER_WITH_MNIST cifar=FOLDER [json=FILE memory=true start=true quality=true]
    python scripts/benchmark.py 'workloads=[ring,gaussian_mlp]' rounds=3

complete  this package as is: Trainer.fit with all pictures and validations of an experiment;
ours      the same with progress bar, logging, EMA and checkpoints, but without pictures and validation, which the
          loops below do not have either;
tutorial  the loop in most tutorials: a DataLoader with ToTensor or new samples at every step, optimizers that are not
          fused, D's weight gradients computed in G's step too, item() of both losses;
limit     the leanest loop of the same updates: data in memory, fused optimizers, no graph for the samples in D's step,
          no gradients of D's weights in G's step, nothing else.

All four train the same networks with the same loss, batch size and learning rates, in turn, in one process. Speed is
measured in generator updates per second, after a warm-up of a quarter of the measured time. Prints every round and
tables of medians. Ratios are medians of the ratios per round, with the smallest and the largest.

speed    updates per second of all four, round by round;
memory   peak resident memory of each, in a separate process;
start    seconds of train.py --help, and of train.py to its first update, in new processes;
quality  seconds and updates that ours needs to reach a goal in validation, over seeds.
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

import json
import math
import multiprocessing
import os
import pickle
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import StringIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

from gan_lightning.checks import POSITIVE, SIZE, check_values
from gan_lightning.errors import Stopped, UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import read_options

if TYPE_CHECKING:
    from loops import System
    from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("complete", "ours", "tutorial", "limit")
SPARED = ("progress", "checkpoint", "diagnosis")  # the callbacks that ours keeps
RATIOS = (("ours", "tutorial"), ("ours", "limit"), ("complete", "tutorial"))
WARM_UP = 0.25  # as a share of the measured seconds
ENDLESS = 10**9  # updates
OFFICIAL = "cifar-10-batches-py"


@dataclass(frozen=True)
class Workload:
    """What to train: the options of train.py, and the name of the data in scripts/loops.py."""

    overrides: tuple[str, ...]
    data: str
    place: str = ""  # the option that names the folder of images

    def located(self, options: "Options") -> list[str]:
        """The options of train.py, including the folder of the data."""
        if not self.place:
            return list(self.overrides)
        folder = Path(getattr(options, self.place)).resolve()
        is_folder = self.data == "cifar" and not (folder / OFFICIAL).is_dir()
        kind = ["data=image_folder", "data.size=32"] if is_folder else []
        return [*self.overrides, *kind, f"data.root='{folder}'"]


WORKLOADS = {
    "gaussian_tutorial": Workload(("experiment=gaussian_tutorial",), "gaussian"),
    "gaussian_mlp": Workload(("experiment=gaussian_mlp",), "gaussian"),
    "mixture_tutorial": Workload(("experiment=mixture_tutorial",), "mixture"),
    "even_integers": Workload(("experiment=even_integers",), "even_bits"),
    "ring": Workload(("experiment=ring_relativistic",), "ring"),
    "mnist_mlp": Workload(("model=mlp", "data=mnist"), "mnist", "data"),
    "mnist_dcgan": Workload(("experiment=dcgan_mnist",), "mnist", "data"),
    "cifar_dcgan": Workload(("experiment=dcgan_cifar10",), "cifar", "cifar"),
    "cifar_r3gan": Workload(("experiment=r3gan_cifar10", "data.horizontal_flips=false"), "cifar", "cifar"),
}


@dataclass(frozen=True)
class Goal:
    """What to train, and the goal that its validation must reach."""

    overrides: tuple[str, ...]
    words: str
    is_met: Callable[[dict[str, Any]], bool]


GOALS = {
    "gaussian_mlp": Goal(("experiment=gaussian_mlp",), "ks <= 0.03", lambda values: values["val/ks"] <= 0.03),
    "ring": Goal(
        ("experiment=ring_relativistic",),
        "modes = 8, high_quality >= 0.90",
        lambda values: values["val/modes"] == 8 and values["val/high_quality"] >= 0.90,
    ),
}


@dataclass
class Options:
    workloads: Annotated[list[str], f"[] for all; {', '.join(WORKLOADS)}"] = field(default_factory=list)
    data: Annotated[Path | None, "folder that contains MNIST/raw"] = None
    cifar: Annotated[Path | None, f"folder that contains {OFFICIAL}, or images in one folder per class"] = None
    rounds: Annotated[int, "number of measurements; for quality, of seeds"] = 5
    seconds: Annotated[float, "length of one measurement, after its warm-up"] = 4.0
    json: Annotated[Path | None, "output file for all numbers"] = None
    speed: Annotated[bool, "measure speed"] = True
    memory: Annotated[bool, "measure peak resident memory"] = False
    start: Annotated[bool, "measure the startup of train.py"] = False
    quality: Annotated[bool, "measure the time to quality"] = False

    def __post_init__(self) -> None:
        check_values(self, rounds=SIZE, seconds=POSITIVE)
        for name in self.workloads:
            if name not in WORKLOADS:
                raise UsageError(f"workloads has {name!r}: choose from {', '.join(WORKLOADS)}.")
        if self.data is not None and not (self.data / "MNIST" / "raw").is_dir():
            raise UsageError(f"data={self.data} has no MNIST/raw: give the folder that contains it.")
        if self.cifar is not None and not self.cifar.is_dir():
            raise UsageError(f"cifar={self.cifar} is not a folder: give one that contains {OFFICIAL} or images.")
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise UsageError(f"json={self.json} cannot be written: its folder does not exist.")


# ------------------------------------------------------------------------------------------------------------ running


class Stopwatch:
    """Measures updates per second, from the first tick after the warm-up to the first one ``seconds`` later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.speed = math.nan
        self._begun: float | None = None
        self._start: tuple[int, float] | None = None

    def is_over(self, updates: int) -> bool:
        """Tick after ``updates`` updates; returns whether the time is over."""
        time_now = time.perf_counter()
        if self._begun is None:
            self._begun = time_now
        if self._start is None:
            if time_now - self._begun >= WARM_UP * self.seconds:
                self._start = updates, now()
            return False
        if time_now - self._start[1] < self.seconds:
            return False
        self.speed = (updates - self._start[0]) / (now() - self._start[1])
        return True


def now() -> float:
    """The time in seconds, after all queued work of a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Terminal(StringIO):
    """A terminal for the output of ours, which then draws the progress bar as for a user."""

    def isatty(self) -> bool:
        return True


def composed(overrides: Sequence[str]) -> "DictConfig":
    """The configuration of ``python train.py OVERRIDES``, on the device that the hand-written loops use."""
    import torch
    from hydra import compose, initialize_config_dir

    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=[f"trainer.accelerator={accelerator}", *overrides])


def train_ours(config: "DictConfig", **hooks: Callable[..., None]) -> None:
    """Train a configuration in a temporary folder, with a callback made of these hooks."""
    from lightning.pytorch.callbacks import LambdaCallback

    from gan_lightning.training import train

    try:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(Terminal()):
            train(config, Path(folder), extra_callbacks=[LambdaCallback(**hooks)])
    except Stopped as stopped:  # its message says how to resume, but the folder is gone
        end_at_once(stopped.signum, None)


def ours(kind: str, overrides: Sequence[str], watch: Stopwatch) -> None:
    """Train as a user would until the time is over, with pictures and validation if ``kind`` is complete."""
    config = composed([*overrides, f"trainer.max_steps={ENDLESS}"])
    if kind == "ours":
        config.callbacks = {name: config.callbacks[name] for name in SPARED}
        config.trainer.limit_val_batches = 0

    def tick(trainer: Any, *_: Any) -> None:
        trainer.should_stop |= watch.is_over(trainer.global_step)

    train_ours(config, on_train_batch_end=tick)


def build_system(workload: Workload, options: Options) -> "System":
    """Build the package's networks, loss, prior, optimizers and data of a workload for the hand-written loops."""
    from loops import IMAGES, TOYS, System

    from gan_lightning.build import build_data, build_gan

    config = composed(workload.located(options))
    data: Any = build_data(config)
    gan = build_gan(config, data.sample_shape, data.classes)
    penalties: dict[str, Any] = {name: penalty.weight for name, penalty in gan.game.regularizers.items()}
    system = System(
        gan.game.generator,
        gan.game.discriminator,
        gan.game.loss,
        gan.game.prior,
        gan.generator_optimizer,
        gan.discriminator_optimizer,
        gan.order,
        gan.reuse_fakes,
        data.batch_size,
        draw=TOYS.get(workload.data),
        **penalties,
    )
    if not workload.place:
        return system
    data.prepare_data()
    data.setup()
    return replace(system, images=data.images, dataset=IMAGES[workload.data](getattr(options, workload.place)))


# ------------------------------------------------------------------------------------------------------- measurements


def measure_speed(name: str, options: Options) -> dict[str, list[float]]:
    """Measure updates per second of each kind, round by round."""
    from loops import LOOPS

    system = build_system(WORKLOADS[name], options)
    speeds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for i in range(options.rounds):
        for kind in (*KINDS[i % len(KINDS) :], *KINDS[: i % len(KINDS)]):  # in rotating order
            watch = Stopwatch(options.seconds)
            if kind in LOOPS:
                LOOPS[kind](system).train(watch.is_over)
            else:
                ours(kind, WORKLOADS[name].located(options), watch)
            speeds[kind].append(watch.speed)
        latest = ", ".join(f"{kind} {values[-1]:.4g}" for kind, values in speeds.items())
        print(f"{name}, round {i + 1}: {latest} updates/s", flush=True)
    return speeds


def measure_memory(name: str, options: Options) -> dict[str, float]:
    """Measure the peak resident memory of each kind, in MiB."""
    system = build_system(WORKLOADS[name], options)
    # each hand-written loop gets only its own form of the images
    parts = {"tutorial": replace(system, images=None), "limit": replace(system, dataset=None)}
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            file = Path(folder) / kind
            file.write_bytes(pickle.dumps(parts.get(kind)))
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                job = pool.submit(peak_of, kind, WORKLOADS[name].located(options), file, options.seconds)
                peaks[kind] = job.result()
    return peaks


def peak_of(kind: str, overrides: Sequence[str], file: Path, seconds: float) -> float:
    """Train in this process with only the imports that it needs; returns its peak resident memory in MiB."""
    watch = Stopwatch(seconds)
    if kind in ("complete", "ours"):
        ours(kind, overrides, watch)
    else:
        from loops import LOOPS

        with file.open("rb") as stream:
            system = pickle.load(stream)
        LOOPS[kind](system).train(watch.is_over)
    return peak_resident()


def peak_resident() -> float:
    """The peak resident set of this process, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # on Linux, children inherit their parent's ru_maxrss
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) / 2**10


def measure_start() -> dict[str, float]:
    """Measure the seconds of train.py --help, and of train.py until it prints its first update."""
    program = [sys.executable, str(ROOT / "train.py")]
    began = time.perf_counter()
    subprocess.run([*program, "--help"], check=True, stdout=subprocess.DEVNULL)
    help_seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        once = ["trainer.max_steps=1", "callbacks.progress.every_seconds=0", f"hydra.run.dir='{folder}'"]
        began = time.perf_counter()
        with subprocess.Popen([*program, *once], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - began
            process.communicate()
    if "step 1/1" not in line:
        raise UsageError(f"python train.py {' '.join(once)} printed no first update: run it to see why.")
    return {"help": help_seconds, "first update": seconds}


def measure_quality(goal: Goal, seed: int) -> dict[str, float | None]:
    """Measure seconds and updates of ours until a validation meets the goal; None if none does."""
    reached: dict[str, float | None] = {"seconds": None, "updates": None}
    began: list[float] = []

    def validated(trainer: Any, *_: Any) -> None:
        if goal.is_met(trainer.callback_metrics):
            reached.update(seconds=now() - began[0], updates=trainer.global_step)
            trainer.should_stop = True

    def started(*_: Any) -> None:
        began.append(now())

    train_ours(composed([*goal.overrides, f"seed={seed}"]), on_train_start=started, on_validation_end=validated)
    return reached


# ------------------------------------------------------------------------------------------------------------- tables


def machine() -> dict[str, Any]:
    """The machine and the versions used."""
    import lightning
    import torch

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "date": datetime.now().isoformat(" ", "minutes"),
    }


def processor() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text()) if information.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speed_table(results: dict[str, dict[str, list[float]]]) -> str:
    rows = []
    for name, speeds in results.items():
        medians = [f"{median(speeds[kind]):.4g}" for kind in KINDS]
        ratios = [[a / b for a, b in zip(speeds[one], speeds[other], strict=True)] for one, other in RATIOS]
        rows.append([name, *medians, *map(spread, ratios)])
    return table(["updates/s", *KINDS, *map("/".join, RATIOS)], rows)


def memory_table(results: dict[str, dict[str, float]]) -> str:
    rows = []
    for name, peaks in results.items():
        numbers = [*(peaks[kind] for kind in KINDS), peaks["ours"] - peaks["limit"]]
        rows.append([name, *(f"{number:.0f}" for number in numbers)])
    return table(["peak MiB", *KINDS, "ours - limit"], rows)


def start_table(results: dict[str, list[float]]) -> str:
    return table(["start", "seconds"], [[name, spread(seconds)] for name, seconds in results.items()])


def quality_table(results: dict[str, list[dict[str, float | None]]]) -> str:
    rows = []
    for name, runs in results.items():
        reached = [{what: value for what, value in run.items() if value is not None} for run in runs]
        reached = [run for run in reached if run]
        medians = [f"{median(run[what] for run in reached):.4g}" if reached else "" for what in ("seconds", "updates")]
        rows.append([name, GOALS[name].words, f"{len(reached)} of {len(runs)}", *medians])
    return table(["quality", "goal", "seeds that reach it", "their median seconds", "updates"], rows)


def chosen(options: Options) -> list[str]:
    """The workloads whose data is given; prints a line for each of the others."""
    names = options.workloads or list(WORKLOADS)
    for name in names:
        place = WORKLOADS[name].place
        if place and getattr(options, place) is None:
            print(f"{name} is left out: give {place}=FOLDER")
    return [name for name in names if not WORKLOADS[name].place or getattr(options, WORKLOADS[name].place)]


def benchmark(options: Options) -> dict[str, Any]:
    """Run the requested measurements and print them part by part."""
    results: dict[str, Any] = {"machine": machine(), "seconds": options.seconds}
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    names = chosen(options) if options.speed or options.memory else []
    if options.speed:
        results["speed"] = {name: measure_speed(name, options) for name in names}
        print(speed_table(results["speed"]))
    if options.memory:
        results["memory"] = {name: measure_memory(name, options) for name in names}
        print(memory_table(results["memory"]))
    if options.start:
        starts = [measure_start() for _ in range(options.rounds)]
        results["start"] = {name: [start[name] for start in starts] for name in starts[0]}
        print(start_table(results["start"]))
    if options.quality:
        seeds = range(options.rounds)
        results["quality"] = {name: [measure_quality(goal, seed) for seed in seeds] for name, goal in GOALS.items()}
        print(quality_table(results["quality"]))
    return results


def main() -> None:
    options = read_options(Options, __doc__)
    try:
        results = benchmark(options)
        if options.json is not None:
            with written_aside(options.json) as aside:
                aside.write_text(json.dumps(results, indent=2) + "\n")
    except (UsageError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
