"""Export a trained generator to a program that runs without this package: torch.export or ONNX."""

import json
from collections.abc import Mapping, Sequence
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from gan_lightning.checkpoints import load
from gan_lightning.game import Game
from gan_lightning.gan import GAN

METADATA = "metadata.json"  # in a .pt2 file
CHECKED = 64  # fresh latents


class Sampler(nn.Module):
    """The part of a game that generates samples, from latents (n, latent_size) to (n, *sample_shape).

    If the generator is conditional, it also takes labels (n,), or images (n, *sample_shape) to translate.
    """

    def __init__(self, game: Game) -> None:
        super().__init__()
        self.game = copy(game)
        self.game._modules = {name: getattr(game, name) for name in game.averaged}

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.game.generate(latents, labels).x


def describe(gan: GAN, weights: str) -> dict[str, Any]:
    """The program's metadata; ``value_range`` is None for points, which are unbounded."""
    own = ("size", "training")
    options = {k: v for k, v in vars(gan.game.prior).items() if isinstance(v, int | float) and k not in own}
    return {
        "latent_size": gan.game.prior.size,
        "prior": {"name": type(gan.game.prior).__name__.lower()} | options,
        **({"class_names": list(gan.class_names)} if gan.class_names else {}),
        "sample_shape": gan.described["sample_shape"],
        "value_range": gan.described.get("value_range"),
        **({"units": units} if (units := gan.described.get("units")) else {}),
        "step": gan.loaded_step,
        "weights": weights,
    }


def trace(gan: GAN, raw: bool = False) -> ExportedProgram:
    """Trace the generator in evaluation mode as a program from (n, latent_size) to (n, *sample_shape), for any n.

    The program of a conditional generator also takes ``labels``, (n,), or the images to translate.
    """
    # two, because torch.export treats a size of one as a constant
    inputs = inputs_of(gan, torch.zeros(2, gan.game.prior.size))
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in inputs}
    with gan.sampling(raw):
        return torch.export.export(Sampler(gan.game), tuple(inputs.values()), dynamic_shapes=shapes)


def inputs_of(gan: GAN, latents: Tensor) -> dict[str, Tensor]:
    """The program's inputs by name: the latents and, for a conditional generator, its conditions.

    The conditions are the classes in turn or, for translation, images of noise.
    """
    n, shape = len(latents), gan.described["sample_shape"]
    labels = gan.labels(n, torch.rand(n, *shape) if gan.game.translates else None)
    return {"latents": latents} | ({} if labels is None else {"labels": labels})


def write_pt2(program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
    """Write the program for ``torch.export.load``, with the description in the extra file metadata.json."""
    with path.open("wb") as file:  # given a path, torch would write its name into the file
        torch.export.save(program, file, extra_files={METADATA: json.dumps(description)})


def write_onnx(program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
    """Write the program from ``latents`` to ``samples`` in ONNX, with the description's items as JSON metadata."""
    names = list(program.graph_signature.user_inputs)  # as in Sampler.forward
    shapes = ({0: "n"}, {})[: len(names)]  # the same n, which must be named only once
    onnx = torch.onnx.export(program, input_names=names, output_names=["samples"], dynamic_shapes=shapes, verbose=False)
    assert onnx is not None
    onnx.model.metadata_props.update({name: json.dumps(value) for name, value in description.items()})
    onnx.save(path)


def run(path: Path, inputs: Mapping[str, Tensor], trust: Sequence[str] = ()) -> Tensor | None:
    """Run a written file and return its samples, (n, *sample_shape); None if ONNX Runtime is not installed."""
    if path.suffix.lower() == ".safetensors":
        return load(path, trust=trust).sample(0, latents=inputs["latents"], labels=inputs.get("labels"))
    if path.suffix.lower() == ".pt2":
        return torch.export.load(path).module()(*inputs.values())
    if find_spec("onnxruntime") is None:
        return None
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: values.numpy() for name, values in inputs.items()})[0])


@torch.no_grad()
def difference(path: Path, gan: GAN, raw: bool = False, trust: Sequence[str] = ()) -> float | None:
    """max |x' - x| / max(1, max |x|) for samples x' of the file and x of the GAN at fresh latents; None if not run."""
    latents = gan.game.prior.sample(CHECKED, torch.Generator())
    inputs = inputs_of(gan, latents)
    samples = gan.sample(CHECKED, latents=latents, labels=inputs.get("labels"), raw=raw)
    exported = run(path, inputs, trust)
    if exported is None:
        return None
    return ((exported - samples).abs().max() / samples.abs().max().clamp(min=1)).item()
