"""The project's programs in processes of their own, each a fork of one that has the slow libraries imported."""

import atexit
import functools
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["gan_lightning.training", "gan_lightning.callbacks", "gan_lightning.data", "torchvision"]
)


QUICK = [
    "hydra",
    "hydra._internal.hydra",
    "gan_lightning.command_line",
    "gan_lightning.config",
    "gan_lightning.options",
]

NOWHERE = (
    "nowhere does not exist: give the folder of a run, a checkpoint or one of the trained generators, "
    "mnist_10_minutes, mnist_mlp, ring."
)
SLOW = (
    *("torch", "torch._dynamo.eval_frame", "torch._inductor", "sympy", "torch_fidelity", "torchvision"),
    *("torchmetrics.functional", "scipy", "matplotlib.pyplot", "pandas"),
)


def environment() -> dict[str, str]:
    """This process's, without what tells Hydra and Python how the tests run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("HYDRA", "PYTHONWARNINGS"))}


def run(
    script: Path,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """What ``python script argument ...`` ends with, to its status and its last line; a signal's number is negative.

    ``before`` is called in that process, before the script is read.
    """

    def start(*places: str) -> int | None:
        process = SERVER.Process(target=_main, args=(script, arguments, cwd, env or environment(), before, *places))
        process.start()
        process.join()
        return process.exitcode

    return _completed([str(script), *arguments], start)


def run_quickly(script: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same, from a process without torch; its output ends with what of ``SLOW`` it imported."""

    def start(*places: str) -> int | None:
        pipe = _without_torch()
        pipe.send((script, arguments, cwd, environment(), _tell_slow, *places))
        return pipe.recv()

    return _completed([str(script), *arguments], start)


def _completed(command: list[str], start: Callable[..., int | None]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("out", "err")]
        status = start(*map(str, places))
        assert status is not None
        return subprocess.CompletedProcess(command, status, *(p.read_text() if p.exists() else "" for p in places))


def _tell_slow() -> None:
    atexit.register(lambda: print("imported:", *(name for name in SLOW if name in sys.modules)))


@functools.cache
def _without_torch() -> Connection:
    """To a process that has Hydra imported and no torch, and forks itself for each program."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    spawn.Process(target=_serve, args=(there,)).start()
    there.close()
    atexit.register(here.close)  # which ends it
    return here


def _serve(pipe: Connection) -> None:
    for module in QUICK:
        importlib.import_module(module)
    assert "torch" not in sys.modules
    with suppress(EOFError):
        while True:
            process = multiprocessing.get_context("fork").Process(target=_main, args=pipe.recv())
            process.start()
            process.join()
            pipe.send(process.exitcode)


def _main(
    script: Path,
    arguments: tuple[str, ...],
    cwd: Path,
    env: Mapping[str, str],
    before: Callable[[], None] | None,
    out: str,
    err: str,
) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    try:
        if before is not None:
            before()
        runpy.run_path(str(script), run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
