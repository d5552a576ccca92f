"""Loggers of scalars, pictures and options: TensorBoard, a CSV file, Weights & Biases, MLflow."""

import csv
import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer import event_file_writer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams, scalar

from gan_lightning.errors import UsageError
from gan_lightning.files import needed, spared, why, written_aside
from gan_lightning.pictures import summary

OWNER = ".run"  # the file that names the run, in a folder for curves that is not the run's own
# for TensorBoard's tab CUSTOM SCALARS: charts by title, with the curves that they show
CHARTS = {
    "GAN": {
        "losses": ["Multiline", ["^loss/discriminator$", "^loss/generator$"]],
        "D(x) and D(G(z))": ["Multiline", ["^discriminator/real$", "^discriminator/fake$"]],
        "gradient norms": ["Multiline", ["^gradient_norm/"]],
    }
}
# methods by which loggers write during a run
WRITING = ("log_metrics", "log_hyperparams", "log_image", "save", "finalize")


class EventFile(TensorBoardLogger):
    """Writes TensorBoard's event file, without Lightning's hparams.yaml, since config.yaml has the options."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False)
        self._records: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file's writer; a new one if the operating system has failed the former."""
        if self._experiment is not None and self._records.has_failed:
            self._experiment = None
        if self._experiment is None:
            with needed(f"TensorBoard's file in {self.log_dir}"), _in_foreground(after=self._files()):
                writer = super().experiment
                self._records = writer._get_file_writer().event_writer._async_writer
                writer.add_custom_scalars(CHARTS)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with spared("TensorBoard's file"):
            if any(isinstance(value, dict) for value in metrics.values()):
                super().log_metrics(metrics, step)
                return
            line = Summary()  # one record instead of one per value, since the file is opened for each
            for name, value in metrics.items():
                line.MergeFrom(scalar(name, value))
            self.experiment._get_file_writer().add_summary(line, step)

    def save(self) -> None:
        with spared("TensorBoard's file"):
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with spared("TensorBoard's file"):
            super().finalize(status)
            self._experiment = None  # a closed writer would start another file for what follows the fit

    def mark(self) -> dict[str, int]:
        """The sizes of its files in bytes."""
        return {path.name: path.stat().st_size for path in self._files()}

    def go_on(self, step: int, version: str | None, mark: Mapping[str, int] | None) -> None:
        """Remove what the interrupted run wrote after its checkpoint, even if TensorBoard is showing it."""
        with needed(f"TensorBoard's file in {self.log_dir}"):
            sizes = self.mark() if mark is None else mark
            for path in self._files():
                os.truncate(path, min(sizes.get(path.name, 0), path.stat().st_size))
            with _in_foreground(after=self._files()):
                SummaryWriter(self.log_dir, purge_step=step + 1).close()

    def _files(self) -> list[Path]:
        return sorted(Path(self.log_dir).glob("events.out.tfevents.*"))


class _Records:
    """Writes an event file in the calling thread; TensorBoard's own thread would fail unnoticed, with a traceback."""

    def __init__(self, file: Any, queue_size: int, flush_seconds: float) -> None:
        self.has_failed = False
        self._file = file
        self._flush_seconds = flush_seconds
        self._flushed_at = time()

    def write(self, record: bytes) -> None:
        with self._noticing():
            self._file.write(record)
        if time() - self._flushed_at > self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        self._flushed_at = time()
        with self._noticing():
            self._file.flush()

    def close(self) -> None:
        with self._noticing():
            self._file.close()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.has_failed = True  # records after a partial one cannot be read
            raise


@contextmanager
def _in_foreground(after: Iterable[Path]) -> Iterator[None]:
    """Writers created inside use ``_Records`` in place of a thread, and their files are read after those in ``after``.

    TensorBoard orders files by the second in which they were started, and purges events in that order.
    """
    former = event_file_writer._AsyncWriter, event_file_writer.time
    latest = max((int(path.name.split(".")[3]) for path in after), default=0)
    event_file_writer._AsyncWriter = _Records
    event_file_writer.time = SimpleNamespace(time=lambda: max(time(), latest + 1))
    try:
        yield
    finally:
        event_file_writer._AsyncWriter, event_file_writer.time = former


