"""Tabulate many runs: mean and standard error over seeds of every final metric, per setting, with the best in bold.

    python scripts/report.py runs=multirun/TIME csv=table.csv figure=table.png curves=curves.png
    python scripts/report.py runs=multirun/A runs=multirun/B 'metrics=[val/ks,val/wasserstein]'
    gan-report runs=multirun/TIME, if the package is installed

Reads every run below the folders that has a metrics.json, or with evaluation=true an evaluation.json. Runs that differ
only in their seed are one setting, if they were evaluated in the same way (features, number of samples, held-out
images, checkpoint, weights). Prints Markdown. csv has a row for each setting and metric, figure draws the table with a
dot for each seed, and curves draws the metrics over generator updates.

Bold marks the best mean and those that do not differ significantly from it, by Welch's t-test at 5% with Holm's
correction over all pairs of settings on the same data. Nothing is bold if no setting differs, or if the best mean is
that of a setting with one seed or with a failed run, which is never bold. Metrics that are not known to be better in
one direction are not ranked.
"""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import MISSING

from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import check_picture, read_options, refusals
from gan_lightning.runs import COMPARED, Run, Setting, find_runs, labels
from gan_lightning.statistics import Sample, best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SMALLER = (
    *("ks", "wasserstein", "jsd", "energy", "reverse_kl", "reverse_kl_high_quality", "total_variation"),
    *("fid", "kid", "intra_fid", "intra_fid_worst", "class_kl", "kl", "kl_exact"),
    *("sliced_wasserstein", "share_error", "correlation_error", "ks_amplitude", "ks_frequency"),
    *("reconstruction_error", "l1"),
)
LARGER = (
    *("modes", "high_quality", "even", "distinct", "classes", "inception_score"),
    *("precision", "recall", "coverage", "class_accuracy", "category_match", "sine_share"),
    *("class_high_quality", "class_high_quality_worst"),
)
ARROWS = dict.fromkeys(SMALLER, "↓") | dict.fromkeys(LARGER, "↑")
# data options that do not affect what samples are compared with
TRAINING = {
    *("data.batch_size", "data.rounds_per_batch", "data.rounds_per_epoch", "data.horizontal_flips", "data.range"),
    *("data.workers", "data.memory_limit", "data.fixed_samples"),
}
TEST = "Welch's t-test at 5%, Holm's correction over all pairs"
DASHES = ("-", "--", ":", "-.")  # one per ten colors


@dataclass
class Options:
    runs: Annotated[list[Path], "folder of runs; repeat for several folders"] = MISSING
    metrics: Annotated[list[str], "names in metrics.json; [] for all val/..."] = field(default_factory=list)
    csv: Annotated[Path | None, "output file for the table"] = None
    figure: Annotated[Path | None, "output picture of the table: .png, .jpg, .webp, .pdf or .svg"] = None
    curves: Annotated[Path | None, "output picture of the learning curves, which include loss/..."] = None
    evaluation: Annotated[bool, "tabulate evaluation.json instead of metrics.json"] = False

    def __post_init__(self) -> None:
        for picture in (self.figure, self.curves):
            if picture:
                check_picture(picture)
        outputs = [path for path in (self.csv, self.figure, self.curves) if path]
        if len(set(outputs)) < len(outputs):
            raise UsageError("csv, figure and curves are different files: give each a name of its own.")


# ---------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Row:
    """A setting: its finished runs, one per seed, and the number of seeds that were started."""

    label: str
    setting: Setting
    runs: list[Run]
    seeds: int

    @property
    def is_of_one_length(self) -> bool:
        """Whether all its runs ended at the same step; else their mean is not meaningful."""
        return len({run.step for run in self.runs}) < 2

    @property
    def task(self) -> Setting:
        """The data and how samples are compared with it; numbers of different tasks are not ranked."""
        return tuple((k, v) for k, v in self.setting if k in COMPARED or (k.startswith("data.") and k not in TRAINING))


@dataclass
class Cell:
    """A metric's finite values in a setting; ``is_best`` is None if there is nothing to rank."""

    values: list[float]
    seeds: int
    is_best: bool | None = None

    @property
    def sample(self) -> Sample:
        return Sample.of(self.values) if self.values else Sample(0, math.nan, math.nan)

    @property
    def text(self) -> str:
        text = f"**{mean_and_error(self.sample)}**" if self.is_best else mean_and_error(self.sample)
        return text if len(self.values) == self.seeds else f"{text} ({len(self.values)} of {self.seeds})"


