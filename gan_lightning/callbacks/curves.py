"""Both losses of a run as one picture."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from gan_lightning.files import written_aside


class LossCurves(Callback):
    """``losses.png`` at the end: L_D and L_G over generator updates, from TensorBoard's files, so across resumes."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.flush()
                draw_losses(Path(logger.log_dir), Path(trainer.default_root_dir) / "losses.png")


def draw_losses(events: Path, picture: Path) -> None:
    """Draw the losses that a folder of TensorBoard's files holds."""
    from matplotlib.figure import Figure
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
    figure = Figure(figsize=(7.0, 4.0), layout="constrained", dpi=100)
    axes = figure.subplots()
    for name in ("discriminator", "generator"):
        points = log.Scalars(f"loss/{name}") if f"loss/{name}" in log.Tags()["scalars"] else []
        axes.plot([point.step for point in points], [point.value for point in points], label=name, linewidth=1.2)
    axes.set_xlabel("generator updates")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    with written_aside(picture) as aside:
        figure.savefig(aside)
