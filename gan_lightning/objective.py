"""The value that a run returns to a sweeper; imports only fast modules."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_lightning.errors import UsageError
from gan_lightning.runs import read_mapping


def objective(folder: Path, name: str | None, sweeper: Mapping[str, Any]) -> float | None:
    """The value ``name`` in a run's metrics.json, by default its data's own metric; None if nothing needs it.

    Raises:
        UsageError: there is no such number, or a sweeper that optimizes gets none.
    """
    metrics = read_mapping(folder / "metrics.json") or {}
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    chosen = name or metrics.get("monitor")
    if chosen in numbers:
        return float(numbers[chosen])
    if name is None and "direction" not in sweeper:
        return None  # validation may be disabled, and no sweeper optimizes
    raise UsageError(
        f"There is no {chosen or 'metric'} to optimize in {folder / 'metrics.json'}: give objective=NAME, one of "
        f"{', '.join(numbers) or 'its numbers'}."
    )


def worst(sweeper: Mapping[str, Any]) -> float:
    """The value of a diverged run, according to the direction in which the sweeper optimizes."""
    direction = sweeper.get("direction", "minimize")
    return -math.inf if getattr(direction, "name", direction) == "maximize" else math.inf
