"""Classes by their names, and labels of so many samples."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gan_lightning.errors import UsageError


def class_index(name: int | str, names: Sequence[str]) -> int:
    """Which class a name means, or a number where no class has that for a name.

    Raises:
        UsageError: it means none.
    """
    if str(name) in names:
        return list(names).index(str(name))
    if str(name).isdecimal() and int(name) < len(names):
        return int(name)
    raise UsageError(f"There is no class {name!r}: choose from {', '.join(names)} (or 0 to {len(names) - 1}).")


def asked_for(n: int, names: Sequence[str], labels: Tensor | Sequence[int | str] | None = None) -> Tensor:
    """The classes of n samples: the tensor given, or a list of numbers and names in turn; for None all in turn.

    Raises:
        UsageError: there is no such class, or ``names`` are not known.
    """
    if isinstance(labels, Tensor):
        return labels
    if not names:
        raise UsageError(
            "The generator has no classes to alternate between: in Python, pass what it is conditioned on, "
            "gan_lightning.load(RUN).sample(n, labels=TENSOR)."
        )
    return in_turn([class_index(name, names) for name in (names if labels is None else labels)], n)


def in_turn(classes: Sequence[int], n: int) -> Tensor:
    """n labels, (n,): the classes in turn, again and again."""
    return torch.tensor(classes).repeat(-(-n // len(classes)))[:n]


def whole_rows(n: int, classes: int) -> int:
    """The most samples, up to n, of which all classes have as many; n where there are no classes, or too many."""
    return n - n % classes if 0 < classes <= n else n


def between(classes: Sequence[int], steps: int, count: int) -> Tensor:
    """Weights of ``count`` classes on straight ways from each class to the next, (frames, count).

    Each way has ``steps`` frames, both ends counted; neighbouring ways share one.
    """
    corners = one_hot(torch.tensor(classes), count).float()
    t = torch.linspace(0, 1, steps)[:-1, None]
    ways = [torch.lerp(a, b, t) for a, b in pairwise(corners)]
    return torch.cat([*ways, corners[-1:]])


def said(names: Sequence[str]) -> str:
    """The classes in a line, such as 10 classes: 0, 1, ..., 9."""
    shown = names if len(names) <= 3 else [*names[:2], "...", names[-1]]
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {', '.join(shown)}"
