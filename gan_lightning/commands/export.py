"""Export a trained generator to a file that runs without this package, or that this package loads.

    python scripts/export.py checkpoint=RUN_FOLDER out=generator.onnx
    gan-export checkpoint=RUN_FOLDER out=generator.onnx, if the package is installed

The ending of out chooses the format: .pt2 for torch.export.load, .onnx for ONNX Runtime and others. The program maps
latents (n, latent_size), for any n, to samples (n, *sample_shape); a conditional generator takes latents and labels
(n,), the numbers of the classes. Its metadata has the latent size, the prior, the shape and value range of the samples,
the class names and the step: in a .pt2 file as the extra file metadata.json, in ONNX as the model's metadata, each
value as JSON. The file is loaded again, and its samples are compared with the checkpoint's.

A .safetensors file has the generator's weights and the configuration. load, sample.py, evaluate.py and export.py
accept it as a checkpoint. quantize=true stores matrices in 8 bits, a quarter of the size; metrics=true records what
evaluate.py computes for the file. The generators that come with the package are such files,
gan_lightning/pretrained/NAME.safetensors, those of digits quantized:

    python scripts/export.py checkpoint=RUN_FOLDER out=NAME.safetensors quantize=true metrics=true
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from omegaconf import MISSING

from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import CHECKPOINT, Weights, check_checkpoint, check_out, read_options, refusals

if TYPE_CHECKING:
    from gan_lightning.gan import GAN

TOLERANCE = 1e-5
INSTALL = "pip install 'gan-lightning[export]'"


@dataclass
class Options:
    checkpoint: Annotated[Path, CHECKPOINT] = MISSING
    out: Annotated[Path, "output file, .pt2, .onnx or .safetensors"] = Path("generator.pt2")
    weights: Annotated[Weights, "average (EMA generator) or raw (live generator)"] = Weights.average
    quantize: Annotated[bool, "store the matrices of a .safetensors file in 8 bits"] = False
    metrics: Annotated[bool, "also record in a .safetensors file what evaluate.py computes for it"] = False
    trust: Annotated[list[str], "further packages that the checkpoint may import"] = field(default_factory=list)

    def __post_init__(self) -> None:
        suffix = self.out.suffix.lower()
        if suffix not in (".pt2", ".onnx", ".safetensors"):
            raise UsageError(f"out is {self.out}: end it in .pt2, .onnx or .safetensors.")
        if suffix != ".safetensors" and (self.quantize or self.metrics):
            raise UsageError(f"out is {self.out}: quantize and metrics are for .safetensors files.")
        if suffix == ".onnx" and not (find_spec("onnx") and find_spec("onnxscript")):
            raise UsageError(f"ONNX needs packages that are not installed: {INSTALL}")
        check_checkpoint(self.checkpoint)
        check_out(self.out, self.checkpoint)


def write_program(gan: "GAN", weights: Weights, path: Path) -> None:
    """Write the generator as a program in the format given by the file extension."""
    from gan_lightning.export import describe, trace, write_onnx, write_pt2

    write = write_pt2 if path.suffix.lower() == ".pt2" else write_onnx
    write(trace(gan, weights is Weights.raw), path, describe(gan, weights.name))


def write_weights(gan: "GAN", options: Options, weights: Weights, path: Path) -> None:
    """Write the generator's weights and, if requested, the metrics of the written file."""
    from gan_lightning.commands import evaluate
    from gan_lightning.weights import write

    raw = weights is Weights.raw
    write(path, gan, raw, options.quantize)
    if options.metrics:
        evaluation = evaluate.evaluate(evaluate.Options(path, trust=options.trust))
        kept = {name: value for name, value in evaluation.items() if name not in ("checkpoint", "floor", "recorded")}
        write(path, gan, raw, options.quantize, kept)


def export(options: Options) -> None:
    """Write the file and compare its samples with the checkpoint's.

    Raises:
        UsageError: the checkpoint cannot be read, or the file's samples differ from the generator's.
    """
    from gan_lightning.checkpoints import load
    from gan_lightning.export import difference

    gan, out = load(options.checkpoint, trust=options.trust), options.out
    weights = Weights.raw if gan.average is None else options.weights
    with written_aside(out) as aside:
        if out.suffix.lower() == ".safetensors":
            write_weights(gan, options, weights, aside)
        else:
            write_program(gan, weights, aside)
        error = difference(aside, gan, weights is Weights.raw, options.trust)
        if error is not None and not (error <= TOLERANCE or options.quantize):
            raise UsageError(f"The exported samples differ by {error:.1g} from the generator's: {out} was not written.")
    if weights is not options.weights:
        print(f"{options.checkpoint} has no averaged generator: this is the raw one.")
    checked = (
        f"not checked, because ONNX Runtime is not installed: {INSTALL}"
        if error is None
        else f"checked: differs by at most {error:.1g}"
    )
    print(f"{weights.value} generator of step {gan.loaded_step} in {out}, {checked}")


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals(options.out):
        export(options)
