"""Compute all metrics that apply to the data of a trained generator, by the code that validation uses.

    python scripts/evaluate.py checkpoint=RUN_FOLDER [n=10000 seed=3 features=own weights=raw floor=true]
    gan-evaluate checkpoint=RUN_FOLDER, if the package is installed

Prints a table and writes it to evaluation.json in the run's folder. Without n and seed, the metrics of synthetic data
equal those that validation logged. A .safetensors file of export.py, or the name of a generator that comes with the
package, has no discriminator, so the value of the game is left out; metrics that the file records for the same samples
appear in a column of their own.

Image metrics (FID, KID, Inception Score, precision, recall, density, coverage, classes) compare samples with held-out
images, by the features of a classifier of the data, which is trained on first use, or of Inception. Scores by different
features are not comparable, so the table names the features. For Stacked MNIST, 25,600 samples are counted and the
accuracy is that of whole triples. For a conditional generator, the table also has the share of samples in the class
requested, and the FID within each class.
"""

import hashlib
import inspect
import json
import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import MISSING, DictConfig, OmegaConf

from gan_lightning.checks import SEED, SIZE, check_values, optional
from gan_lightning.config import one_line
from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import CHECKPOINT, Weights, check_checkpoint, read_options, refusals
from gan_lightning.pretrained import find

if TYPE_CHECKING:
    from lightning import Trainer

    from gan_lightning.data.loader import RealData
    from gan_lightning.gan import GAN

IMAGES = 10_000
MEASURED_BY = ("step", "weights", "n", "seed", "held_out", "features")
OF_DATA = ("root", "path", "held_out", "features", "inception_weights", "cache")


class FeatureNetwork(Enum):
    """The network whose features image metrics compare."""

    own = "own"
    inception = "inception"


@dataclass
class Options:
    checkpoint: Annotated[Path, CHECKPOINT] = MISSING
    n: Annotated[int | None, f"number of samples; null for validation's, {IMAGES} images or 25,600 triples"] = None
    seed: Annotated[int | None, "seed of the latents; null for the run's, as in validation"] = None
    features: Annotated[FeatureNetwork | None, "own or inception; null for the run's"] = None
    inception_weights: Annotated[str | None, "file of Inception weights; null for the run's, or a download"] = None
    root: Annotated[str | None, "folder of the data; null for the run's"] = None
    path: Annotated[str | None, "file of the data, for data=array; null for the run's"] = None
    held_out: Annotated[str | None, "folder of held-out images, for data=image_folder"] = None
    cache: Annotated[str | None, "folder that caches feature networks; null for the run's"] = None
    weights: Annotated[Weights, "average (EMA generator) or raw (live generator)"] = Weights.average
    floor: Annotated[bool, "also compute the metrics for real training data in place of samples"] = False
    trust: Annotated[list[str], "further packages that the checkpoint may import"] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_values(self, n=optional(SIZE), seed=optional(SEED))
        check_checkpoint(self.checkpoint)


def prepare(options: Options, config: DictConfig) -> "RealData":
    """Build the run's data module with the changes that the options ask for.

    Raises:
        UsageError: the data does not have an option, or too few images are requested.
    """
    from hydra.utils import get_class

    from gan_lightning.build import build_data
    from gan_lightning.data.images import FEWEST_HELD_OUT, ImageData

    kind: Any = get_class(config.data._target_)
    changed: dict[str, Any] = {
        "root": options.root,
        "path": options.path,
        "held_out": options.held_out,
        "features": options.features and options.features.value,
        "inception_weights": options.inception_weights,
        "cache": options.cache,
        "validation_samples": options.n or kind.evaluation_samples,
    }
    changed = {name: value for name, value in changed.items() if value is not None}
    # not the configuration's keys, since an older configuration may lack some
    known = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    if others := changed.keys() - known:
        name = min(others).replace("validation_samples", "n")
        raise UsageError(f"{name} is not an option of this run's data: leave it out.")
    if options.inception_weights and changed.get("features", config.data.get("features")) != "inception":
        raise UsageError(f"inception_weights is {options.inception_weights}: give features=inception too.")
    if issubclass(kind, ImageData) and options.n is not None and options.n < FEWEST_HELD_OUT:
        raise UsageError(f"n is {options.n}: give at least {FEWEST_HELD_OUT} images.")
    data = build_data(OmegaConf.merge(config, {"data": changed}))  # type: ignore[arg-type]
    if isinstance(data, ImageData) and not data.validation_samples:
        data.prepare_data()
        data.setup()
        data.validation_samples = min(IMAGES, len(data.held_out_images().x))
    return data


def evaluate(options: Options) -> dict[str, Any]:
    """Compute the content of evaluation.json.

    Raises:
        UsageError: the checkpoint or the data cannot be used.
    """
    from gan_lightning.callbacks.checkpoint import checkpoints
    from gan_lightning.checkpoints import load
    from gan_lightning.training import quiet

    quiet()
    path = options.checkpoint
    path = checkpoints(path) / "last.ckpt" if path.is_dir() else path
    gan = load(path, trust=options.trust)
    weights = Weights.raw if gan.average is None else options.weights
    if weights is Weights.raw:
        gan.average = None  # validation uses the averaged generator if there is one
    gan.validation_seed = seed = gan.seed if options.seed is None else options.seed
    trainer = trainer_of(gan)
    try:
        data = held_out_data(options, gan, trainer)
        trainer.validate(gan, datamodule=data, verbose=False)
        floors = floor(data, seed, gan.game.is_conditional) if options.floor else {}
    except (ValueError, OSError) as error:
        # the data names its options as train.py does
        sentence = one_line(error).replace("data.validation_samples", "n")
        raise UsageError(re.sub(rf"\bdata\.({'|'.join(OF_DATA)})\b", r"\1", f"{sentence}.")) from error
    result = {
        "checkpoint": str(path),
        "step": gan.loaded_step,
        "weights": weights.name,
        "n": data.validation_samples,
        "seed": seed,
        "held_out": held_out_digest(data),
        "features": data.features_name,
        "accuracy": data.features_accuracy,
        "metrics": {name: value.item() for name, value in sorted(trainer.callback_metrics.items())},
        "floor": floors,
    }
    return result | {"recorded": recorded(path, result)}


