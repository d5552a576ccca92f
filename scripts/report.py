"""One table of many runs: mean and standard error over seeds of every final metric, per setting, the best marked.

    python scripts/report.py FOLDER [FOLDER ...] [--metrics val/ks val/wasserstein] [--csv FILE]
                             [--figure FILE.png] [--curves FILE.png] [--evaluation]

Reads every run below the folders, such as multirun/TIME, that has a metrics.json, or an evaluation.json where
--evaluation is given; runs that differ only in their seed are one setting. Prints Markdown. --csv has a row for each
setting and metric. --figure draws the table, every seed a dot; --curves draws the metrics over generator updates.

Bold is the best mean and what does not differ from it by Welch's t-test at 5 %, with Holm's correction over all pairs
of settings on the same data; nothing, where none differs. A setting of one seed, or one that lost a run, is never
bold, and nothing is where its mean is the best. Metrics that are not known to be better one way are not ranked.
"""

import argparse
import csv
import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gan_lightning.errors import UsageError
from gan_lightning.statistics import Sample, best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLER = {"ks", "wasserstein", "jsd", "reverse_kl", "total_variation", "fid", "kid", "class_kl"}
LARGER = {
    *("modes", "high_quality", "even", "distinct", "classes", "inception_score"),
    *("precision", "recall", "density", "coverage"),
}
# what tells two runs of one setting apart, or only says where things lie
IGNORED = {"seed", "resume", "name", "data.seed", "data.download", "data.cache", "data.inception_weights"}
# options of the data that leave alone what the samples are compared with
TRAINING = {
    *("data.batch_size", "data.rounds_per_batch", "data.rounds_per_epoch", "data.horizontal_flips", "data.range"),
    *("data.workers", "data.memory_limit"),
}
VALIDATION = {"data.validation_samples", "data.features"}  # instead of which an evaluation has its own
PROTOCOL = ("features", "n")  # scores of images are of these features of that many
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
TEST = "Welch's t-test at 5 %, Holm's correction over all pairs"
PICTURES = (".png", ".pdf", ".svg")
Setting = tuple[tuple[str, str], ...]


# -------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Run:
    """A run folder: its options but the seed, its metrics if it has them, and how an evaluation measured them."""

    folder: Path
    seed: str
    options: Setting
    is_finished: bool
    metrics: dict[str, float]
    protocol: Setting


def find_runs(folders: list[Path], name: str) -> list[Run]:
    """Every run below the folders, whether or not it has the file ``name``, in order of their paths.

    Raises:
        UsageError: a folder does not exist, or a run's file cannot be read.
    """
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder: give a folder of runs, such as multirun/TIME.")
        for place, _, files in os.walk(folder):
            if name in files or "config.yaml" in files:
                found[Path(place).resolve()] = Path(place)
    return [run for path in sorted(found.values()) if (run := read_run(path, name)) is not None]


def read_run(folder: Path, name: str) -> Run | None:
    """The run of a folder; None where its config.yaml is not of a run.

    Raises:
        UsageError: the file ``name`` lies beside no run's config.yaml, or one of the two cannot be read.
    """
    config, metrics = read_mapping(folder / "config.yaml"), read_mapping(folder / name)
    if config is None or not {"data", "model"} <= set(config):
        if metrics is None:
            return None
        raise UsageError(f"{folder} has a {name} but no config.yaml of a run: put it back, or leave the folder out.")
    protocol: Setting = ()
    if metrics is not None and name == "evaluation.json":
        if not isinstance(metrics.get("metrics"), dict):
            raise UsageError(f"{folder / name} has no metrics: make it again with python scripts/evaluate.py.")
        protocol = tuple((key, str(metrics.get(key))) for key in PROTOCOL)
        metrics = metrics["metrics"]
    elif metrics is not None and "features" in metrics:
        protocol = (("features", str(metrics["features"])), ("n", str(config["data"].get("validation_samples"))))
    numbers = {k: number(v) for k, v in (metrics or {}).items() if not isinstance(v, str)}
    return Run(folder, str(config.get("seed")), setting_of(config), metrics is not None, numbers, protocol)