class _Rows(ExperimentWriter):
    """Appends to an existing file, which Lightning's writer would delete."""

    def _check_log_dir_exists(self) -> None:
        if os.path.isfile(self.metrics_file_path):
            with open(self.metrics_file_path, newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def save(self) -> None:
        former = list(self.metrics_keys)
        try:
            super().save()
        except OSError:
            self.metrics_keys = former  # the file's columns, as far as known: the next row tries again
            raise

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        _write_rows(Path(self.metrics_file_path), fieldnames, rows)


def _write_rows(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")  # of a truncated row
        writer.writeheader()
        writer.writerows(rows)


class CSVFile(CSVLogger):
    """Writes ``metrics.csv``: one row per line of the log, written immediately so that a kill loses none."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file's writer, created on first use."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with spared("metrics.csv"):
            super().log_metrics(dict(metrics), step)
            self.save()

    def mark(self) -> int:
        """The number of rows."""
        return len(self._read()[1])

    def go_on(self, step: int, version: str | None, mark: int | None) -> None:
        """Remove what the interrupted run wrote after its checkpoint."""
        with needed(self._path):
            names, rows = self._read()
            if names:
                _write_rows(self._path, names, [row for row in rows[:mark] if _is_before(row, step)])

    @property
    def _path(self) -> Path:
        return Path(self.log_dir) / "metrics.csv"

    def _read(self) -> tuple[Sequence[str], list[dict[str, str]]]:
        """The column names and the rows."""
        if not self._path.exists():
            return [], []
        with self._path.open(newline="") as file:
            reader = csv.DictReader(file)
            return reader.fieldnames or [], list(reader)


def _is_before(row: dict[str, str], step: int) -> bool:
    """Whether a row is complete and not of a later step."""
    return (row["step"] or "").isdecimal() and int(row["step"]) <= step


class WandbRun(WandbLogger):
    """A run of Weights & Biases, only on disk unless ``offline`` is false."""

    def __init__(self, save_dir: str, project: str, name: str | None = None, offline: bool = True) -> None:
        _need("wandb")
        options: dict[str, Any] = {}
        if offline:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            options = {"settings": {"silent": True}, "mode": "offline"}
        super().__init__(name, save_dir, project=project, offline=offline, **options)
        del self._wandb_init["anonymous"]  # wandb warns about it

    def go_on(self, step: int, version: str | None) -> None:
        """Add to the interrupted run."""
        self._id = self._wandb_init["id"] = version


class MLflowRun(Logger):
    """A run of MLflow, in an SQLite file in the run's folder unless ``tracking_uri`` names a server.

    Unlike Lightning's logger, it creates no database before there is something to log, and can resume a run.
    """

    def __init__(
        self, save_dir: str, experiment: str, name: str | None = None, tracking_uri: str | None = None
    ) -> None:
        super().__init__()
        _need("mlflow")
        self.tracking_uri = tracking_uri or f"sqlite:///{Path(save_dir).absolute() / 'mlflow.db'}"
        self._save_dir = save_dir
        self._artifacts = None if tracking_uri else (Path(save_dir).absolute() / "mlflow").as_uri()
        self._names = experiment, name
        self._client: Any = None
        self.run_id: str | None = None

    @property
    def name(self) -> str:
        return self._names[0]

    @property
    def version(self) -> str | None:
        return self.run_id

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client; creates it and starts the run on first use."""
        if self._client is None:
            with needed(self.tracking_uri):
                self._client = self._begin()
        return self._client

    def _begin(self) -> Any:
        """Create a client and, unless it is resumed, the run."""
        if self._artifacts:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            Path(self._save_dir).mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # its errors are reported, or have a traceback
        client = MlflowClient(self.tracking_uri)
        if self.run_id is None:
            experiment, name = self._names
            found = client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else client.create_experiment(experiment, self._artifacts)
            self.run_id = str(client.create_run(place, run_name=name).info.run_id)
        return client

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time())
        rows = [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        self.experiment.log_batch(self.run_id, metrics=rows)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        from mlflow.entities import Param

        self.experiment.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in params.items()])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._client is not None:
            self._client.set_terminated(self.run_id, "FINISHED" if status == "success" else "FAILED")

    def go_on(self, step: int, version: str | None) -> None:
        """Add to the interrupted run."""
        self.run_id = version


def spare(writer: Any, what: str, names: Iterable[str]) -> None:
    """Let training continue with a warning if these methods of a logger or profiler cannot write.

    This holds for all callers, including Lightning and its callbacks.
    """

    def sparing(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            with spared(what):
                return method(*args, **kwargs)

        return call

    for name in names:
        if method := getattr(writer, name, None):
            setattr(writer, name, sparing(method))


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"logger={package} needs a package that is not installed: pip install -e '.[{package}]'.")


def claim(loggers: Iterable[Logger], run: Path, is_new: bool) -> None:
    """Claim the loggers' folders other than the run's own for this run, which truncates their files when it resumes.

    Raises:
        UsageError: a folder belongs to another run, holds curves already, or cannot be written; or two loggers would
            write the same file.
    """
    claimed = set()
    for logger in loggers:
        if isinstance(logger, EventFile | CSVFile):
            place, own = Path(os.path.realpath(logger.log_dir)), Path(os.path.realpath(run))
            if (type(logger), place) in claimed:
                raise UsageError(f"Two loggers write {type(logger).__name__} in {place}: give each its own save_dir.")
            claimed.add((type(logger), place))
            if place != own:
                _claim(place, own, is_new)


def _claim(place: Path, run: Path, is_new: bool) -> None:
    path = place / OWNER
    advice = "give each run its own save_dir, or none, for the run's folder"
    if (place / "config.yaml").exists():
        raise UsageError(f"save_dir={place} is the folder of another run: {advice}.")
    if is_new and (any(place.glob("events.out.tfevents.*")) or (place / "metrics.csv").exists()):
        raise UsageError(f"save_dir={place} already holds a run's curves: {advice}.")
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not _is_begun(path, run):
            owner = Path(path.read_text())
            if owner != run and owner.exists():  # else the run was moved or deleted
                raise UsageError(f"save_dir={place} belongs to another run, {owner}: {advice}.")
            path.write_text(str(run))
    except OSError as error:
        raise UsageError(f"save_dir={place} cannot be written ({why(error)}): choose another.") from error


