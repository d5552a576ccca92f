"""A trained generator alone in a safetensors file: its weights and, as JSON in the metadata, all that rebuilds it."""

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
LARGEST = 127  # of 8 bits
SCALE = ":scale"  # after a weight's name, which has no colon


def sampled(gan: GAN, raw: bool = False) -> nn.Module:
    """The networks that make samples: the averaged ones where there are any, unless ``raw``."""
    return gan.game.sampled() if raw or gan.average is None else gan.average.network


def write(
    path: Path, gan: GAN, raw: bool = False, quantize: bool = False, evaluation: Mapping[str, Any] | None = None
) -> None:
    """The weights that make samples, to ``quantize`` in 8 bits, and what ``evaluate.py`` has found of this file."""
    state = {name: tensor.detach().cpu() for name, tensor in sampled(gan, raw).state_dict().items()}
    metadata = {
        "config": gan.config,
        "data": gan.described,
        "seed": gan.seed,
        "step": gan.loaded_step,
        "weights": "raw" if raw or gan.average is None else "average",
        "evaluation": dict(evaluation or {}),
    }
    # no two of them may share memory, nor be strided as channels_last is
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    state = quantized(state) if quantize else state
    # not save_file, whose file its owner alone may read
    path.write_bytes(save(state, {name: json.dumps(value) for name, value in metadata.items()}))


def read(path: Path) -> dict[str, Any]:
    """What such a file holds, named as in a checkpoint, and ``weights`` and ``evaluation``; nothing is unpickled.

    Raises:
        UsageError: it is no such file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {name: json.loads(value) for name, value in file.metadata().items()}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        gan = {name: metadata[name] for name in ("config", "data", "seed")}
        rest = {"global_step": metadata["step"], "weights": metadata["weights"], "evaluation": metadata["evaluation"]}
        return {"gan": gan, "state_dict": dequantized(state)} | rest
    except Exception as error:  # of many kinds, all with the same meaning here
        raise UsageError(f"{path} is damaged, or no file of export.py: give one that export.py wrote.") from error


def quantized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights w of two or more dimensions as q = round(w / s) in int8, s = max |w| / 127 over each row.

    Vectors, such as biases and BatchNorm's, stay as they are.
    """
    packed = dict(state)
    for name, weight in state.items():
        if weight.dim() > 1 and weight.is_floating_point():
            scale = weight.flatten(1).abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / LARGEST
            packed[name] = (weight / _along(scale, weight)).round().to(torch.int8)
            packed[name + SCALE] = scale
    return packed


def dequantized(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w = s q, and the others as they are."""
    state = {name: tensor for name, tensor in packed.items() if not name.endswith(SCALE)}
    scales = {name.removesuffix(SCALE): tensor for name, tensor in packed.items() if name.endswith(SCALE)}
    return state | {name: _along(scale, state[name]) * state[name] for name, scale in scales.items()}


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


def alone(gan: GAN, weights: str, path: Path) -> nn.Module:
    """The networks of an untrained GAN that the file's weights are of; the players' others become ``Absent``."""
    if weights == "raw":
        gan.average = None
    networks = sampled(gan)
    kept = set(networks.children())
    for player in gan.game.players().values():
        for network in player:
            if network not in kept:
                name = next(name for name, part in gan.game.named_children() if part is network)
                kind = "averaged" if weights == "average" else "raw"
                sentence = (
                    f"{path} holds the {kind} generator alone, and this needs game.{name}: give the run's folder."
                )
                setattr(gan.game, name, Absent(network, sentence))
    return networks