Table = dict[str, dict[int, Cell]]  # by metric and row, if a run of the row has the metric


def make_rows(runs: list[Run]) -> tuple[list[Row], list[str]]:
    """The settings sorted by label, and a sentence for each run with the setting and seed of another."""
    groups: dict[Setting, dict[str, Run]] = defaultdict(dict)
    missing: dict[Setting, set[str]] = defaultdict(set)
    twins = []
    for run in runs:
        if run.missing:
            missing[run.options].add(run.seed)
            continue
        first = groups[run.options + run.protocol].setdefault(run.seed, run)
        if first is not run:
            twins.append(f"{first.folder} and {run.folder} have the same setting and seed: only the first is counted.")
    rows = []
    choices = [next(iter(group.values())).choices for group in groups.values()]
    for label, (setting, group) in zip(labels(list(groups), choices), groups.items(), strict=True):
        members = list(group.values())
        rows.append(Row(label, setting, members, len(group.keys() | missing[members[0].options])))
    return sorted(rows, key=lambda row: row.label), twins


def tabulate(rows: list[Row], metrics: Iterable[str]) -> Table:
    """The column of every metric, with the best of each task marked."""
    table: Table = {}
    for metric in metrics:
        column = table[metric] = {}
        for i, row in enumerate(rows):
            if values := [run.metrics[metric] for run in row.runs if metric in run.metrics]:
                column[i] = Cell([value for value in values if math.isfinite(value)], row.seeds)
        for task in {row.task for row in rows}:
            rank([cell for i, cell in column.items() if rows[i].task == task and cell.values], metric)
    return table


def rank(rivals: list[Cell], metric: str) -> None:
    """Mark the best of the cells of one task."""
    if len(rivals) > 1 and arrow(metric):
        complete = [len(cell.values) == cell.seeds for cell in rivals]
        marks = best([cell.sample for cell in rivals], arrow(metric) == "↑", complete)
        for cell, mark in zip(rivals, marks, strict=True):
            cell.is_best = mark


def arrow(metric: str) -> str:
    """The direction that is better, if known; for the metric of one class, val/METRIC/CLASS, that of the metric."""
    return next((ARROWS[part] for part in metric.split("/") if part in ARROWS), "")


def mean_and_error(sample: Sample) -> str:
    """Mean and standard error to two significant digits of the error; a single value to four digits."""
    if sample.n < 2 or sample.error == 0:
        return f"{sample.mean:.4g}" + (" ± 0" if sample.n > 1 else "")
    digits = max(0, 1 - math.floor(math.log10(sample.error)))
    if digits > 6:
        return f"{sample.mean:.4g} ± {sample.error:.1e}"
    return f"{sample.mean:.{digits}f} ± {sample.error:.{digits}f}"


def markdown(rows: list[Row], table: Table) -> list[str]:
    """The lines of the table; arrows show which direction is better."""
    header = ["setting", "seeds", *(title(metric).replace("|", "\\|") for metric in table)]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for i, row in enumerate(rows):
        seeds = str(row.seeds) if len(row.runs) == row.seeds else f"{len(row.runs)} of {row.seeds}"
        cells = [column[i].text if i in column else "" for column in table.values()]
        mark = "" if row.is_of_one_length else " (different lengths)"
        lines.append("| " + " | ".join([row.label.replace("|", "\\|") + mark, seeds, *cells]) + " |")
    return lines


def title(metric: str) -> str:
    return f"{metric.removeprefix('val/')} {arrow(metric)}".rstrip()


def notes(rows: list[Row], table: Table, runs: list[Run]) -> list[str]:
    """The sentences below the table: what its numbers mean, and what is left out."""
    lines = ["Mean ± standard error over the seeds."]
    marks = [cell.is_best for column in table.values() for cell in column.values() if cell.is_best is not None]
    if any(marks):
        lines[0] += (
            " Bold: the best mean among the settings on the same data and those that do not differ from it, if any"
            f" does ({TEST}; a setting with one seed or a failed run is never bold)."
        )
    elif marks:
        lines[0] += (
            " Nothing is bold: no setting differs significantly from the best, or the best has one seed or a failed run"
            f" ({TEST})."
        )
    if broken := [
        f"{metric} of {run.folder}"
        for metric, column in table.items()
        for i in column
        for run in rows[i].runs
        if not math.isfinite(run.metrics.get(metric, math.nan))
    ]:
        lines.append(f"Left out because missing or not finite: {', '.join(broken)}.")
    lines += [f"{row.label} has runs of different lengths: {lengths(row)}." for row in rows if not row.is_of_one_length]
    absent: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        absent[run.missing].append(str(run.folder))
    return lines + [f"{why}: {', '.join(folders)}." for why, folders in absent.items() if why]