def read_mapping(path: Path) -> dict[str, Any] | None:
    """A YAML or JSON file; None where there is none.

    Raises:
        UsageError: it holds something else than a mapping.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else yaml.load(path.read_bytes(), LOADER)
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"{path} cannot be read: run it again, or leave the folder out.")
    return content


def number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def setting_of(config: dict[str, Any]) -> Setting:
    """Every option but the seed and where things lie; the run's name first."""
    options = flatten(config)
    # images have a name wherever they lie, except those of a folder, which are known by nothing else
    if not options.get("data._target_", "").endswith(".ImageFolder"):
        options.pop("data.root", None)
    return (("name", str(config.get("name"))), *sorted((k, v) for k, v in options.items() if k not in IGNORED))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names to values as text; an empty part is none."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = "none" if value == {} else str(value)
    return flat


# --------------------------------------------------------------------------------------------------------- labels


def labels(settings: list[Setting]) -> list[str]:
    """For each setting its name and the options that tell it from others of that name."""
    peers: dict[str, list[dict[str, str]]] = defaultdict(list)
    for (_, name), *pairs in settings:
        peers[name].append(dict(pairs))
    telling = {name: telling_options(group) for name, group in peers.items()}
    texts = []
    for (_, name), *pairs in settings:
        options = dict(pairs)
        words = [
            f"{key.removesuffix('._target_')}={short_value(key, options[key], peers[name])}"
            for key in telling[name]
            if key in options
        ]
        texts.append(" ".join([name, *words] if name != "None" else words) or "all")
    return texts


def telling_options(peers: list[dict[str, str]]) -> list[str]:
    """The options that differ, but for those that follow from the class of their part, or from one of the model's."""
    columns = {key: [peer.get(key) for peer in peers] for key in sorted({key for peer in peers for key in peer})}
    columns = {key: values for key, values in columns.items() if len(set(values)) > 1}
    sources = [key for key in columns if key.startswith("model.") and key.count(".") == 1]  # of ${model.lr} and others

    def follows(key: str) -> bool:
        values, parts = columns[key], key.split(".")
        classes = {f"{'.'.join(parts[:i])}._target_" for i in range(1, len(parts))} & columns.keys() - {key}
        return any(values == columns[other] for other in sources if other != key) or any(
            len(set(zip(columns[other], values, strict=True))) == len(set(columns[other])) for other in classes
        )

    return [key for key in columns if not follows(key)]


def short_value(key: str, value: str, peers: list[dict[str, str]]) -> str:
    """A class by as many of its last names as tell it from the peers' classes; any other value as it is."""
    if not key.endswith("_target_"):
        return value
    others = {peer[key] for peer in peers if key in peer} - {value}
    names = value.split(".")
    suffixes = [".".join(names[-i:]) for i in range(1, len(names) + 1)]
    return next((s for s in suffixes if not any(f".{other}".endswith(f".{s}") for other in others)), value)


# ---------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Row:
    """A setting: its finished runs, one a seed, and the seeds that were begun, finished or not."""

    label: str
    setting: Setting
    runs: list[Run]
    seeds: int

    @property
    def task(self) -> Setting:
        """The data, and the protocol of an evaluation: numbers of different tasks are not compared."""
        has_protocol = any(key in PROTOCOL for key, _ in self.setting)
        others = TRAINING | VALIDATION if has_protocol else TRAINING
        return tuple((k, v) for k, v in self.setting if k in PROTOCOL or (k.startswith("data.") and k not in others))


@dataclass
class Cell:
    """A metric's finite values in a setting; ``is_best`` is None where there is nothing to rank."""

    values: list[float]
    seeds: int
    is_best: bool | None = None

    @property
    def text(self) -> str:
        text = mean_and_error(Sample.of(self.values)) if self.values else "nan"
        text = f"**{text}**" if self.is_best else text
        return text if len(self.values) == self.seeds else f"{text} ({len(self.values)} of {self.seeds})"


Table = dict[str, list[Cell | None]]  # a column for each metric, a cell for each row; None where no run has it


def make_rows(runs: list[Run]) -> tuple[list[Row], list[str]]:
    """The settings in order of their labels, and a sentence for each run that has another's setting and seed."""
    groups: dict[Setting, dict[str, Run]] = defaultdict(dict)
    missing: dict[Setting, set[str]] = defaultdict(set)
    twins = []
    for run in runs:
        if not run.is_finished:
            missing[run.options].add(run.seed)
            continue
        first = groups[run.options + run.protocol].setdefault(run.seed, run)
        if first is not run:
            twins.append(f"{first.folder} and {run.folder} have one setting and one seed: the first is counted.")
    rows = []
    for label, (setting, group) in zip(labels(list(groups)), groups.items(), strict=True):
        members = list(group.values())
        rows.append(Row(label, setting, members, len(group.keys() | missing[members[0].options])))
    return sorted(rows, key=lambda row: row.label), twins


