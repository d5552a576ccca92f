"""A sweep as a whole: how many jobs it has, and the worst end of any, whatever process each runs in."""

import os
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from gan_lightning.errors import FINISHED, severity

# in the environment, which jobs in processes of their own get
PLACE, JOBS, SHARED = (f"GAN_LIGHTNING_SWEEP{name}" for name in ("", "_JOBS", "_SHARED"))

BEGUN: set[int] = set()  # this process, where it has begun a sweep; a job's own has the environment alone
STATUSES: list[int] = []  # of the jobs in this process


class Outcome(Callback):
    """Of a sweep: tells its jobs, before the first, how many they are and where to say how they ended."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        typed = [str(line) for line in config.hydra.overrides.task]
        overrides = OverridesParser.create().parse_overrides(typed)
        jobs = config.hydra.sweeper.get("n_trials") or size([o for o in overrides if o.is_sweep_override()])
        shared = " ".join(key_of(str(o.input_line)) for o in overrides if not o.is_sweep_override())
        BEGUN.add(os.getpid())
        os.environ.update({PLACE: os.path.abspath(config.hydra.sweep.dir), JOBS: str(jobs), SHARED: shared})
        with suppress(OSError):  # there is none, but for a sweep that was killed
            _file().unlink()


def size(swept: list[Override]) -> int | str:
    """How many runs a sweep over these options has."""
    if any(o.is_interval_sweep() or isinstance(o.value(), Glob) for o in swept):
        return "?"  # which depends on files, or has no end
    return prod(sum(1 for _ in o.sweep_iterator()) for o in swept)


def announcement() -> str:
    """This job among the sweep's: 2 of 6: loss=hinge seed=0."""
    job = HydraConfig.get()
    return f"{job.job.num + 1} of {os.environ.get(JOBS, '?')}: {' '.join(differing(job.overrides.task))}"


def differing(options: Sequence[str]) -> list[str]:
    """Of a job's options those that its sweep does not have in common; all where there are none."""
    shared = os.environ.get(SHARED, "").split()
    return [line for line in options if key_of(line) not in shared] or list(options)


def key_of(override: str) -> str:
    """What an override sets, as it was typed."""
    return override.partition("=")[0]


def record(status: int) -> None:
    """How a job of the sweep has ended; of one in a process of its own by a file, where the disk takes it."""
    if is_beginner():
        STATUSES.append(status)
        return
    with suppress(OSError), _file().open("a") as file:
        file.write(f"{status}\n")


def worst_status(own: int = FINISHED) -> int:
    """The worst of how this process ends and what the jobs of its sweep have recorded, which is then forgotten."""
    if not is_beginner():
        return own
    statuses = [own, *STATUSES]
    STATUSES.clear()
    with suppress(OSError):
        statuses += [int(line) for line in _file().read_text().split() if line.isdecimal()]
        _file().unlink()
    return max(statuses, key=severity)


def is_beginner() -> bool:
    """Whether this process has begun a sweep, and not the one that it was forked from."""
    return os.getpid() in BEGUN


def _file() -> Path:
    return Path(os.environ[PLACE]) / ".statuses"
