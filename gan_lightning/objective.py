"""What a run returns to a sweeper; no import here is slow."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_lightning.errors import UsageError
from gan_lightning.runs import read_mapping


def objective(folder: Path, name: str | None, sweeper: Mapping[str, Any]) -> float | None:
    """The value ``name`` of a run's metrics.json, or of the metric by which its data compare runs; None without.

    Raises:
        UsageError: there is no such number, or the sweeper optimises and there is none at all.
    """
    metrics = read_mapping(folder / "metrics.json") or {}
    numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    name = name or metrics.get("monitor")
    if name in numbers:
        return float(numbers[name])
    if name is None and "direction" not in sweeper:
        return None
    raise UsageError(
        f"There is no {name or 'metric'} to optimize in {folder / 'metrics.json'}: give objective=NAME, one of "
        f"{', '.join(numbers) or 'its numbers'}."
    )


def worst(sweeper: Mapping[str, Any]) -> float:
    """What a diverged run counts as, by the direction that the sweeper optimises in."""
    direction = sweeper.get("direction", "minimize")
    return -math.inf if getattr(direction, "name", direction) == "maximize" else math.inf
