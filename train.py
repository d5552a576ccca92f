"""Train a GAN: python train.py model=mlp data=mnist; see python train.py --help."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gan_lightning.config import NULL_GROUP, check, explain, is_same_run, options_of, resume
from gan_lightning.errors import Diverged, UsageError
from gan_lightning.objective import objective, worst


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def run(config: DictConfig) -> float | None:
    """One run, of one set of options; returns what a sweeper optimises."""
    context = HydraConfig.get()
    limit_threads(context.launcher)
    sweeps = context.mode == RunMode.MULTIRUN
    try:
        if config.resume:
            config = resume(config.resume, context.overrides.task)
        check(config, dict(context.runtime.choices))
        folder = Path(config.resume or context.runtime.output_dir)
        if sweeps:
            # Lightning starts further processes with these arguments: one job of the sweep, not the sweep again
            sys.argv[1:] = context.overrides.task
            if (folder / "config.yaml").exists():
                if not is_same_run(config, folder):
                    raise UsageError(f"{folder} holds a run of other options: choose another hydra.sweep.dir.")
                if (folder / "metrics.json").exists():
                    print(f"{folder} is finished already")
                    return objective(folder, config.objective, context.sweeper)
                config.resume = str(folder)  # a sweep that was stopped goes on where it was
                sys.argv[1:] = [f"resume='{folder}'"]

        from gan_lightning.training import train  # slow, so only now that the configuration is known to be good

        train(config, folder, options=options_of(config, context.runtime.choices, context.overrides.task))
        return objective(folder, config.objective, context.sweeper) if not config.trainer.fast_dev_run else None
    except (UsageError, Diverged) as error:
        if sweeps and isinstance(error, Diverged):
            print(f"Error: {error}", file=sys.stderr)  # the other runs go on
            return worst(context.sweeper)
        sys.exit(f"Error: {error}")
    except OmegaConfBaseException as error:
        sys.exit(f"Error: {explain(error)}")


def limit_threads(launcher: DictConfig) -> None:
    """One thread for a job beside others on this machine, or its cpus_per_task; set before torch is imported."""
    threads = launcher.get("cpus_per_task") or (1 if launcher._target_.endswith("LocalLauncher") else None)
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def main() -> None:
    """Print one sentence, not a traceback, for what the user can mend."""
    if "HYDRA_FULL_ERROR" in os.environ:
        return run()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print several lines of its own and exit
    try:
        run()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"Error: {explain(error)}")
    except ValueError as error:
        if NULL_GROUP not in str(error):
            raise
        sys.exit(f"Error: {explain(error)}")
    except RuntimeError as error:
        if not type(error).__module__.startswith("submitit"):
            raise
        sys.exit(str(error).strip().splitlines()[-1])  # the last that the job said


if __name__ == "__main__":
    main()
