"""A sweep as a whole: its number of jobs, and the worst exit status of any, in whatever process each runs."""

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

# environment variables, which jobs in separate processes inherit
PLACE, JOBS, SHARED = (f"GAN_LIGHTNING_SWEEP{name}" for name in ("", "_JOBS", "_SHARED"))

BEGUN: set[int] = set()  # this process, if it started a sweep; a job's separate process has only the environment
STATUSES: list[int] = []  # of the jobs in this process


class Outcome(Callback):
    """Hydra's callback that tells the jobs of a sweep how many they are and where to record their exit statuses."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        typed = [str(line) for line in config.hydra.overrides.task]
        overrides = OverridesParser.create().parse_overrides(typed)
        jobs = config.hydra.sweeper.get("n_trials") or size([o for o in overrides if o.is_sweep_override()])
        shared = " ".join(key_of(str(o.input_line)) for o in overrides if not o.is_sweep_override())
        BEGUN.add(os.getpid())
        os.environ.update({PLACE: os.path.abspath(config.hydra.sweep.dir), JOBS: str(jobs), SHARED: shared})
        with suppress(OSError):  # exists only if a sweep was killed
            _file().unlink()


def size(swept: list[Override]) -> int | str:
    """The number of runs in a sweep over these options."""
    if any(o.is_interval_sweep() or isinstance(o.value(), Glob) for o in swept):
        return "?"  # depends on files, or is unlimited
    return prod(sum(1 for _ in o.sweep_iterator()) for o in swept)


def announcement() -> str:
    """This job's place in the sweep, such as 2 of 6: loss=hinge seed=0."""
    job = HydraConfig.get()
    return f"{job.job.num + 1} of {os.environ.get(JOBS, '?')}: {' '.join(differing(job.overrides.task))}"


def differing(options: Sequence[str]) -> list[str]:
    """The options of a job that its sweep's jobs do not share; all options if there are none."""
    return _not_shared(options) or list(options)


def swept(options: Sequence[str]) -> list[str]:
    """The names of the options that the jobs of a sweep do not share, in whatever process; none without a sweep."""
    others = _not_shared(options) if SHARED in os.environ else []
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(others)]


def _not_shared(options: Sequence[str]) -> list[str]:
    shared = os.environ.get(SHARED, "").split()
    return [line for line in options if key_of(line) not in shared]


def key_of(override: str) -> str:
    """The name of the option that an override sets, as typed."""
    return override.partition("=")[0]


def record(status: int) -> None:
    """Record a job's exit status, in a file if it runs in a separate process and the disk allows it."""
    if is_beginner():
        STATUSES.append(status)
        return
    with suppress(OSError), _file().open("a") as file:
        file.write(f"{status}\n")


def worst_status(own: int = FINISHED) -> int:
    """The worst of this process's exit status and those that its sweep's jobs have recorded; clears the record."""
    if not is_beginner():
        return own
    statuses = [own, *STATUSES]
    STATUSES.clear()
    with suppress(OSError):
        statuses += [int(line) for line in _file().read_text().split() if line.isdecimal()]
        _file().unlink()
    return max(statuses, key=severity)


def is_beginner() -> bool:
    """Whether this process started a sweep itself, and not the process that it was forked from."""
    return os.getpid() in BEGUN


def _file() -> Path:
    return Path(os.environ[PLACE]) / ".statuses"
