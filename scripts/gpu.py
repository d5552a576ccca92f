"""Check and measure training on a GPU, in a few minutes.

    python scripts/gpu.py data=FOLDER_WITH_MNIST [cifar=FOLDER seconds=3 json=FILE speed=false]

Checks:

same draws         in double precision, a GPU and the CPU train the same weights, since they draw the same numbers;
repeat             with trainer.deterministic=true, a second run trains the same weights, bit for bit;
resume             so does a run that stops halfway and is resumed;
no waiting         no round waits for the GPU, except to log (torch.cuda.set_sync_debug_mode);
half precision     bf16-mixed and 16-mixed resume bit for bit, the latter with its gradient scaler;
compiled           in double precision, compiled networks train the same weights;
CUDA graphs        replayed updates train the same weights bit for bit, with penalties, labels and bf16-mixed too;
two GPUs           two processes train the same weights as one, up to the order of sums.

Speed is measured in real images per second, each setting after its own warm-up, with the package as a user runs it but
without pictures and validation (ours), the loop of most tutorials and the leanest loop (see scripts/benchmark.py).
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import MISSING

from gan_lightning.checks import POSITIVE, check_values
from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import read_options

if TYPE_CHECKING:
    from benchmark import Options as Places
    from benchmark import Workload
    from torch import Tensor

STEPS = 40  # updates of a check
SMALL = ("model=dcgan", "data=mnist", "model.generator.width=16", "model.discriminator.width=16")
EXACT = ("trainer.deterministic=true", "logger=none", "trainer.limit_val_batches=0", "trainer.log_every_n_steps=7")
BF16, FP16 = "trainer.precision=bf16-mixed", "trainer.precision=16-mixed"
COMPILED, GRAPHS = "trainer.compile=true", "trainer.cuda_graphs=true"
OURS = {
    "fp32": (),
    "TF32": ("trainer.float32_matmul_precision=high",),
    "bf16": (BF16,),
    "fp16": (FP16,),
    "fp32 CUDA graphs": (GRAPHS,),
    "bf16 CUDA graphs": (BF16, GRAPHS),
}
SPEEDS = (("mnist_dcgan", 64), ("mnist_dcgan", 512), ("cifar_r3gan", 256))  # workloads and batch sizes


@dataclass
class Options:
    data: Annotated[Path, "folder that contains MNIST/raw"] = MISSING
    cifar: Annotated[Path | None, "folder of CIFAR-10, as of scripts/benchmark.py"] = None
    seconds: Annotated[float, "length of one measurement, after its warm-up"] = 3.0
    json: Annotated[Path | None, "output file for all numbers"] = None
    checks: Annotated[bool, "run the checks"] = True
    speed: Annotated[bool, "measure speed"] = True

    def __post_init__(self) -> None:
        check_values(self, seconds=POSITIVE)
        if not (self.data / "MNIST" / "raw").is_dir():
            raise UsageError(f"data={self.data} has no MNIST/raw: give the folder that contains it.")


# ------------------------------------------------------------------------------------------------------------- checks


def train_weights(folder: Path, options: Options, *overrides: str) -> "dict[str, Tensor]":
    """Train in this folder, or resume there; returns weights, buffers and the losses since the last logged line."""
    from benchmark import composed

    from gan_lightning.checkpoints import read_checkpoint
    from gan_lightning.training import train

    config = composed([*SMALL, *EXACT, f"trainer.max_steps={STEPS}", f"data.root='{options.data}'", *overrides])
    config.callbacks = {name: config.callbacks[name] for name in ("progress", "checkpoint")}
    train(config, folder)
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    tensors = saved["state_dict"] | {"losses": saved["gan"]["losses"]["values"]}
    return {name: value.double().cpu() for name, value in tensors.items() if value.is_floating_point()}


def difference(one: "dict[str, Tensor]", other: "dict[str, Tensor]") -> float:
    """The largest difference of any number, as a share of the largest in its tensor, or of 1e-3 if that is larger."""
    import torch

    shares = [(a - other[name]).abs().max() / a.abs().max().clamp(min=1e-3) for name, a in one.items() if a.numel()]
    return torch.stack(shares).max().item()  # nan if there is one


def compare(first: Sequence[str], second: Sequence[str]) -> Callable[[Path, Options], float]:
    """A check that training with either of two lists of options gives the same weights."""

    def check(folder: Path, options: Options) -> float:
        one, other = (train_weights(folder / str(i), options, *part) for i, part in enumerate((first, second)))
        return difference(one, other)

    return check


def resumed(*overrides: str) -> Callable[[Path, Options], float]:
    """A check that a run that stops halfway and is resumed trains the same weights as one that does not stop."""

    def check(folder: Path, options: Options) -> float:
        whole = train_weights(folder / "whole", options, *overrides)
        half = [*overrides, "resume=true"]
        train_weights(folder / "half", options, *half, f"trainer.max_steps={STEPS // 2}")
        return difference(whole, train_weights(folder / "half", options, *half))

    return check


def never_waits(folder: Path, options: Options) -> float:
    """Train with every wait for the GPU inside a round raised as an error, and without logging."""
    import torch
    from benchmark import composed, train_ours

    def watched(mode: str) -> Callable[..., None]:
        return lambda *_: torch.cuda.set_sync_debug_mode(mode)

    config = composed([*SMALL, f"trainer.max_steps={STEPS}", f"data.root='{options.data}'", "logger=none"])
    config.trainer.limit_val_batches = 0
    config.callbacks = {}
    config.trainer.log_every_n_steps = 10**6
    try:
        train_ours(config, on_train_batch_start=watched("error"), on_train_batch_end=watched("default"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0.0


PENALIZED = [
    "regularizer=[r1,r2,gradient_penalty]",
    "regularizer.r1.interval=4",
    "loss=relativistic",
    "model.critic_steps=2",
]
SIMULTANEOUS = ["model.order=simultaneous", "model.reuse_fakes=true", "model.critic_steps=2", "regularizer=r1"]
PARTED = ["model.order=simultaneous", "trainer.accumulate_grad_batches=2"]
LABELED = ["model.conditional=true", "augment=diffaugment", "trainer.accumulate_grad_batches=2"]
DOUBLE, ON_CPU = "trainer.precision=64-true", "trainer.accelerator=cpu"
CHECKS: dict[str, tuple[Callable[[Path, Options], float], float]] = {  # with the largest difference allowed
    "same draws": (compare([DOUBLE, "trainer.max_steps=10"], [DOUBLE, "trainer.max_steps=10", ON_CPU]), 1e-9),
    "repeat": (compare([], []), 0.0),
    "resume": (resumed(), 0.0),
    "resume, bf16-mixed": (resumed(BF16), 0.0),
    "resume, 16-mixed": (resumed(FP16), 0.0),
    "no waiting": (never_waits, 0.0),
    "compiled": (compare([DOUBLE, "trainer.max_steps=10"], [DOUBLE, "trainer.max_steps=10", COMPILED]), 1e-9),
    "CUDA graphs": (compare([], [GRAPHS]), 0.0),
    "CUDA graphs, bf16-mixed": (compare([BF16], [BF16, GRAPHS]), 0.0),
    "CUDA graphs, penalties": (compare(PENALIZED, [*PENALIZED, GRAPHS]), 0.0),
    "CUDA graphs, labels, DiffAugment": (compare(LABELED, [*LABELED, GRAPHS]), 0.0),
    "CUDA graphs, simultaneous": (compare(SIMULTANEOUS, [*SIMULTANEOUS, GRAPHS]), 0.0),
    "CUDA graphs, simultaneous, bf16-mixed": (compare([*PARTED, BF16], [*PARTED, BF16, GRAPHS]), 0.0),
    "CUDA graphs, resume": (resumed(GRAPHS), 0.0),
}
TWO = ["data.batch_size=32", "trainer.devices=2", "model.generator.batch_norm=false"]
PAIR = compare(["data.batch_size=64", "model.generator.batch_norm=false"], TWO), 1e-3


def run_checks(options: Options) -> dict[str, Any]:
    """Run all checks and print a line for each; an error of one does not end the others."""
    import torch

    results = {}
    checks = dict(CHECKS)
    if torch.cuda.device_count() > 1:
        checks["two GPUs"] = PAIR
    for name, (check, limit) in checks.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                value = check(Path(folder), options)
                verdict = "passed" if value <= limit else "FAILED"
                results[name] = {"difference": value, "limit": limit, "verdict": verdict}
            except Exception as error:
                traceback.print_exc()
                results[name] = {"verdict": "FAILED", "error": f"{type(error).__name__}: {error}"}
        print(f"{name}: {results[name]}", flush=True)
    return results


# -------------------------------------------------------------------------------------------------------------- speed


def loop_speed(kind: str, workload: "Workload", options: Options, context: AbstractContextManager[Any]) -> float:
    """Updates per second of a hand-written loop."""
    from benchmark import Stopwatch, build_system
    from loops import LOOPS

    watch = Stopwatch(options.seconds)
    with context:
        LOOPS[kind](build_system(workload, places(options))).train(watch.is_over)
    return watch.speed


def places(options: Options) -> "Places":
    """The folders of the data, as scripts/benchmark.py takes them."""
    from benchmark import Options as Places

    return Places(data=options.data, cifar=options.cifar)


def our_speed(workload: "Workload", options: Options, overrides: Sequence[str]) -> float:
    from benchmark import Stopwatch, ours

    watch = Stopwatch(options.seconds)
    ours("ours", [*workload.located(places(options)), *overrides], watch)
    return watch.speed


def measure_speed(name: str, batch_size: int, options: Options) -> dict[str, float]:
    """Images per second of every setting; nan for one that does not run."""
    import torch
    from benchmark import WORKLOADS, Workload

    base = WORKLOADS[name]
    workload = Workload((*base.overrides, f"data.batch_size={batch_size}"), base.data, base.place)
    settings: dict[str, Callable[[], float]] = {
        "tutorial fp32": lambda: loop_speed("tutorial", workload, options, nullcontext()),
        "limit fp32": lambda: loop_speed("limit", workload, options, nullcontext()),
        "limit fp32 CUDA graph": lambda: loop_speed("graphed", workload, options, nullcontext()),
        # without a cache, which would keep the first updates' weights
        "limit bf16": lambda: loop_speed(
            "limit", workload, options, torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
        ),
    }
    settings |= {name: partial(our_speed, workload, options, part) for name, part in OURS.items()}
    speeds = {}
    for setting, measure in settings.items():
        try:
            speeds[setting] = batch_size * measure()
        except Exception as error:
            speeds[setting] = float("nan")
            print(f"{name}, {setting}: {type(error).__name__}: {error}", flush=True)
        print(f"{name}, batch size {batch_size}, {setting}: {speeds[setting]:.0f} images/s", flush=True)
    return speeds


def main() -> None:
    options = read_options(Options, __doc__)
    import torch
    from benchmark import WORKLOADS, machine, table

    if not torch.cuda.is_available():
        raise UsageError("torch finds no GPU here: run this on a machine with one, or scripts/benchmark.py.")
    results: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    if options.checks:
        results["checks"] = run_checks(options)
        torch.use_deterministic_algorithms(False)
    if options.speed:
        rows = {}
        for name, batch_size in SPEEDS:
            if WORKLOADS[name].place == "data" or options.cifar:
                rows[f"{name}, {batch_size}"] = measure_speed(name, batch_size, options)
        results["speed"] = rows
        names = list(next(iter(rows.values())))
        print(table(["images/s", *rows], [[name, *(f"{row[name]:.0f}" for row in rows.values())] for name in names]))
    if options.json is not None:
        with written_aside(options.json) as aside:
            aside.write_text(json.dumps(results, indent=2) + "\n")
    failed = [name for name, result in results.get("checks", {}).items() if result["verdict"] != "passed"]
    if failed:
        sys.exit(f"Error: {len(failed)} of {len(results['checks'])} checks failed: {'; '.join(failed)}.")


if __name__ == "__main__":
    try:
        main()
    except (UsageError, OSError) as error:
        sys.exit(f"Error: {error}")
