"""The project's programs in processes of their own, each a fork of one that has the slow libraries imported."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["gan_lightning.training", "gan_lightning.callbacks", "gan_lightning.data", "torchvision"]
)


def environment() -> dict[str, str]:
    """This process's, without what tells Hydra and Python how the tests run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("HYDRA", "PYTHONWARNINGS"))}


def run(
    script: Path, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``python script argument ...`` ends with, to its status and its last line; a signal's number is negative."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = SERVER.Process(
            target=_main, args=(str(script), arguments, str(cwd), env or environment(), str(out), str(err))
        )
        process.start()
        process.join()
        assert process.exitcode is not None
        printed = (path.read_text() if path.exists() else "" for path in (out, err))
        return subprocess.CompletedProcess([str(script), *arguments], process.exitcode, *printed)


def _main(script: str, arguments: tuple[str, ...], cwd: str, env: Mapping[str, str], out: str, err: str) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
