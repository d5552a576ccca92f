"""Training as a film of fixed latent points."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from PIL import Image

from gan_lightning.files import spared, written_aside


class Animation(Callback):
    """``samples.gif`` at the end, of at most ``frames`` of the pictures of fixed latents in ``samples``."""

    def __init__(self, frames: int = 60, seconds: float = 6.0) -> None:
        self.frames = frames
        self.seconds = seconds

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        run = Path(trainer.default_root_dir)
        pictures = sorted((run / "samples").glob("[!.]*.png"))
        if trainer.is_global_zero and pictures:
            with spared(str(run / "samples.gif")):
                animate(pictures, run / "samples.gif", self.frames, self.seconds)


def animate(pictures: list[Path], path: Path, frames: int, seconds: float) -> None:
    """Evenly chosen pictures, the first and the last among them, as an endless GIF that rests on the last."""
    n = min(frames, len(pictures))
    chosen = [pictures[round(i * (len(pictures) - 1) / max(n - 1, 1))] for i in range(n)]
    images = [Image.open(picture).convert("P", palette=Image.Palette.ADAPTIVE) for picture in chosen]
    pause = round(1000 * seconds / n)
    with written_aside(path) as aside:
        images[0].save(aside, save_all=True, append_images=images[1:], duration=[pause] * (n - 1) + [1500], loop=0)
