"""A trained generator in a safetensors file: its weights and, as JSON metadata, everything needed to rebuild it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gan_lightning.absent import Absent
from gan_lightning.errors import UsageError
from gan_lightning.gan import GAN

ENDING = ".safetensors"
LARGEST = 127  # of a signed 8-bit integer
SCALE = ":scale"  # suffix of a weight's name, which contains no colon


def sampled(gan: GAN, raw: bool = False) -> nn.Module:
    """The networks that generate samples: the averaged ones if there are any and not ``raw``."""
    return gan.game.sampled() if raw or gan.average is None else gan.average.network


def write(
    path: Path, gan: GAN, raw: bool = False, quantize: bool = False, evaluation: Mapping[str, Any] | None = None
) -> None:
    """Write the weights that generate samples, in 8 bits if ``quantize``, and the results of ``evaluate.py``."""
    state = sampled(gan, raw).state_dict()
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UsageError(
            f"{others[0]} is the extra state of a module, but a .safetensors file holds tensors alone: export to "
            "another format."
        )
    state = {name: tensor.detach().cpu() for name, tensor in state.items()}
    metadata = {
        "config": gan.config,
        "data": gan.described,
        "seed": gan.seed,
        "step": gan.loaded_step,
        "weights": "raw" if raw or gan.average is None else "average",
        "evaluation": dict(evaluation or {}),
    }
    # safetensors refuses tensors that share memory or are not contiguous
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    state = quantized(state) if quantize else state
    # not save_file, whose file only its owner may read
    path.write_bytes(save(state, {name: json.dumps(value) for name, value in metadata.items()}))


def read(path: Path) -> dict[str, Any]:
    """Read such a file: entries named as in a checkpoint, ``weights`` and ``evaluation``. Nothing is unpickled.

    Raises:
        UsageError: the file is not of this format or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {name: json.loads(value) for name, value in file.metadata().items()}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        gan = {name: metadata[name] for name in ("config", "data", "seed")}
        rest = {"global_step": metadata["step"], "weights": metadata["weights"], "evaluation": metadata["evaluation"]}
        return {"gan": gan, "state_dict": dequantized(state)} | rest
    except Exception as error:  # many kinds of exception, which all mean the same here
        raise UsageError(f"{path} is damaged or not a file of export.py: give a file that export.py wrote.") from error


def quantized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantize weights w of two or more dimensions to q = round(w / s) in int8, with s = max |w| / 127 per row.

    Vectors, such as biases and the weights of BatchNorm, are not quantized.
    """
    packed = dict(state)
    for name, weight in state.items():
        if weight.dim() > 1 and weight.is_floating_point():
            scale = weight.flatten(1).abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / LARGEST
            packed[name] = (weight / _along(scale, weight)).round().to(torch.int8)
            packed[name + SCALE] = scale
    return packed


def dequantized(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dequantize weights, w = s q; all others are unchanged."""
    state = {name: tensor for name, tensor in packed.items() if not name.endswith(SCALE)}
    scales = {name.removesuffix(SCALE): tensor for name, tensor in packed.items() if name.endswith(SCALE)}
    return state | {name: _along(scale, state[name]) * state[name] for name, scale in scales.items()}


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


def alone(gan: GAN, weights: str, path: Path) -> nn.Module:
    """The networks of an untrained GAN that the file has weights for; the players' others become ``Absent``."""
    if weights == "raw":
        gan.average = None
    networks = sampled(gan)
    kept = set(networks.children())
    for player in gan.game.players().values():
        for network in player:
            if network not in kept:
                name = next(name for name, part in gan.game.named_children() if part is network)
                kind = "averaged" if weights == "average" else "raw"
                sentence = f"{path} holds only the {kind} generator, but this needs game.{name}: give the run's folder."
                setattr(gan.game, name, Absent(network, sentence))
    return networks
