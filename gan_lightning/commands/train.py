"""Train a GAN: gan-train model=mlp data=mnist, or python train.py in a checkout; see gan-train --help."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gan_lightning.command_line import (
    AUTO,
    Resumption,
    check_start,
    check_sweep,
    differences,
    dry_run,
    first_choices,
    for_hydra,
    options_alone,
    options_first,
    quoted_path,
    resumption,
    typed_option_names,
    undecodable,
)
from gan_lightning.config import (
    check,
    check_changes,
    check_single,
    choices_of,
    explain,
    keep_typed_length,
    one_line,
    options_of,
)
from gan_lightning.deferred import defer_rarely_used
from gan_lightning.errors import ENDINGS, Diverged, Stopped, UsageError
from gan_lightning.interruption import is_first_process, say
from gan_lightning.lock import claimed, locked
from gan_lightning.names import as_typed
from gan_lightning.objective import objective, worst
from gan_lightning.options import check_text
from gan_lightning.resumption import is_same_run, resume
from gan_lightning.sweep import announcement, record, swept, worst_status
from gan_lightning.trust import foreign_packages

PACKAGE = Path(__file__).resolve().parents[1]
# inside the package if it is installed, beside it in a checkout
CONF = next(place / "conf" for place in (PACKAGE, PACKAGE.parent) if (place / "conf" / "config.yaml").is_file())
STARTED = time.time()
TYPED: list[str] = []  # the arguments, ready for Hydra
ONLY_SHOWN: list[str] = []  # --dry-run, if it was given
MACHINERY = {"__main__", "gan_lightning", "hydra", "lightning", "torch", "contextlib", "functools"}


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(config: DictConfig) -> float | None:
    """Train one run; returns the value that a sweeper optimizes."""
    context = HydraConfig.get()
    limit_threads(context.launcher)
    sweeps = context.mode == RunMode.MULTIRUN
    folder = Path(context.runtime.output_dir)
    if sweeps:
        print(announcement(), flush=True)
    with refusals(sweeps, folder) as made:
        task = checked(config, context)
        if ONLY_SHOWN:
            only_show(config, folder, context)
            return None
        is_named = sweeps or any(line.lstrip("+").startswith("hydra.run.dir=") for line in context.overrides.hydra)
        with claimed(folder, others=not is_named) as place:
            if place != folder:
                made.append(place)
            if (sweeps or config.resume == AUTO) and is_finished(config, place):
                print(f"{place} has already finished")
            else:
                # for one job of a sweep, not the sweep again
                sys.argv[1:] = arguments_of(config, place, options_alone(TYPED) + task if sweeps else TYPED)
                start(config, place, options_of(config, context.runtime.choices, task))
        if config.trainer.fast_dev_run or not is_first_process():
            return None
        return objective(place, config.objective, context.sweeper)
    return worst(context.sweeper)  # a job of a sweep that has diverged


def checked(config: DictConfig, context: HydraConf) -> list[str]:
    """Check the configuration, add the names of the chosen options to it, and return the overrides as typed.

    Raises:
        UsageError: an option is invalid.
    """
    task, choices = as_typed(context.overrides.task), context.runtime.choices  # type: ignore[arg-type]
    overrides = OverridesParser.create().parse_overrides(task)
    for override in overrides:
        check_single(str(override.input_line).partition("=")[0], override.value())
    values = [o for o in overrides if o.key_or_group not in choices]
    keep_typed_length(config, {o.key_or_group: o.value() for o in values})
    check(config, dict(choices))
    if config.get("start_from"):
        check_start(config.start_from)
    with open_dict(config):
        config.choices = choices_of(choices)
    resumes = ["resume"] if context.mode == RunMode.MULTIRUN else []  # a job that was stopped
    check_changes(values, config, partial(typed_option_names, task, CONF), [*swept(task), *resumes])
    return task


def only_show(config: DictConfig, folder: Path, context: HydraConf) -> None:
    """Preview a run, and leave no folder behind."""
    made = is_new(folder)
    print(differences(TYPED, CONF, config, context.runtime.choices))
    from gan_lightning.dry_run import show  # takes seconds to import

    try:
        show(config, folder)
    finally:
        if made:
            remove_empty(folder)


def arguments_of(config: DictConfig, folder: Path, typed: list[str]) -> list[str]:
    """The arguments with which Lightning starts the other processes of this run."""
    if config.resume:
        accepted = [f"changed_data={config.changed_data}"]
        return [f"resume={quoted_path(folder)}", f"trust=[{','.join(foreign_packages(config))}]", *accepted]
    return [*typed, f"hydra.run.dir={quoted_path(folder)}"]


def is_finished(config: DictConfig, folder: Path) -> bool:
    """Whether a job of a sweep, or a run with resume=auto, has already finished; one that was stopped is resumed.

    Raises:
        UsageError: the folder holds another run.
    """
    config.resume = None
    if not (folder / "config.yaml").exists():
        return False
    if not is_same_run(config, folder):
        raise UsageError(f"{folder} holds a run with other options: choose another hydra.sweep.dir or hydra.run.dir.")
    config.resume = str(folder)
    return (folder / "metrics.json").exists()


def go_on(resumed: Resumption) -> None:
    """Resume an earlier run with its own options, not those that the command line would compose."""
    with refusals():
        config = resume(resumed.folder, resumed.changes, resumed.trust)
        check(config, {})
        with locked(resumed.folder):
            start(config, resumed.folder, options_of(config, {}, resumed.changes))


def start(config: DictConfig, folder: Path, options: dict[str, Any]) -> None:
    """Train with a checked configuration; the imports here take seconds."""
    defer_rarely_used(compiles=bool(config.trainer.get("compile")))
    from gan_lightning.training import train

    train(config, folder, options=options)


@contextmanager
def refusals(sweeps: bool = False, *folders: Path) -> Iterator[list[Path]]:
    """If a run does not finish, end with one sentence and its exit status, and remove empty folders.

    Add folders created inside the context to the list that it yields. A diverged run of a sweep does not stop the
    others.
    """
    made = [folder for folder in folders if is_new(folder)]
    try:
        yield made
    except SystemExit:  # a signal during start-up
        for folder in made:
            remove_empty(folder)
        raise
    except Exception as error:
        if not isinstance(error, ENDINGS):
            if not is_lightnings(error):
                raise
            error = UsageError(f"{one_line(error)}.")
        for folder in made:
            remove_empty(folder)
        sys.stdout.flush()
        say(str(error) if isinstance(error, Stopped) else f"Error: {error}")  # even if stderr is closed, a sweep ends
        if sweeps:
            record(error.status)
        if not sweeps or not isinstance(error, Diverged):
            sys.exit(error.status)


def is_lightnings(error: Exception) -> bool:
    """Whether Lightning raised the error about an option, with no other code in between."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames]
    has_begun = any(frame.f_code.co_name == "advance" for frame in frames)  # Lightning's loops
    is_about_options = isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException"
    is_about_options |= isinstance(error, RuntimeError | ImportError | AttributeError) and not has_begun
    return is_about_options and packages[-1] == "lightning" and set(packages) <= MACHINERY


