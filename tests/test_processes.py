"""Processes that are killed or interrupted, and what the same command makes of it then."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest
from conftest import ROOT
from helpers import TOY

from gan_lightning.errors import Fault
from gan_lightning.files import is_running

TINY = (*TOY, "callbacks.checkpoint.every_seconds=0", "logger=none")
TWO = ("trainer.strategy=ddp", "trainer.devices=2")
AT = """
import os
from pathlib import Path
from lightning import Callback

class At(Callback):
    \"\"\"Sends its own process a signal, once in all, at a step of one rank.\"\"\"

    def __init__(self, mark, signum, step=12, rank=0):
        self.mark, self.signum, self.step, self.rank = Path(mark), signum, step, rank

    def on_train_start(self, trainer, module):
        Path(f"{self.mark}.{trainer.global_rank}").write_text(str(os.getpid()))

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= self.step and trainer.global_rank == self.rank and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), self.signum)
"""
SECONDS = 15.0  # in which the others must have ended, on a busy machine


def at(folder: Path, signum: signal.Signals, **options: int) -> tuple[str, ...]:
    """The options of a run that a signal comes to in mid-run."""
    (folder / "my_signal.py").write_text(AT)
    given = {"_target_": "my_signal.At", "mark": folder / "mark", "signum": int(signum), **options}
    return tuple(f"+callbacks.at.{name}={value}" for name, value in given.items())


def run(folder: Path, *arguments: str, program: str = "train.py") -> subprocess.CompletedProcess[str]:
    return programs.run(ROOT / program, *arguments, cwd=folder)


def step(folder: Path) -> int:
    step: int = json.loads((folder / "metrics.json").read_text())["step"]
    return step


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others(tmp_path: Path, rank: int) -> None:
    options = [*TINY, *TWO, *at(tmp_path, signal.SIGKILL, rank=rank), "hydra.run.dir=run"]
    # to the end of what all of them print, of which the first to end may be the one that was started
    ended = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *options],
        cwd=tmp_path,
        env=programs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    pids = [int((tmp_path / f"mark.{i}").read_text()) for i in range(2)]
    deadline = (tmp_path / "mark").stat().st_mtime + SECONDS
    while is_running(pids[1 - rank]) and time.time() < deadline:
        os.sched_yield()
    assert time.time() < deadline
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    if rank == 1:
        assert ended.returncode == Fault.status
        assert line.startswith(f"Error: Process 1 of 2 (pid {pids[1]}) was killed by SIGKILL: the others ")
    else:
        assert ended.returncode == -signal.SIGKILL
        assert line.startswith("Error: The first process was killed: the others end too")
    assert "Traceback" not in ended.stderr


def test_each_job_of_a_sweep_has_processes_of_its_own(tmp_path: Path) -> None:
    ended = run(tmp_path, "-m", "seed=0,1", *TINY, *TWO, "hydra.sweep.dir=sweep")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [step(path.parent) for path in tmp_path.rglob("metrics.json")] == [40, 40]


def test_auto_begins_goes_on_and_leaves_alone(tmp_path: Path) -> None:
    command = ("resume=auto", "hydra.run.dir=run", *TINY, *at(tmp_path, signal.SIGKILL))
    assert run(tmp_path, *command).returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "metrics.json").exists()
    ended = run(tmp_path, *command)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert step(tmp_path / "run") == 40
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    ended = run(tmp_path, *command)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("run has already finished\n")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_an_interrupted_sweep_goes_on_by_its_own_command(tmp_path: Path) -> None:
    sweep = ("-m", "seed=0,1", *TINY, *at(tmp_path, signal.SIGINT), "hydra.sweep.dir=sweep")
    ended = run(tmp_path, *sweep)
    assert ended.returncode == 130
    assert re.search(r"^Stopped by Ctrl-C at step 12 of 40, with a checkpoint: resume ", ended.stderr, re.MULTILINE)
    assert "2 of 2" not in ended.stdout
    told = run(tmp_path, "runs=sweep", program="scripts/report.py")
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    ended = run(tmp_path, *sweep)
    assert (ended.returncode, ended.stderr) == (0, "")
    runs = [path.parent for path in (tmp_path / "sweep").rglob("metrics.json")]
    assert [step(path) for path in runs] == [40, 40]
    told = run(tmp_path, "runs=sweep", program="scripts/report.py")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(r"^\| *all *\| *2 *\|", told.stdout, re.MULTILINE), told.stdout