def recorded(checkpoint: Path, result: dict[str, Any]) -> dict[str, float]:
    """The metrics recorded in a file of export.py, if they are for the same samples and features."""
    from gan_lightning.weights import ENDING, read

    path = find(checkpoint)
    evaluation = read(path)["evaluation"] if path.suffix.lower() == ENDING else {}
    is_same = evaluation and all(evaluation[name] == result[name] for name in MEASURED_BY)
    return evaluation["metrics"] if is_same else {}


def trainer_of(gan: "GAN") -> "Trainer":
    """A Trainer with one device and the run's precision."""
    from lightning import Trainer

    options = gan.config["trainer"]
    return Trainer(
        # a run trained on a GPU can be evaluated without one; only the CPU reproduces what the CPU logged
        accelerator="cpu" if options["accelerator"] == "cpu" else "auto",
        devices=1,
        precision=options["precision"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def held_out_data(options: Options, gan: "GAN", trainer: "Trainer") -> "RealData":
    """Read the run's data, as far as validation needs them.

    Raises:
        UsageError: they cannot be used, or fewer samples are held out than requested.
    """
    data = prepare(options, OmegaConf.create(gan.config))
    data.trainer = trainer
    data.recall(gan.described)
    data.prepare_data()
    data.setup("validate")
    if options.n is not None and data.validation_samples < options.n:
        raise UsageError(f"n is {options.n}, but {data.validation_samples} samples are held out: give at most those")
    data.measured_classes = data.class_names
    return data


def held_out_digest(data: "RealData") -> str | None:
    """A digest of the held-out images, independent of their range; None for other data."""
    from gan_lightning.pixels import to_bytes

    if data.value_range is None:
        return None  # identified by its options
    digest = hashlib.blake2b(digest_size=4)
    for images, others, _ in data.val_dataloader():
        digest.update(to_bytes(images, data.value_range).numpy().tobytes())
        if others is not None and others.is_floating_point():  # of pairs
            digest.update(to_bytes(others, data.value_range).numpy().tobytes())
    return digest.hexdigest()


def floor(data: "RealData", seed: int, by_class: bool = True) -> dict[str, float]:
    """Compute the metrics of real samples, none of them from validation, in place of generated ones.

    With ``by_class``, they are of the held-out samples' classes, which validation requests of a conditional generator.
    Metrics that compare a sample with its target have no floor.
    """
    import torch
    from torchmetrics import MetricCollection

    from gan_lightning.batch import Batch, apply

    assert data.trainer is not None
    device = data.trainer.strategy.root_device
    measured: dict[str, Any] = {
        name: metric for name, metric in data.metrics().items() if getattr(metric, "has_floor", True)
    }
    metrics = MetricCollection(measured, prefix="val/").to(device)
    metrics.reset()  # validation may share them

    def on_device(batch: Batch, part: slice = slice(None)) -> Batch:
        return apply(lambda tensor: tensor[part].to(device), batch)

    n, start = data.validation_samples, 0
    if by_class and data.classes:
        samples = data.training_samples(n, seed, torch.cat([held_out.y for held_out in data.val_dataloader()]))
    else:
        samples = data.training_samples(n, seed)
        samples = samples if by_class else samples._replace(y=None)
    with torch.inference_mode():  # as in validation
        for held_out in data.val_dataloader():
            stop = start + len(held_out.x)
            metrics.update(on_device(samples, slice(start, stop)), on_device(held_out))
            start = stop
        return {name: value.item() for name, value in metrics.compute().items()}


def table(result: dict[str, Any]) -> str:
    """Format the metrics as a Markdown table, below a line that says what was evaluated."""
    features = f", features {result['features']}" if result["features"] else ""
    if result["accuracy"] is not None:
        features += f" ({result['accuracy']:.2%} accurate)"
    generator = f"step {result['step']}, {Weights[result['weights']].value} generator"
    head = f"{result['checkpoint']}, {generator}: n {result['n']}, seed {result['seed']}{features}"
    columns = {"value": result["metrics"], **{k: result[k] for k in ("recorded", "floor") if result[k]}}
    rows = [["metric", *columns], ["---"] * (1 + len(columns))]
    for name in result["metrics"]:
        cells = [f"{column[name]:.5g}" if name in column else "" for column in columns.values()]
        rows.append([name.removeprefix("val/").replace("|", "\\|"), *cells])
    return "\n".join([head, "", *("| " + " | ".join(row) + " |" for row in rows)])


def run_folder(checkpoint: Path) -> Path:
    """The folder of a checkpoint's run, else the checkpoint's own, or the current one for the package's generators."""
    if checkpoint.is_dir():
        return checkpoint
    if not checkpoint.exists():
        return Path()
    run = checkpoint.absolute().parent.parent
    return run if (run / "config.yaml").exists() else checkpoint.parent


def main() -> None:
    options = read_options(Options, __doc__)
    path = run_folder(options.checkpoint) / "evaluation.json"
    with refusals(path):
        result = evaluate(options)
        print(table(result))
        with written_aside(path) as aside:
            aside.write_text(json.dumps(result, indent=2) + "\n")