def lengths(row: Row) -> str:
    """The final step of each run."""
    return ", ".join(f"{run.folder} at step {run.step}" for run in row.runs)


def write_csv(path: Path, rows: list[Row], table: Table) -> None:
    """Write a line for each setting and metric; best is 1 or 0, or empty if nothing is ranked."""
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "metric", "seeds", "values", "mean", "standard_error", "best"])
        for metric, column in table.items():
            for i, cell in column.items():
                sample, mark = cell.sample, "" if cell.is_best is None else int(cell.is_best)
                writer.writerow([rows[i].label, metric, cell.seeds, sample.n, sample.mean, sample.error, mark])


# -------------------------------------------------------------------------------------------------------- pictures


def draw_table(rows: list[Row], table: Table) -> "Figure":
    """Draw one axes per metric, with each setting's mean and standard error and a small dot for each seed."""
    finite = {m: {i: cell for i, cell in column.items() if cell.values} for m, column in table.items()}
    panels = {metric: column for metric, column in finite.items() if column}
    if not panels:
        raise UsageError("figure has nothing to draw, since no run has val/...: name its metrics with metrics=[...].")
    text_width = 0.08 * max(len(row.label) for row in rows)
    figure, grid = panel_grid(len(panels), 0.9 + 0.3 * len(rows), margin=(text_width, 0.2), share_y=True)
    for axes, (metric, column) in zip(grid, panels.items(), strict=True):
        for i, cell in column.items():
            sample, marker = cell.sample, "D" if cell.is_best else "o"
            error = sample.error if sample.n > 1 else None
            axes.plot(cell.values, [i] * sample.n, ".", color=f"C{i}", alpha=0.4, markersize=5)
            axes.errorbar(sample.mean, i, xerr=error, fmt=marker, color=f"C{i}", capsize=3, markersize=6)
        axes.set_title(title(metric), fontsize=10, loc="left")
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", color="0.92")
        set_scale(axes.set_xscale, metric, [v for cell in column.values() for v in cell.values])
    figure.supxlabel("mean ± standard error; dots: seeds; diamonds: best", fontsize=8)
    return figure


def panel_grid(
    panels: int, height: float, margin: tuple[float, float], share_y: bool = False, columns: int = 3
) -> tuple["Figure", list["Axes"]]:
    """A figure and its axes, at most ``columns`` per row; ``height`` of an axes and ``margin`` (x, y) in inches."""
    from matplotlib.figure import Figure

    columns = min(columns, panels)
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


def set_scale(set_: Any, metric: str, values: list[float]) -> None:
    """Use a logarithmic scale for distances that span orders of magnitude."""
    if arrow(metric) == "↓" and values and 0 < 100 * min(values) < max(values):
        set_("log")


Curve = dict[int, float]  # values by generator update
Bands = dict[str, dict[int, dict[int, Sample]]]  # by metric, row and update, for updates that all seeds have


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read all scalars from a run's TensorBoard event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: {event.step: event.value for event in log.Scalars(name) if math.isfinite(event.value)}
        for name in log.Tags()["scalars"]
    }


def make_bands(rows: list[Row], metrics: list[str]) -> Bands:
    """Bands of the given metrics over the runs that have the curve; by default of all val/... and the losses."""
    read = [[read_curves(run.folder) for run in row.runs] for row in rows]
    names = {name for runs in read for run in runs for name in run}
    terms = Counter(name.rpartition("/")[0] for name in names)
    # value_bound is a constant line for TensorBoard; a player's only term equals its loss
    left_out = {"val/value_bound"} | {
        name for name in names if name.count("/") == 2 and terms[name.rpartition("/")[0]] == 1
    }
    standard = [name for name in names - left_out if name.startswith(("val/", "loss/"))]
    bands: Bands = defaultdict(dict)
    for metric in metrics or sorted(standard, key=lambda name: (name.startswith("loss/"), name)):
        for i, runs in enumerate(read):
            if curves := [run[metric] for run in runs if metric in run]:
                steps = sorted(set.intersection(*(set(curve) for curve in curves)))
                bands[metric][i] = {step: Sample.of([curve[step] for curve in curves]) for step in steps}
    return bands