def _is_begun(path: Path, run: Path) -> bool:
    """Create the file that names the owner; false if it exists already, as from a run started in the same second."""
    try:
        with path.open("x") as file:
            file.write(str(run))
    except FileExistsError:
        return False
    return True


def by_name(loggers: Iterable[Logger]) -> dict[str, Logger]:
    """Loggers by the name of their class, followed by 2, 3, ... from the second of a class on."""
    named: dict[str, Logger] = {}
    counts: Counter[str] = Counter()
    for logger in loggers:
        name = type(logger).__name__
        counts[name] += 1
        named[name if counts[name] == 1 else f"{name}{counts[name]}"] = logger
    return named


def versions(loggers: Iterable[Logger]) -> dict[str, Any]:
    """The loggers' versions, by name."""
    return {name: logger.version for name, logger in by_name(loggers).items()}


def marks(loggers: Iterable[Logger]) -> dict[str, Any]:
    """The present extent of the loggers' files, by name."""
    return {name: logger.mark() for name, logger in by_name(loggers).items() if isinstance(logger, EventFile | CSVFile)}


def go_on(loggers: Iterable[Logger], saved: Mapping[str, Any], was_done: bool = False) -> None:
    """Make loggers continue a run's records from its checkpoint; ``saved`` is empty without a checkpoint.

    What a finished run wrote after its last checkpoint is kept.
    """
    state = saved.get("callbacks", {}).get("HyperParameters", {})
    step, versions_then, marks_then = saved.get("global_step", -1), state.get("versions", {}), state.get("marks", {})
    for name, logger in by_name(loggers).items():
        if isinstance(logger, EventFile | CSVFile):
            logger.go_on(step, versions_then.get(name), None if was_done else marks_then.get(name))
        elif isinstance(logger, WandbRun | MLflowRun):
            logger.go_on(step, versions_then.get(name))


def log_picture(loggers: Iterable[Logger], name: str, picture: Tensor, encoded: bytes, step: int) -> None:
    """Log a uint8 picture (3, height, width), also encoded as PNG, to each logger that shows pictures."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment._get_file_writer().add_summary(summary(name, picture, encoded), step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture.permute(1, 2, 0).numpy()], step)
        elif isinstance(logger, MLFlowLogger | MLflowRun):
            image = picture.permute(1, 2, 0).numpy()
            logger.experiment.log_image(logger.run_id, image, key=name, step=step)


def show_histograms(loggers: Iterable[Logger], values: Callable[[], Mapping[str, Tensor]], step: int) -> None:
    """Log values by name as histograms to TensorBoard, unless a value is not finite.

    ``values`` is called only if there is such a logger.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, tensor in values().items():
                if tensor.isfinite().all():
                    logger.experiment.add_histogram(name, tensor, step, bins=64)


def log_options(loggers: Iterable[Logger], options: Mapping[str, Any]) -> None:
    """Log a run's options to each logger except TensorBoard, whose HPARAMS tab also needs the metrics' names."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(options))


def show_hparams(loggers: Iterable[Logger], options: Mapping[str, Any], metrics: Iterable[str]) -> None:
    """Fill TensorBoard's HPARAMS tab: the options beside the last values of these curves."""
    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in options.items()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            with spared("TensorBoard's file"):
                for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):  # only the names of the metrics are kept
                    logger.experiment._get_file_writer().add_summary(summary)


def finish(loggers: Iterable[Logger]) -> None:
    """Finish runs that would otherwise continue in this process's next run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            with spared(type(logger).__name__):
                logger.experiment.finish()


def where(logger: Logger, folder: Path) -> str:
    """How to view what a logger has written; ``folder`` is the run's. Empty for the user's own loggers."""
    if isinstance(logger, TensorBoardLogger):
        return f"Curves and pictures: tensorboard --logdir {shlex.quote(str(_short(logger.log_dir, folder)))}"
    if isinstance(logger, CSVLogger):
        return f"Curves: {_short(logger.log_dir, folder) / 'metrics.csv'}"
    if isinstance(logger, WandbLogger):
        run = logger.experiment
        look = f"wandb sync {shlex.quote(str(_short(run.dir, folder).parent))}" if logger._offline else run.url
        return f"Curves and pictures: {look}"
    if isinstance(logger, MLflowRun):
        uri = logger.tracking_uri
        if uri.startswith("sqlite:///"):
            uri = f"sqlite:///{_short(uri.removeprefix('sqlite:///'), folder)}"
        return f"Curves and pictures: mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return ""


def _short(path: str, folder: Path) -> Path:
    """A path in the run's folder relative to the current folder; other paths are absolute."""
    absolute = Path(path).absolute()
    return Path(os.path.relpath(absolute)) if absolute.is_relative_to(folder.absolute()) else absolute
