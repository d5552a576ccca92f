"""Class names and labels, and which networks take them."""

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gan_lightning.errors import UsageError


def is_conditional(network: nn.Module) -> bool:
    """Whether a network is called with y."""
    # not getattr on the module: its lookup raises for a missing attribute, which is slower
    found = network.__dict__.get("conditional", getattr(type(network), "conditional", False))
    if isinstance(found, bool) and "_orig_mod" not in network._modules:  # as by torch.compile(network)
        return found
    return bool(getattr(network, "conditional", False))


def class_index(name: int | str, names: Sequence[str]) -> int:
    """Return the index of a class given by name, or by number unless the names are numbers themselves.

    Raises:
        UsageError: there is no such class.
    """
    if str(name) in names:
        return list(names).index(str(name))
    are_numbers = all(known.isdecimal() for known in names)
    if str(name).isdecimal() and int(name) < len(names) and not are_numbers:
        return int(name)
    others = "" if are_numbers else f" (or 0 to {len(names) - 1})"
    raise UsageError(f"There is no class {name!r}: choose from {', '.join(names)}{others}.")


def asked_for(n: int, names: Sequence[str], labels: Tensor | Sequence[int | str] | None = None) -> Tensor:
    """Return labels for n samples: a given tensor, or a list of numbers and names in turn; None means all in turn.

    Raises:
        UsageError: there is no such class, or ``names`` or ``labels`` is empty.
    """
    if isinstance(labels, np.ndarray | range):
        labels = np.asarray(labels).tolist()
    if isinstance(labels, Tensor):
        _check_labels(labels, len(names))
        return labels
    are_numbers = isinstance(labels, list | tuple) and len(labels) > 0 and all(isinstance(k, Integral) for k in labels)
    if not names and are_numbers:
        return in_turn([int(k) for k in labels], n)  # type: ignore[union-attr]
    if not names:
        raise UsageError(
            "The names of the generator's classes are unknown: in Python, pass its conditions as a tensor, "
            "sample(n, labels=TENSOR), or the numbers of classes to alternate between, such as labels=[0, 1]."
        )
    if isinstance(labels, str | int):
        raise UsageError(f"labels is {labels!r}: give a list of classes, such as [{labels!r}], or a tensor of labels.")
    chosen = names if labels is None else labels
    if len(chosen) == 0:
        raise UsageError(f"labels is empty: give classes to alternate between, {', '.join(names)}, or None for all.")
    return in_turn([class_index(name, names) for name in chosen], n)


def _check_labels(labels: Tensor, classes: int) -> None:
    """Raise a UsageError if classes (n,) or class weights (n, classes) are not of this many classes, if known."""
    if not classes or not labels.numel():
        return
    if not labels.is_floating_point() and not 0 <= labels.min() <= labels.max() < classes:
        raise UsageError(f"labels has classes {labels.min()} to {labels.max()}: give numbers from 0 to {classes - 1}.")
    if labels.is_floating_point() and labels.dim() == 2 and labels.shape[1] != classes:
        raise UsageError(f"labels has shape {tuple(labels.shape)}: give a weight for each of the {classes} classes.")


def of_classes(labels: Tensor, y: Tensor) -> Tensor:
    """Indices (n,) of items of the classes y (n,), each item once, those with the lowest indices.

    Raises:
        UsageError: a class has too few items.
    """
    index = torch.empty_like(y)
    for name in y.unique():
        places, items = ((part == name).nonzero()[:, 0] for part in (y, labels))
        if len(items) < len(places):
            raise UsageError(
                f"The floor takes {len(places)} training samples of class {name}, as many as are held out, but there "
                f"are {len(items)}: give a smaller number of held-out samples, or floor=false."
            )
        index[places] = items[: len(places)]
    return index


def in_turn(classes: Sequence[int], n: int) -> Tensor:
    """n labels (n,) that cycle through the classes."""
    return torch.tensor(classes).repeat(-(-n // len(classes)))[:n]


def whole_rows(n: int, classes: int) -> int:
    """The largest multiple of the number of classes up to n; n if there are no classes or more than n."""
    return n - n % classes if 0 < classes <= n else n


def between(classes: Sequence[int], steps: int, count: int) -> Tensor:
    """Weights of ``count`` classes that interpolate linearly from each class to the next, (frames, count).

    Each segment has ``steps`` frames including both ends; consecutive segments share one.
    """
    corners = one_hot(torch.tensor(classes), count).float()
    t = torch.linspace(0, 1, steps)[:-1, None]
    ways = [torch.lerp(a, b, t) for a, b in pairwise(corners)]
    return torch.cat([*ways, corners[-1:]])


def said(names: Sequence[str]) -> str:
    """The classes in one line, for example "10 classes: 0, 1, ..., 9"."""
    shown = names if len(names) <= 3 else [*names[:2], "...", names[-1]]
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {', '.join(shown)}"