def tabulate(rows: list[Row], metrics: Iterable[str]) -> Table:
    """Every metric's column, with the best of each task marked."""
    table: Table = {}
    for metric in metrics:
        cells = [make_cell(row, metric) for row in rows]
        for task in {row.task for row in rows}:
            rank([cell for row, cell in zip(rows, cells, strict=True) if cell and row.task == task], metric)
        table[metric] = cells
    return table


def make_cell(row: Row, metric: str) -> Cell | None:
    values = [run.metrics[metric] for run in row.runs if metric in run.metrics]
    return Cell([v for v in values if math.isfinite(v)], row.seeds) if values else None


def rank(cells: list[Cell], metric: str) -> None:
    """Mark the best of the cells of one task."""
    rivals = [cell for cell in cells if cell.values]
    if len(rivals) < 2 or base(metric) not in SMALLER | LARGER:
        return
    complete = [len(cell.values) == cell.seeds for cell in rivals]
    marks = best([Sample.of(cell.values) for cell in rivals], base(metric) in LARGER, complete)
    for cell, mark in zip(rivals, marks, strict=True):
        cell.is_best = mark


def base(metric: str) -> str:
    return metric.rpartition("/")[2]


def mean_and_error(sample: Sample) -> str:
    """Mean and standard error to two figures of the error; a single value to four figures."""
    if sample.n == 1 or sample.error == 0:
        return f"{sample.mean:.4g}" + (" ± 0" if sample.n > 1 else "")
    digits = max(0, 1 - math.floor(math.log10(sample.error)))
    if digits > 6:
        return f"{sample.mean:.4g} ± {sample.error:.1e}"
    return f"{sample.mean:.{digits}f} ± {sample.error:.{digits}f}"


def markdown(rows: list[Row], table: Table) -> list[str]:
    """The lines of the table; an arrow says which way is better."""
    header = ["setting", "seeds", *(title(metric) for metric in table)]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for i, row in enumerate(rows):
        seeds = str(row.seeds) if len(row.runs) == row.seeds else f"{len(row.runs)} of {row.seeds}"
        cells = [column[i] for column in table.values()]
        texts = [row.label, seeds, *(cell.text if cell else "" for cell in cells)]
        lines.append("| " + " | ".join(texts) + " |")
    return lines


def title(metric: str) -> str:
    arrow = " ↓" if base(metric) in SMALLER else " ↑" if base(metric) in LARGER else ""
    return metric.removeprefix("val/") + arrow


def notes(rows: list[Row], table: Table, runs: list[Run], name: str) -> list[str]:
    """Sentences for below the table: what its numbers are, and what is not in them."""
    lines = ["Mean ± standard error over the seeds."]
    marks = [cell.is_best for column in table.values() for cell in column if cell and cell.is_best is not None]
    if any(marks):
        lines[0] += (
            " Bold: the best mean among the settings on the same data and those that do not differ from it, where any"
            f" does ({TEST}; a setting of one seed, or one that lost a run, is never bold)."
        )
    elif marks:
        lines[0] += f" Nothing is bold: no difference stands out of the errors, and one seed has none ({TEST})."
    if broken := [
        f"{metric} of {run.folder}"
        for metric, column in table.items()
        for row, cell in zip(rows, column, strict=True)
        for run in row.runs
        if cell and not math.isfinite(run.metrics.get(metric, math.nan))
    ]:
        lines.append(f"No finite number, and so left out: {', '.join(broken)}.")
    if missing := [str(run.folder) for run in runs if not run.is_finished]:
        lines.append(f"Without {name} (stopped, diverged or not done yet): {', '.join(missing)}.")
    return lines


