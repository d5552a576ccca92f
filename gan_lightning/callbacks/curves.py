"""A picture of both losses of a run."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from gan_lightning.files import spared, written_aside
from gan_lightning.gan import GAN

LOSSES = ("loss/discriminator", "loss/generator")


class LossCurves(Callback):
    """Draws ``losses.png`` at the end: L_D and L_G over generator updates, across resumes.

    Each point is a line of the log, or the last line if a batch of several rounds has many.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: dict[str, list[float]] = {name: [] for name in LOSSES}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.losses = state["steps"], state["losses"]

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, GAN)
        if module.log_step > (self.steps[-1] if self.steps else 0):
            self.steps.append(module.log_step)
            for name, losses in self.losses.items():
                losses.append(module.log_line[name])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero and self.steps:
            path = Path(trainer.default_root_dir) / "losses.png"
            with spared(str(path)):
                draw_losses(self.steps, self.losses, path)


def draw_losses(steps: list[int], losses: dict[str, list[float]], path: Path) -> None:
    """Draw curves over generator updates, labeled with the last part of their names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained", dpi=100)
    axes = figure.subplots()
    for name, values in losses.items():
        axes.plot(steps, values, label=name.rpartition("/")[2], linewidth=1.2)
    axes.set_xlabel("generator updates")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    with written_aside(path) as aside:
        figure.savefig(aside)