def band_notes(rows: list[Row], bands: Bands) -> list[str]:
    """A sentence for each curve that is absent or empty, or has fewer seeds than the table."""
    lines = []
    for metric, column in bands.items():
        lines += [
            f"There is no curve of {metric} for {row.label}."
            for i, row in enumerate(rows)
            if i not in column and any(metric in run.metrics for run in row.runs)
        ]
        for i, band in column.items():
            total, seeds = len(rows[i].runs), next((sample.n for sample in band.values()), 0)
            if seeds < total:
                state = f"of {seeds} of {total} seeds" if band else "empty: its seeds share no step"
                lines.append(f"The curve of {metric} for {rows[i].label} is {state}.")
    return lines


def draw_curves(rows: list[Row], bands: Bands) -> "Figure":
    """Draw one axes per metric: the mean over seeds and a band of one standard error, over generator updates."""
    if not bands:
        raise UsageError("curves has nothing to draw: TensorBoard's event files of the runs have no such curve.")
    figure, grid = panel_grid(len(bands), 2.5, margin=(0.4, 0.4 + 0.18 * len(rows)))
    lines: dict[int, Line2D] = {}
    for axes, (metric, column) in zip(grid, bands.items(), strict=True):
        for i, band in column.items():
            lines[i] = draw_band(axes, band, i)
        axes.set_title(title(metric), fontsize=10, loc="left")
        axes.set_xlabel("generator updates", fontsize=8)
        set_scale(axes.set_yscale, metric, [s.mean for band in column.values() for s in band.values()])
    add_legend(figure, rows, lines)
    return figure


def draw_band(axes: "Axes", band: Mapping[Any, Sample], i: int) -> "Line2D":
    """Draw the i-th setting's means as a line in its color, with a band of one standard error."""
    style = ("." if len(band) < 20 else "") + DASHES[i // 10 % len(DASHES)]
    means, errors = [s.mean for s in band.values()], [s.error for s in band.values()]
    (line,) = axes.plot(list(band), means, style, color=f"C{i}", linewidth=1.2)
    if any(map(math.isfinite, errors)):  # one seed has none
        lower, upper = ([m + s * e for m, e in zip(means, errors, strict=True)] for s in (-1, 1))
        axes.fill_between(list(band), lower, upper, color=f"C{i}", alpha=0.2, linewidth=0)
    return line


def add_legend(figure: "Figure", rows: list[Row], lines: Mapping[int, "Line2D"]) -> None:
    """Add a legend of the settings that have lines, below the axes."""
    settings = [f"{rows[i].label} ({len(rows[i].runs)})" for i in sorted(lines)]
    handles = [lines[i] for i in sorted(lines)]
    legend = figure.legend(handles, settings, loc="outside lower left", frameon=False, fontsize=8)
    legend.set_title("setting (seeds)")
    legend.set_alignment("left")


# ------------------------------------------------------------------------------------------------------------ main


def report(options: Options) -> None:
    """Print the table and write the requested files.

    Raises:
        UsageError: there is nothing to tabulate, or a run cannot be read.
    """
    name = "evaluation.json" if options.evaluation else "metrics.json"
    runs = find_runs(options.runs, name)
    rows, twins = make_rows(runs)
    if not rows:
        where, makes = ", ".join(map(str, options.runs)), "evaluate" if options.evaluation else "train"
        raise UsageError(f"no run with {name} below {where}: give a folder of runs processed by {makes}.py.")
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

    remarks = [*notes(rows, table, runs), *twins, *band_notes(rows, bands)]
    print("\n".join(markdown(rows, table)), *remarks, sep="\n\n")
    if options.csv:
        with refusals(options.csv):
            write_csv(options.csv, rows, table)
    for path, figure in drawings.items():
        with refusals(path), written_aside(path) as aside:
            figure.savefig(aside)


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals():
        report(options)