def write_csv(path: Path, rows: list[Row], table: Table) -> None:
    """A line for each setting and metric; best is 1 or 0, and empty where nothing is ranked."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "metric", "seeds", "values", "mean", "standard_error", "best"])
        for metric, column in table.items():
            for row, cell in zip(rows, column, strict=True):
                if cell is None:
                    continue
                sample = Sample.of(cell.values) if cell.values else Sample(0, math.nan, math.nan)
                mark = "" if cell.is_best is None else int(cell.is_best)
                writer.writerow([row.label, metric, cell.seeds, sample.n, sample.mean, sample.error, mark])


# -------------------------------------------------------------------------------------------------------- pictures


def draw_table(rows: list[Row], table: Table) -> "Figure":
    """An axes for each metric: every setting's mean with its standard error, and every seed as a small dot."""
    panels = [(metric, column) for metric, column in table.items() if any(cell and cell.values for cell in column)]
    if not panels:
        raise UsageError("--figure has nothing to draw, as no run has val/...: name its metrics by --metrics.")
    text_width = 0.08 * max(len(row.label) for row in rows)
    figure, grid = panel_grid(len(panels), 0.9 + 0.3 * len(rows), margin=(text_width, 0.2), share_y=True)
    for axes, (metric, column) in zip(grid, panels, strict=True):
        for i, cell in enumerate(column):
            if cell and cell.values:
                draw_cell(axes, i, cell)
        axes.set_title(title(metric), fontsize=10, loc="left")
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", color="0.92")
        set_scale(axes.set_xscale, metric, [v for cell in column if cell for v in cell.values])
    figure.supxlabel("mean ± standard error; dots: seeds; diamonds: best", fontsize=8)
    return figure


def draw_cell(axes: "Axes", i: int, cell: Cell) -> None:
    """The mean, its error and the seeds at height i."""
    sample, color = Sample.of(cell.values), line_style(i)[0]
    axes.plot(cell.values, [i] * sample.n, ".", color=color, alpha=0.4, markersize=5)
    error = sample.error if sample.n > 1 else None
    marker = "D" if cell.is_best else "o"
    axes.errorbar(sample.mean, i, xerr=error, fmt=marker, color=color, capsize=3, markersize=6)


def panel_grid(
    panels: int, height: float, margin: tuple[float, float], share_y: bool = False
) -> tuple["Figure", list["Axes"]]:
    """A figure and its axes, at most three in a row; the height of one and the margin, width and height, in inches."""
    from matplotlib.figure import Figure

    columns = min(3, panels)
    count = math.ceil(panels / columns)
    size = (3.8 * columns + margin[0], height * count + margin[1])
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    grid = figure.subplots(count, columns, sharey=share_y, squeeze=False).flatten().tolist()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.locator_params(nbins=5)
    for axes in grid[panels:]:
        axes.remove()
    return figure, grid[:panels]


