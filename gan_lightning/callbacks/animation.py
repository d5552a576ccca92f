"""An animation of the samples at fixed latents during training."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from PIL import Image

from gan_lightning.checks import POSITIVE, SIZE, check_values
from gan_lightning.files import spared, written_aside


class Animation(Callback):
    """Writes ``samples.gif`` at the end, from at most ``frames`` of the pictures in ``samples``."""

    def __init__(self, frames: int = 60, seconds: float = 6.0) -> None:
        self.frames = frames
        self.seconds = seconds
        check_values(self, frames=SIZE, seconds=POSITIVE)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        run = Path(trainer.default_root_dir)
        pictures = sorted((run / "samples").glob("[!.]*.png"))
        if trainer.is_global_zero and pictures:
            with spared(str(run / "samples.gif")):
                animate(pictures, run / "samples.gif", self.frames, self.seconds)


def animate(pictures: list[Path], path: Path, frames: int, seconds: float) -> None:
    """Write evenly spaced pictures, including the first and last, as an endless GIF that pauses on the last."""
    n = min(frames, len(pictures))
    chosen = [pictures[round(i * (len(pictures) - 1) / max(n - 1, 1))] for i in range(n)]
    images = [Image.open(picture).convert("P", palette=Image.Palette.ADAPTIVE) for picture in chosen]
    pause = round(1000 * seconds / n)
    with written_aside(path) as aside:
        images[0].save(aside, save_all=True, append_images=images[1:], duration=[pause] * (n - 1) + [1500], loop=0)