def is_new(folder: Path) -> bool:
    """Whether Hydra has made the folder for this run: what was there before, even if empty, is the user's own."""
    return not folder.exists() or folder.stat().st_mtime >= STARTED


def remove_empty(folder: Path) -> None:
    """Remove the empty folder of a refused run, and empty parent folders below the current folder."""
    here = Path.cwd()
    for path in (folder, *folder.parents):
        if path == here or path in here.parents or (path != folder and here not in path.parents):
            return
        try:
            path.rmdir()
        except OSError:
            return


def limit_threads(launcher: DictConfig) -> None:
    """Limit a job beside others on this machine to one thread or its cpus_per_task, before torch is imported."""
    threads = launcher.get("cpus_per_task") or (1 if launcher._target_.endswith("LocalLauncher") else None)
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def reason(error: Exception) -> str | None:
    """Explain in one sentence an error raised before a run starts; None for errors within a run."""
    own = run.__wrapped__.__code__
    if any(frame.f_code is own for frame, _ in traceback.walk_tb(error.__traceback__)):
        return None
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, UnicodeDecodeError) and (path := undecodable(sys.argv[1:], CONF)):
        return f"{path} is not UTF-8: save it as UTF-8."
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError) or is_hydras(error):
        return explain(error, partial(typed_option_names, sys.argv[1:], CONF))
    if isinstance(error, OSError) and str(error.filename).endswith(".yaml"):
        return f"{error.filename} cannot be read: {error.strerror}: change its permissions."
    if isinstance(error, OSError):
        return f"{error.filename} cannot be created: {error.strerror}: choose another hydra.run.dir."
    if type(error).__module__.startswith("submitit"):
        last = str(error).strip().splitlines()[-1]  # printed by the job
        return last.removeprefix("Error: ") if last.startswith("Error: ") else None
    return None