def line_style(i: int) -> tuple[str, str]:
    """Colour and dashes of the i-th setting, the same in both pictures."""
    return f"C{i % 10}", ("-", "--", ":", "-.")[i // 10 % 4]


def set_scale(set_: Any, metric: str, values: list[float]) -> None:
    """Logarithmic for distances of several orders of magnitude."""
    if base(metric) in SMALLER and values and 0 < 100 * min(values) < max(values):
        set_("log")


Curves = dict[str, dict[int, float]]  # of a run: values by generator update, by name


@dataclass(frozen=True)
class Band:
    """Mean over seeds and its standard error at each step that all seeds have; nan for one seed's error."""

    steps: list[int]
    means: list[float]
    errors: list[float]
    seeds: int

    @classmethod
    def of(cls, curves: list[dict[int, float]]) -> "Band":
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        samples = [Sample.of([curve[step] for curve in curves]) for step in steps]
        return cls(steps, [s.mean for s in samples], [s.error for s in samples], len(curves))


def read_curves(folder: Path) -> Curves:
    """Every scalar that TensorBoard's event files of a run hold."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: {event.step: event.value for event in log.Scalars(name) if math.isfinite(event.value)}
        for name in log.Tags()["scalars"]
    }


def make_bands(rows: list[Row], metrics: list[str]) -> dict[str, list[Band | None]]:
    """Bands by metric and row, None where no run has the curve; by default of all val/... and the losses."""
    read = [[read_curves(run.folder) for run in row.runs] for row in rows]
    names = {name for curves in read for run in curves for name in run}
    # value_bound is a constant line for TensorBoard
    standard = sorted(n for n in names if n.startswith("val/") and n != "val/value_bound") + sorted(
        n for n in names if n.startswith("loss/")
    )
    bands: dict[str, list[Band | None]] = {}
    for metric in metrics or standard:
        found = [[run[metric] for run in curves if metric in run] for curves in read]
        if any(found):
            bands[metric] = [Band.of(curves) if curves else None for curves in found]
    return bands


def band_notes(rows: list[Row], bands: dict[str, list[Band | None]]) -> list[str]:
    """A sentence for each curve that is of fewer seeds than the table's, or that is empty."""
    lines = []
    for metric, column in bands.items():
        for row, band in zip(rows, column, strict=True):
            if band and band.seeds < len(row.runs):
                lines.append(f"The curve of {metric} of {row.label} is of {band.seeds} of {len(row.runs)} seeds.")
            if band and not band.steps:
                lines.append(f"The curve of {metric} of {row.label} is empty: its seeds share no step.")
    return lines


def draw_curves(rows: list[Row], bands: dict[str, list[Band | None]]) -> "Figure":
    """An axes for each metric: the mean over seeds and a band of one standard error, over generator updates."""
    if not bands:
        raise UsageError("--curves has nothing to draw: TensorBoard's event files of the runs have no such curve.")
    figure, grid = panel_grid(len(bands), 2.5, margin=(0.4, 0.4 + 0.18 * len(rows)))
    for axes, (metric, column) in zip(grid, bands.items(), strict=True):
        for i, band in enumerate(column):
            if band is None:
                continue
            color, dashes = line_style(i)
            marker = "." if len(band.steps) < 20 else None
            label = f"{rows[i].label} ({len(rows[i].runs)})"
            axes.plot(band.steps, band.means, dashes, color=color, linewidth=1.2, marker=marker, label=label)
            if band.seeds > 1:
                lower, upper = ([m + s * e for m, e in zip(band.means, band.errors, strict=True)] for s in (-1, 1))
                axes.fill_between(band.steps, lower, upper, color=color, alpha=0.2, linewidth=0)
        axes.set_title(title(metric), fontsize=10, loc="left")
        axes.set_xlabel("generator updates", fontsize=8)
        set_scale(axes.set_yscale, metric, [mean for band in column if band for mean in band.means])
    lines = {str(line.get_label()): line for axes in grid for line in axes.lines}
    lines = {label: lines[label] for row in rows if (label := f"{row.label} ({len(row.runs)})") in lines}
    legend = figure.legend(handles=list(lines.values()), loc="outside lower left", frameon=False, fontsize=8)
    legend.set_title("setting (seeds)")
    legend.set_alignment("left")
    return figure


# ------------------------------------------------------------------------------------------------------------ main


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--metrics", nargs="*", default=[], help="names as in metrics.json; all val/... if not given")
    parser.add_argument("--csv", type=Path, help="write the table there too")
    parser.add_argument("--figure", type=Path, help="draw the table there, as .png, .pdf or .svg")
    parser.add_argument("--curves", type=Path, help="draw learning curves there; loss/... are among their metrics")
    parser.add_argument("--evaluation", action="store_true", help="tabulate evaluation.json, not metrics.json")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Print the table and write what was asked for.

    Raises:
        UsageError: there is nothing to tabulate, or a file cannot be read or written.
    """
    for picture in (options.figure, options.curves):
        if picture and picture.suffix not in PICTURES:
            raise UsageError(f"{picture} is no picture that can be written: end its name in {', '.join(PICTURES)}.")
    name = "evaluation.json" if options.evaluation else "metrics.json"
    runs = find_runs(options.folders, name)
    rows, twins = make_rows(runs)
    if not rows:
        where, makes = ", ".join(map(str, options.folders)), "evaluate" if options.evaluation else "train"
        raise UsageError(f"no run with {name} below {where}: give a folder of runs that {makes}.py has been through.")
    known = {metric for row in rows for run in row.runs for metric in run.metrics}
    bands = make_bands(rows, options.metrics) if options.curves else {}
    if unknown := [metric for metric in options.metrics if metric not in known | set(bands)]:
        raise UsageError(f"no run has {', '.join(unknown)}: choose from {', '.join(sorted(known))}.")
    chosen = options.metrics or sorted(m for m in known if options.evaluation or m.startswith("val/"))
    table = tabulate(rows, [metric for metric in chosen if metric in known])
    drawings = {}
    if options.figure:
        drawings[options.figure] = draw_table(rows, table)
    if options.curves:
        drawings[options.curves] = draw_curves(rows, bands)
    if "seconds" in known:
        table |= tabulate(rows, ["seconds"])

    remarks = [*notes(rows, table, runs, name), *twins, *band_notes(rows, bands)]
    print("\n".join(markdown(rows, table)), *remarks, sep="\n\n")
    for path in filter(None, (options.csv, *drawings)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if options.csv:
        write_csv(options.csv, rows, table)
    for path, figure in drawings.items():
        figure.savefig(path)


def main() -> None:
    try:
        report(parse())
    except UsageError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
