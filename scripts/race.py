"""Compare runs after the same seconds of training: a table and curves of runs trained with callbacks=race.

    python scripts/race.py runs=multirun/race [at=[60,180,600] n=10000 out=race.png csv=race.csv]
    python scripts/race.py runs=multirun/A runs=multirun/B 'metrics=[fid,coverage]'

Evaluates every checkpoint that the runs have kept, as evaluate.py does. A run that ended before one of the times counts
with its last checkpoint. Results are written beside the checkpoints, such as checkpoints/at_60s.json, so that another
call evaluates only new ones. Prints a Markdown table like report.py: mean and standard error over seeds, with the best
of each column in bold by the same test. csv has a row for each setting and column, also for seconds, updates (step) and
images. out draws each metric over seconds and over images seen, with a band of one standard error over seeds.
"""

from gan_lightning.interruption import end_at_once, listen

if __name__ == "__main__":
    listen(end_at_once)  # before the slow imports

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import MISSING

from gan_lightning.checks import POSITIVE, SIZE, check_values
from gan_lightning.commands import evaluate, report
from gan_lightning.errors import UsageError
from gan_lightning.files import written_aside
from gan_lightning.options import check_picture, read_options, refusals
from gan_lightning.runs import COMPARED, Run, find_runs, read_mapping
from gan_lightning.statistics import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PROGRESS = {"seconds": "seconds of training", "images_seen": "real images seen"}  # the x-axes
WITHOUT = "Without a checkpoint of these times (train with callbacks=race)"


@dataclass
class Options:
    runs: Annotated[list[Path], "folder of runs; repeat for several folders"] = MISSING
    at: Annotated[list[float], "times in seconds at which the runs kept checkpoints"] = field(
        default_factory=lambda: [60.0, 180.0, 600.0]
    )
    metrics: Annotated[list[str], "names of metrics, as evaluate.py prints them"] = field(
        default_factory=lambda: ["fid", "precision", "recall", "coverage"]
    )
    n: Annotated[int, "number of samples"] = evaluate.IMAGES
    root: Annotated[str | None, "folder of the data; null for the runs'"] = None
    out: Annotated[Path | None, "output picture of the curves: .png, .jpg, .webp, .pdf or .svg"] = None
    csv: Annotated[Path | None, "output file for the table"] = None
    trust: Annotated[list[str], "further packages that the checkpoints may import"] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_values(self, n=SIZE)
        if not self.at or not all(map(POSITIVE[0], self.at)):
            raise UsageError(f"at is {self.at}: give a list of numbers above 0, such as at=[60,180,600].")
        if not self.metrics:
            raise UsageError("metrics is empty: give names that evaluate.py prints, such as metrics=[fid,recall].")
        if self.out:
            check_picture(self.out)
        if self.out is not None and self.out == self.csv:
            raise UsageError(f"out and csv are both {self.out}: give each its own file.")


# ------------------------------------------------------------------------------------------------------ measuring


def times(run: Run) -> Sequence[float]:
    """The seconds after which a run keeps a checkpoint."""
    config = read_mapping(run.folder / "config.yaml") or {}
    clock = (config.get("callbacks") or {}).get("clock") or {}
    return clock.get("at_seconds") or ()


def check_times(asked: Sequence[float], known: set[float]) -> None:
    """Refuse times that no run keeps a checkpoint for, if some run does for others.

    Raises:
        UsageError: there is such a time.
    """
    if known and (absent := [seconds for seconds in asked if seconds not in known]):
        kept = ",".join(f"{seconds:g}" for seconds in sorted(known))
        raise UsageError(f"no run keeps a checkpoint after {absent[0]:g} s: give times of at=[{kept}].")


def kept(run: Run, seconds: float) -> Path | None:
    """The checkpoint of a run after this many seconds on its own clock; None without one."""
    if seconds not in times(run):
        return None
    path = run.folder / "checkpoints" / f"at_{seconds:g}s.ckpt"
    if path.exists():
        return path
    last = path.with_name("last.ckpt")  # of a run that finished earlier
    return last if not run.missing and last.exists() else None


def measure(path: Path, options: Options) -> dict[str, Any]:
    """Evaluate a checkpoint, with its seconds and images; read the result from its file if it is known.

    Raises:
        UsageError: the checkpoint or the data cannot be used.
    """
    place = path.with_suffix(".json")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    known = read_mapping(place) or {}
    if (known.get("digest"), known.get("n"), known.get("root")) == (digest, options.n, options.root):
        return known
    from gan_lightning.checkpoints import read_checkpoint

    saved = read_checkpoint(path)
    result = evaluate.evaluate(evaluate.Options(path, n=options.n, root=options.root, trust=options.trust))
    result |= {"digest": digest, "root": options.root, "seconds": saved["callbacks"]["Clock"]["seconds"]}
    result["images_seen"] = int(saved["state_dict"]["images_seen"])
    with refusals(place), written_aside(place) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{path}: {result['seconds']:.1f} s, step {result['step']}", file=sys.stderr, flush=True)
    return result


