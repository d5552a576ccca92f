"""Export a trained generator to a file that runs without this package.

    python scripts/export.py checkpoint=RUN_FOLDER out=generator.onnx
    gan-export checkpoint=RUN_FOLDER out=generator.onnx, if the package is installed

The ending of out chooses the format: .pt2 for torch.export.load, .onnx for ONNX Runtime and others. The program maps
latents (n, latent_size), for any n, to samples (n, *sample_shape); a conditional generator takes latents and labels
(n,), the numbers of the classes. Its metadata has the latent size, the prior, the shape and value range of the samples,
the class names and the step: in a .pt2 file as the extra file metadata.json, in ONNX as the model's metadata, each
value as JSON. The file is loaded again, and its samples are compared with the checkpoint's.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from omegaconf import MISSING

from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import Weights, check_checkpoint, read_options, refusals

TOLERANCE = 1e-5
INSTALL = "pip install 'gan-lightning[export]'"


@dataclass
class Options:
    checkpoint: Annotated[Path, "folder of a run, or a checkpoint"] = MISSING
    out: Annotated[Path, "output file, .pt2 or .onnx"] = Path("generator.pt2")
    weights: Annotated[Weights, "average (EMA generator) or raw (live generator)"] = Weights.average
    trust: Annotated[list[str], "further packages that the checkpoint may import"] = field(default_factory=list)

    def __post_init__(self) -> None:
        suffix = self.out.suffix.lower()
        if suffix not in (".pt2", ".onnx"):
            raise UsageError(f"out is {self.out}: end it in .pt2 or .onnx.")
        if suffix == ".onnx" and not (find_spec("onnx") and find_spec("onnxscript")):
            raise UsageError(f"ONNX needs packages that are not installed: {INSTALL}")
        check_checkpoint(self.checkpoint)


def export(options: Options) -> None:
    """Write the program and compare it with the checkpoint's generator.

    Raises:
        UsageError: the checkpoint cannot be read, or the program's samples are others than the generator's.
    """
    from gan_lightning.checkpoints import load
    from gan_lightning.export import describe, difference, trace, write_onnx, write_pt2

    gan, out = load(options.checkpoint, trust=options.trust), options.out
    weights = Weights.raw if gan.average is None else options.weights
    raw = weights is Weights.raw
    write = write_pt2 if out.suffix.lower() == ".pt2" else write_onnx
    with written_aside(out) as aside:
        write(trace(gan, raw), aside, describe(gan, weights.name))
        error = difference(aside, gan, raw)
        if error is not None and not error <= TOLERANCE:
            raise UsageError(f"The exported samples differ by {error:.1g} from the generator's: {out} is not written.")
    if weights is not options.weights:
        print(f"{options.checkpoint} keeps no averaged generator: this is the raw one.")
    checked = (
        f"not checked, for want of ONNX Runtime: {INSTALL}"
        if error is None
        else f"checked: differs by at most {error:.1g}"
    )
    print(f"{weights.value} generator of step {gan.loaded_step} in {out}, {checked}")


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals(options.out):
        export(options)