def read_groups_once() -> None:
    """Let Hydra's help search the folders of configurations once, instead of once for each of its 120 groups."""
    search = ConfigLoaderImpl._parse_overrides_and_create_caching_repo
    found: dict[tuple[str | None, ...], Any] = {}

    def remembered(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Any:
        key = (config_name, *overrides)
        if key not in found:
            found[key] = search(loader, config_name, overrides)
        return found[key]

    ConfigLoaderImpl._parse_overrides_and_create_caching_repo = remembered  # type: ignore[assignment]


def begin_sweeps_with_first_choices() -> None:
    """Let Hydra compose a sweep's own configuration like that of its first run.

    Otherwise it leaves out the groups that are swept, and refuses options that only these have, such as data.root for
    experiment=a,b.
    """
    compose = ConfigLoaderImpl._load_configuration_impl

    def composed(loader: ConfigLoaderImpl, *, overrides: list[str], run_mode: RunMode, **others: Any) -> DictConfig:
        sweeps = run_mode == RunMode.MULTIRUN
        if sweeps:
            check_sweep(overrides, loader)
        typed = first_choices(overrides) if sweeps else overrides
        config = compose(loader, overrides=typed, run_mode=run_mode, **others)
        if sweeps:
            task = [line for line in overrides if line not in config.hydra.overrides.hydra]
            config.hydra.overrides.task = task  # what the sweeper expands
        return config

    ConfigLoaderImpl._load_configuration_impl = composed  # type: ignore[assignment]


def is_hydras(error: Exception) -> bool:
    """Whether Hydra raised a plain ValueError while composing, for example for a group that is null."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and str(frame.f_globals.get("__name__")).startswith("hydra.")


def main() -> None:
    """Run the command line; errors that the user can fix are printed in one sentence, without a traceback."""
    sys.path.append(os.getcwd())  # the user's own code may be in the current folder
    try:
        check_text(sys.argv[1:])
        ONLY_SHOWN[:], arguments = dry_run(sys.argv[1:])
        sys.argv[1:] = options_first(arguments)
        resumed = resumption(sys.argv[1:])
        if resumed is not None:
            return go_on(resumed)
        sys.argv[1:] = for_hydra(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"Error: {error}")
    TYPED[:] = sys.argv[1:]
    if {"--help", "-h"} & set(TYPED):
        read_groups_once()
    begin_sweeps_with_first_choices()
    if "HYDRA_FULL_ERROR" in os.environ:
        run()
        sys.exit(worst_status())
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints several lines and exits
    try:
        run()
    except SystemExit as ended:
        sys.exit(worst_status(ended.code) if isinstance(ended.code, int) else ended.code)
    except Exception as error:
        sentence = reason(error)
        if sentence is None:
            raise
        print(f"Error: {sentence}", file=sys.stderr)
        sys.exit(worst_status(UsageError.status))
    sys.exit(worst_status())
