"""Processes that read images: what they raise, how they die, and what they do with signals."""

import os
import signal
import subprocess
import sys
import time
import traceback
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from test_images import TINY, image_folder, picture, ready
from torch import Tensor
from torch.utils.data import Dataset

from gan_lightning.data.fetch import read_ahead
from gan_lightning.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        picture(16, 16).save(folder / f"{i:02}.png")
    return folder


def error_of(fetch: Any, start: int) -> Exception:
    """What the rounds from ``start`` on raise, without the frames that keep workers alive."""
    try:
        for i in range(start, start + 40):
            fetch(i, i + 1)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        return error
    pytest.fail("nothing")


def test_an_image_that_is_gone_is_one_sentence(root: Path) -> None:
    """And the workers end; the same fetcher begins anew where the image is there again."""
    others = set(active_children())
    fetch = ready(image_folder(root, memory_limit=TINY, workers=2)).fetcher()
    fetch(0, 1)
    (root / "07.png").rename(root / "gone")
    error = error_of(fetch, 1)
    assert isinstance(error, UsageError)
    assert str(error) == (
        f"{root}/07.png is not a readable image (No such file or directory): remove it, or let train.py skip "
        "such files by data.unreadable=skip."
    )
    assert set(active_children()) <= others  # some of which may end meanwhile
    (root / "gone").rename(root / "07.png")
    assert fetch(0, 20).x.shape == (20, 1, 1, 2, 3, 16, 16)


def test_a_worker_that_is_killed_is_one_sentence(root: Path) -> None:
    others = set(active_children())
    handler = signal.getsignal(signal.SIGCHLD)
    fetch = ready(image_folder(root, memory_limit=TINY, workers=1)).fetcher()
    fetch(0, 1)
    (worker,) = set(active_children()) - others
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    error = error_of(fetch, 1)
    assert isinstance(error, UsageError)
    assert str(error).startswith("A process that reads images has died (DataLoader worker (pid")
    assert str(error).endswith("continue by resume=RUN_FOLDER, with fewer data.workers.")
    assert "\n" not in str(error)
    assert set(active_children()) <= others  # some of which may end meanwhile
    assert signal.getsignal(signal.SIGCHLD) == handler


class Own(Dataset[tuple[Tensor, int]]):
    """A user's images, whose code raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [RuntimeError("mine"), EOFError("mine"), OSError("mine"), ZeroDivisionError("mine")])
def test_a_bug_in_own_images_keeps_its_traceback(error: Exception, workers: int) -> None:
    try:
        next(read_ahead(Own(error), [[0]], workers))
    except type(error) as raised:
        text = "".join(traceback.format_exception(raised))
        traceback.clear_frames(raised.__traceback__)
    assert "mine" in text
    assert "in __getitem__" in text


class Signals(Dataset[tuple[Tensor, int]]):
    """What a worker does with the signals that its parent handles, as numbers."""

    kinds = {signal.SIG_DFL: 0, signal.SIG_IGN: 1}

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        named = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
        return torch.tensor([self.kinds.get(signal.getsignal(s), 2) + 10 * (s in blocked) for s in named]), 0


def test_workers_have_none_of_the_runs_handlers() -> None:
    """Ctrl-C and what a scheduler sends to all are the run's to answer; the run ends workers by SIGTERM."""
    named = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    former = {s: signal.signal(s, lambda *_: None) for s in named}
    try:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        found = next(read_ahead(Signals(), [[0]], 1))[0]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
        assert all(callable(signal.getsignal(s)) for s in named)
    finally:
        for s, handler in former.items():
            signal.signal(s, handler)
    assert found.tolist() == [[1, 0, 1, 1]]


def test_ctrl_c_to_the_whole_group_saves_and_ends_a_run(root: Path, tmp_path: Path) -> None:
    """As a terminal sends it: also to the workers."""
    run = tmp_path / "run"
    options = [
        *("model=mlp", "data=image_folder", f"data.root={root}", "data.size=16", "data.batch_size=4"),
        *(f"data.memory_limit={TINY}", "trainer.max_steps=1000000", "trainer.accelerator=cpu", "logger=csv"),
        *("model.generator.widths=[8]", "model.discriminator.widths=[8]", "data.workers=2"),
        *("callbacks.samples.every_n_steps=5", f"hydra.run.dir={run}", "trainer.enable_progress_bar=false"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *options],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(run.glob("samples/*.png"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        os.sched_yield()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (run / "checkpoints" / "last.ckpt").exists(), out + err
    assert "Traceback" not in err
