"""Files written aside: the former or the new content, whole, and nothing beside it."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import load_script
from omegaconf import OmegaConf
from PIL import Image

from gan_lightning import sampling, training
from gan_lightning.callbacks.animation import animate
from gan_lightning.callbacks.checkpoint import AtomicCheckpointIO
from gan_lightning.callbacks.curves import draw_losses
from gan_lightning.checkpoints import tidy
from gan_lightning.errors import Fault
from gan_lightning.files import HOST, cause_in_the_machine, leftovers, why, written_aside
from gan_lightning.pictures import image_grid, write_png

NOBODY = 9_999_999  # no process of Linux or macOS has this number


@pytest.mark.parametrize("name", ["a.json", "a", ".a", "a.b.json", "1.5", "ä b=[1],'#~.json"])
def test_the_new_content_takes_the_place_of_the_former(tmp_path: Path, name: str) -> None:
    path = tmp_path / "made" / "here" / name
    for content in ("former", "a longer new content", ""):
        with written_aside(path) as aside:
            assert aside.parent == path.parent
            assert aside.name.startswith(".")
            assert aside.name.endswith(path.suffix)
            aside.write_text(content)
        assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]


def test_until_the_end_the_place_has_the_former_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("former")
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "former"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError("full"), ValueError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("former", ["former", None])
def test_what_is_raised_changes_nothing(tmp_path: Path, error: BaseException, former: str | None) -> None:
    path = tmp_path / "a.txt"
    if former is not None:
        path.write_text(former)
    with pytest.raises(type(error)), written_aside(path) as aside:  # noqa: PT012
        aside.write_text("half of i")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == [former] * (former is not None)


def test_nothing_written_and_a_folder_in_the_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "a"):
        pass
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError), written_aside(tmp_path / "b") as aside:
        aside.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_name_without_a_folder_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a.txt", Path("b.txt")):
        with written_aside(path) as aside:
            aside.write_text("here")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "here", "b.txt": "here"}


def test_writers_that_go_by_the_ending_find_it(tmp_path: Path) -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with written_aside(tmp_path / "a.npz") as aside:
        np.savez(aside, picture=picture)
    with written_aside(tmp_path / "a.png") as aside:
        Image.fromarray(picture).save(aside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.png"]
    with np.load(tmp_path / "a.npz") as arrays, Image.open(tmp_path / "a.png") as image:
        assert (arrays["picture"] == np.asarray(image)).all()


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "target.txt").write_text("former")
    (tmp_path / "link.txt").symlink_to("deep/target.txt")
    with written_aside(tmp_path / "link.txt") as aside:
        aside.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "deep" / "target.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with written_aside(tmp_path / "pipe") as aside:
        assert aside == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()


def test_the_content_is_on_the_disk_before_the_rename_and_the_rename_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        done.append("sync " + ("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "file"))
        sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    with written_aside(tmp_path / "a.txt") as aside:
        aside.write_text("x")
    assert done == ["sync file", "rename", "sync folder"]


def test_only_the_files_of_processes_that_ended_are_leftovers(tmp_path: Path) -> None:
    dead = [f".last.{NOBODY}.ckpt", f".a.b.{NOBODY}.json", f".1.{NOBODY}.5", f".name.{NOBODY}", f".last.ckpt.{NOBODY}"]
    living = [f".last.{os.getpid()}.ckpt", ".last.1.ckpt", f".{NOBODY}.{os.getpid()}.json"]
    others = ["last.ckpt", f"last.{NOBODY}.ckpt", ".hidden", ".hidden.ckpt", ".notes.20241231235959.txt", ".gitignore"]
    for name in (*dead, *living, *others):
        (tmp_path / name).touch()
    (tmp_path / f".folder.{NOBODY}").mkdir()
    assert leftovers(tmp_path) == sorted(tmp_path / name for name in dead)
    assert leftovers(tmp_path / "nowhere") == []


def test_a_killed_writer_leaves_the_former_file_and_a_leftover(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("former")
    code = (
        "import os, signal, sys\n"
        "from gan_lightning.files import written_aside\n"
        "with written_aside(sys.argv[1]) as aside:\n"
        "    aside.write_text('half of i')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "former"
    (left,) = leftovers(tmp_path)
    assert (left.suffix, left.read_text()) == (".txt", "half of i")


def test_a_process_in_the_middle_of_writing_keeps_its_file(tmp_path: Path) -> None:
    with written_aside(tmp_path / "a.pt") as aside:
        torch.save({"x": 1}, aside)
        assert leftovers(tmp_path) == []
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"x": 1}


# ------------------------------------------------------------------------------------------ everything that is written


IMAGES: Any = SimpleNamespace(
    in_units=lambda samples: samples,
    units_range=None,
    sample_shape=(1, 4, 4),
    value_range=(-1.0, 1.0),
    picture=lambda batch, columns=None: image_grid(batch.x),
)
X, Z = torch.zeros(2, 1, 4, 4), torch.zeros(2, 3)
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.ckpt": lambda path: AtomicCheckpointIO().save_checkpoint({"x": 1}, path),
    "a.npz": lambda path: sampling.write_arrays(path, X, Z, None, 0, IMAGES),
    "a.pt": lambda path: sampling.write_arrays(path, X, Z, None, 0, IMAGES),
    "a.gif": lambda path: sampling.write_gif(path, [X, X], IMAGES),
    "a.png": lambda path: write_png(torch.zeros(3, 4, 4, dtype=torch.uint8), path),
    "b.gif": lambda path: animate([ROOT / "docs" / "images" / "ring.png"], path, 1, 1.0),
    "b.png": lambda path: draw_losses([1, 2], {"loss/generator": [0.0, 1.0]}, path),
    "a.csv": lambda path: load_script("report").write_csv(path, [], {}),
    "config.yaml": lambda path: training.write_config(OmegaConf.create({"option": "value"}), path.parent),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "folder" / name
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with pytest.raises((OSError, Fault), match=r"(?i)no space left"):
            WRITERS[name](path)
        assert list(path.parent.iterdir()) == []
        path.write_text("former")
        with pytest.raises((OSError, Fault), match=r"(?i)no space left"):
            WRITERS[name](path)
    assert path.read_text() == "former"
    assert list(path.parent.iterdir()) == [path]
    WRITERS[name](path)
    assert len(path.read_bytes()) > len("former")
    assert list(path.parent.iterdir()) == [path]
    once = path.read_bytes()
    monkeypatch.setattr(os, "getpid", lambda: NOBODY)
    WRITERS[name](path)
    assert path.read_bytes() == once  # nothing of the hidden name is in it


def test_a_full_database_is_a_fault_of_the_machine_and_a_wrong_query_is_none(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "a.db")
    with pytest.raises(sqlite3.OperationalError) as wrong:
        database.execute("select * from nothing")
    assert cause_in_the_machine(wrong.value) is None
    database.execute("pragma max_page_count = 2")
    database.execute("create table t (x)")
    try:
        database.execute("insert into t values (zeroblob(100000))")
    except sqlite3.OperationalError as full:
        hidden = RuntimeError("as MLflow hides it")
        hidden.__cause__ = full
    cause = cause_in_the_machine(hidden)
    assert cause is not None
    assert why(cause) == "database or disk is full"


def test_every_folder_of_a_run_is_tidied(tmp_path: Path) -> None:
    for name in ("", "samples", "checkpoints", "discriminator", "mine"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f".0000001.{NOBODY}@{HOST}.png").touch()
        (tmp_path / name / ".mine").touch()
    tidy(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".mine"}
