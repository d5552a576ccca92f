"""One table of many runs: mean and standard error over seeds of every final metric, per setting.

    python scripts/report.py FOLDER [FOLDER ...] [--metrics val/ks val/wasserstein] [--csv FILE]

Reads every run below the folders, such as multirun/TIME, that has a metrics.json; runs that differ only in their seed
are one setting. Prints Markdown.
"""

import argparse
import csv
import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

IGNORED = ("seed", "resume", "data.root", "data.seed", "name")
Setting = tuple[tuple[str, str], ...]


def flatten(config: dict[Any, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names to values as text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: str(value)}
    return flat


def read(folders: list[Path]) -> dict[Setting, list[dict[str, float]]]:
    """The final metrics of each setting's runs; a setting is every option but the seed, its name first."""
    runs = defaultdict(list)
    for path in sorted(p for folder in folders for p in folder.rglob("metrics.json")):
        config = OmegaConf.to_container(OmegaConf.load(path.parent / "config.yaml"))
        assert isinstance(config, dict)
        options = {k: v for k, v in flatten(config).items() if k not in IGNORED}
        setting = (("name", str(config.get("name"))), *sorted(options.items()))
        runs[setting].append(json.loads(path.read_text()))
    return dict(runs)


def labels(settings: list[Setting]) -> list[str]:
    """For each setting its name and the options that tell it from others of that name."""
    texts = []
    for setting in settings:
        peers = [dict(other) for other in settings if other[0] == setting[0]]
        differing = [(k, v) for k, v in setting[1:] if any(peer.get(k) != v for peer in peers)]
        name = [] if setting[0][1] == "None" else [setting[0][1]]
        texts.append(" ".join(name + [f"{k}={v.rpartition('.')[2] if '_target_' in k else v}" for k, v in differing]))
    return texts


def cell(values: list[float]) -> str:
    """Mean and standard error, s/sqrt(n), to two figures of the error and at most four decimals."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4g}"
    error = statistics.stdev(values) / math.sqrt(len(values))
    if error < 5e-5:
        return f"{mean:.4g} ± 0"
    digits = min(4, max(0, 1 - math.floor(math.log10(error))))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def table(runs: dict[Setting, list[dict[str, float]]], metrics: list[str]) -> list[list[str]]:
    """Header and one row a setting, in order of their labels."""
    chosen = metrics or sorted({m for group in runs.values() for run in group for m in run if m.startswith("val/")})
    rows = []
    for label, group in zip(labels(list(runs)), runs.values(), strict=True):
        cells = []
        for metric in [*chosen, "seconds"]:
            values = [run[metric] for run in group if metric in run]
            cells.append(cell(values) if values else "")
        rows.append([label or "all", str(len(group)), *cells])
    header = ["setting", "seeds", *(metric.removeprefix("val/") for metric in chosen), "seconds"]
    return [header, *sorted(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--metrics", nargs="*", default=[], help="names as in metrics.json; all val/... if not given")
    parser.add_argument("--csv", type=Path, help="write the table there too")
    options = parser.parse_args()
    runs = read(options.folders)
    if not runs:
        sys.exit(f"Error: no finished run below {', '.join(map(str, options.folders))}: give a folder of runs.")
    rows = table(runs, options.metrics)
    for i, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if i == 0:
            print("|" + " --- |" * len(row))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