def measured(run: Run, options: Options) -> Run:
    """The run with its metrics after each time, under names such as 60 s/fid; without any, it does not count."""
    metrics: dict[str, float] = {}
    how: tuple[tuple[str, str], ...] = ()
    for seconds in options.at:
        if (path := kept(run, seconds)) is None:
            continue
        result = measure(path, options)
        values = {name.removeprefix("val/"): value for name, value in result["metrics"].items()}
        values |= {name: result[name] for name in (*PROGRESS, "step")}
        metrics |= {column(seconds, name): value for name, value in values.items()}
        how = tuple((name, str(result[name])) for name in COMPARED)
    # compared at equal times, not steps
    return replace(run, metrics=metrics, protocol=how, missing="" if metrics else WITHOUT, step=None)


def column(seconds: float, name: str) -> str:
    return f"{seconds:g} s/{name}"


# -------------------------------------------------------------------------------------------------------- picture


def draw(rows: list[report.Row], options: Options) -> "Figure":
    """Draw two axes per metric: its mean and a band of one standard error over seconds and over images seen."""
    height, margin = 2.3, (0.4, 0.4 + 0.18 * len(rows))
    figure, grid = report.panel_grid(2 * len(options.metrics), height, margin, columns=2)
    lines: dict[int, Line2D] = {}
    panels = [(metric, progress) for metric in options.metrics for progress in PROGRESS]
    for axes, (metric, progress) in zip(grid, panels, strict=True):
        bands = [band(row, metric, progress, options.at) for row in rows]
        for i, points in enumerate(bands):
            if points:
                lines[i] = report.draw_band(axes, points, i)
        finish(axes, metric, progress, options.at)
        report.set_scale(axes.set_yscale, metric, [sample.mean for points in bands for sample in points.values()])
    report.add_legend(figure, rows, lines)
    return figure


def band(row: report.Row, metric: str, progress: str, times: list[float]) -> dict[float, Sample]:
    """The metric of a setting by mean progress, at each time that all its runs have."""
    points = {}
    for seconds in sorted(times):
        names = column(seconds, metric), column(seconds, progress)
        values = [[run.metrics[name] for run in row.runs if name in run.metrics] for name in names]
        if len(values[0]) == len(row.runs):
            points[Sample.of(values[1]).mean] = Sample.of(values[0])
    return points


def finish(axes: "Axes", metric: str, progress: str, times: list[float]) -> None:
    """Set titles and scales; the seconds axis has its ticks at the times."""
    axes.set_title(report.title(metric), fontsize=10, loc="left")
    axes.set_xlabel(PROGRESS[progress], fontsize=8)
    axes.set_xscale("log")
    axes.tick_params(which="both", labelsize=8)
    if progress == "seconds":
        axes.minorticks_off()
        axes.set_xticks(times, [f"{seconds:g}" for seconds in times])


# ----------------------------------------------------------------------------------------------------------- main


def race(options: Options) -> None:
    """Print the table and write the requested files.

    Raises:
        UsageError: there is nothing to tabulate, or a run cannot be read.
    """
    found = find_runs(options.runs, "metrics.json")
    check_times(options.at, {seconds for run in found for seconds in times(run)})
    runs = [measured(run, options) for run in found]
    rows, twins = report.make_rows(runs)
    if not rows:
        where, asked = ", ".join(map(str, options.runs)), ", ".join(f"{seconds:g}" for seconds in options.at)
        raise UsageError(f"no run below {where} has kept a checkpoint after {asked} s: train with callbacks=race.")
    known = {name.partition("/")[2] for run in runs for name in run.metrics}
    if unknown := [metric for metric in options.metrics if metric not in known]:
        raise UsageError(f"no run has {', '.join(unknown)}: choose from {', '.join(sorted(known))}.")
    table = report.tabulate(rows, [column(seconds, metric) for metric in options.metrics for seconds in options.at])
    print("\n".join(report.markdown(rows, table)), *report.notes(rows, table, runs), *twins, sep="\n\n")
    if options.csv:
        progress = [column(seconds, name) for seconds in options.at for name in (*PROGRESS, "step")]
        with refusals(options.csv):
            report.write_csv(options.csv, rows, table | report.tabulate(rows, progress))
    if options.out:
        figure = draw(rows, options)
        with refusals(options.out), written_aside(options.out) as aside:
            figure.savefig(aside)


def main() -> None:
    options = read_options(Options, __doc__)
    with refusals():
        race(options)


if __name__ == "__main__":
    main()
