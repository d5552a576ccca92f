"""The processes of a run on several devices: started together, ended together, and none left behind."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lightning import Trainer
from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed

from gan_lightning.errors import Fault
from gan_lightning.interruption import is_first_process, say

ENVIRONMENT = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
POLL, PATIENCE = 0.25, 10.0  # seconds: between checks of the others; for the others to end after one has ended
LOST = re.compile(r"closed by peer|reset by peer|broken pipe|refused|timed out|gloo|nccl|socket", re.IGNORECASE)


class Processes(_SubprocessScriptLauncher):
    """Starts the same command once per additional device; the first process watches the others, and they watch it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._former: dict[str, str | None] = {}
        self._over = threading.Event()

    def launch(self, function: Any, *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Call the function; the first process starts the others before."""
        if not self.cluster_environment.creates_processes_externally:
            self._start()
            threading.Thread(target=self._watch, daemon=True).start()
        elif not is_first_process() and "TORCHELASTIC_RUN_ID" not in os.environ and not self._former:
            self._former = {"PARENT": str(os.getppid())}
            threading.Thread(target=self._watch_first, args=(os.getppid(),), daemon=True).start()
        return function(*args, **kwargs)

    def _start(self) -> None:
        environment = self.cluster_environment
        self._former = {name: os.environ.get(name) for name in ENVIRONMENT}
        values = environment.main_address, environment.main_port, environment.node_rank(), environment.local_rank()
        os.environ.update(zip(ENVIRONMENT, map(str, (*values, self.num_processes * self.num_nodes)), strict=True))
        for rank in range(1, self.num_processes):
            own = os.environ | {"LOCAL_RANK": str(rank)}
            self.procs.append(subprocess.Popen(_basic_subprocess_cmd(), env=own))

    def lost(self) -> str:
        """Say which of the other processes was killed or failed; empty if none is known to."""
        for rank, process in enumerate(self.procs, 1):
            if (code := process.poll()) not in (None, 0):
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                return f"Process {rank} of {self.num_processes} (pid {process.pid}) {how}"
        return ""

    def _watch(self) -> None:
        while not self._over.wait(POLL):
            if lost := self.lost():
                # a process that was stopped, diverged or refused has said so, and this one will do the same
                if self._over.wait(0.5 if "killed" in lost else PATIENCE):
                    return
                say(f"Error: {lost}: the others are ended too; resume with resume=RUN_FOLDER.")
                self._kill()
                os._exit(Fault.status)

    def _watch_first(self, parent: int) -> None:
        while not self._over.wait(POLL):
            if os.getppid() != parent and not self._over.wait(POLL):
                if os.environ["LOCAL_RANK"] == "1":
                    say("Error: The first process was killed: the others end too; resume with resume=RUN_FOLDER.")
                os._exit(Fault.status)

    def finish(self) -> None:
        """Wait for the other processes and restore this one's environment: a sweep's next job starts its own."""
        if not self.procs:
            self._over.set()
            return
        for process in self.procs:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        self._over.set()
        self._kill()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for name, value in self._former.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def _kill(self) -> None:
        for process in self.procs:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def together(trainer: Trainer) -> Iterator[None]:
    """End all processes together; if an exchange fails because a process is lost, say so in one sentence.

    Raises:
        Fault: a process is lost.
    """
    launcher: Any = trainer.strategy.launcher
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or isinstance(error, Fault) or not LOST.search(str(error)):
            raise
        threading.Event().wait(2 * POLL)  # until the system knows that it has ended
        lost = launcher.lost() if isinstance(launcher, Processes) else ""
        lost = lost or "Another process of the run has ended"
        raise Fault(f"{lost}: the others end too; resume with resume=RUN_FOLDER.") from error
    finally:
        if isinstance(launcher, Processes):
            launcher.finish()
