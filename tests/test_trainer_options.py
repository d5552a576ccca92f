"""Every argument of the Trainer in conf/trainer: given another value, it has its effect or is refused in a sentence."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichModelSummary, Timer
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig, OmegaConf
from torch.testing import assert_close

from gan_lightning.batch import Rounds
from gan_lightning.build import build_data, build_gan, build_trainer
from gan_lightning.callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from gan_lightning.callbacks.progress import progress
from gan_lightning.config import check
from gan_lightning.data.synthetic import Synthetic
from gan_lightning.errors import UsageError
from gan_lightning.processor import WORTH_SHARING, multiply_adds
from gan_lightning.strategy import Replicas
from gan_lightning.training import train

Configure = Callable[..., DictConfig]
TINY = (
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=5",
    "data=gaussian",
    "data.batch_size=16",
    "data.rounds_per_epoch=20",
    "data.rounds_per_batch=5",
    "data.validation_samples=64",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "~callbacks.samples",
    "~callbacks.progress",
    "logger=csv",
)


class Watch(Callback):
    """What is the case while a run trains and validates."""

    def __init__(self) -> None:
        self.steps: list[int] = []  # after each batch
        self.validated: list[int] = []  # the steps of validations
        self.validation_batches = 0
        self.sanity_batches = 0
        self.states: dict[str, Any] = {}
        self.loads = 0
        self.weights = torch.empty(0)

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.states["anomaly"] = torch.is_anomaly_enabled()
        self.states["deterministic"] = torch.are_deterministic_algorithms_enabled()
        self.states["benchmark"] = torch.backends.cudnn.benchmark
        self.states["matmul"] = torch.get_float32_matmul_precision()
        self.states["threads"] = torch.get_num_threads()
        module.trainer.datamodule.train_dataloader = self._counted(module.trainer.datamodule.train_dataloader)

    def _counted(self, make: Callable[[], Any]) -> Callable[[], Any]:
        def counting() -> Any:
            self.loads += 1
            return make()

        return counting

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.states["inference"] = torch.is_inference_mode_enabled()
        self.validation_batches += not trainer.sanity_checking
        self.sanity_batches += trainer.sanity_checking

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self.weights = torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    """The Trainer sets these for the whole process."""
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
        yield
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = benchmark


def watched(configure: Configure, folder: Path, *overrides: str) -> Watch:
    """A tiny run with these options."""
    watch, config = Watch(), configure(*TINY, *overrides)
    check(config, {})
    train(config, folder, [watch])
    return watch


# --------------------------------------------------------------------------------- what a Trainer that was built shows

BUILT: dict[str, list[tuple[Any, Callable[[Trainer], bool]]]] = {
    "accelerator": [("cpu", lambda t: type(t.accelerator).__name__ == "CPUAccelerator")],
    "strategy": [("ddp", lambda t: type(t.strategy) is Replicas)],
    "devices": [(2, lambda t: t.num_devices == 2)],
    "num_nodes": [(2, lambda t: t.num_nodes == 2)],
    "precision": [
        ("bf16-mixed", lambda t: t.precision == "bf16-mixed"),
        ("64-true", lambda t: t.precision == "64-true"),
    ],
    "max_steps": [(7, lambda t: t.max_steps == 7)],
    "max_epochs": [(7, lambda t: t.max_epochs == 7), (-1, lambda t: t.max_epochs == -1)],
    "min_epochs": [(3, lambda t: t.min_epochs == 3)],
    "min_steps": [(3, lambda t: t.min_steps == 3)],
    "max_time": [
        ("'00:00:01:30'", lambda t: timer(t).time_remaining() == 90),
        ("{minutes: 2}", lambda t: timer(t).time_remaining() == 120),
    ],
    "limit_train_batches": [(3, lambda t: t.limit_train_batches == 3), (0.5, lambda t: t.limit_train_batches == 0.5)],
    "limit_val_batches": [(3, lambda t: t.limit_val_batches == 3)],
    "limit_test_batches": [(3, lambda t: t.limit_test_batches == 3)],
    "limit_predict_batches": [(3, lambda t: t.limit_predict_batches == 3)],
    "fast_dev_run": [(3, lambda t: t.max_steps == t.fast_dev_run == 3)],
    "overfit_batches": [(3, lambda t: t.overfit_batches == t.limit_train_batches == 3)],
    "val_check_interval": [(0.5, lambda t: t.val_check_interval == 0.5), (2, lambda t: t.val_check_interval == 2)],
    "check_val_every_n_epoch": [(3, lambda t: t.check_val_every_n_epoch == 3)],
    "num_sanity_val_steps": [(2, lambda t: t.num_sanity_val_steps == 2)],
    "log_every_n_steps": [(7, lambda t: t.log_every_n_steps == 7)],
    "enable_checkpointing": [("false", lambda t: not has(t, RunCheckpoint))],
    "enable_progress_bar": [("false", lambda t: not has(t, ProgressBar))],
    "enable_model_summary": [("true", lambda t: has(t, RichModelSummary))],
    "deterministic": [("true", lambda t: torch.are_deterministic_algorithms_enabled())],
    "benchmark": [("true", lambda t: torch.backends.cudnn.benchmark)],
    "inference_mode": [("false", lambda t: not t.validate_loop.inference_mode)],
    "use_distributed_sampler": [("false", lambda t: not t._accelerator_connector.use_distributed_sampler)],
    "profiler": [
        ("simple", lambda t: type(t.profiler) is SimpleProfiler),
        ("advanced", lambda t: type(t.profiler) is AdvancedProfiler),
        ("pytorch", lambda t: type(t.profiler) is PyTorchProfiler),
        (
            "{_target_: lightning.pytorch.profilers.AdvancedProfiler, line_count_restriction: 0.5}",
            lambda t: t.profiler.line_count_restriction == 0.5 and str(t.profiler.dirpath) == t.default_root_dir,
        ),
    ],
    "detect_anomaly": [("true", lambda t: t._detect_anomaly)],
    "plugins": [
        (
            "[{_target_: lightning.pytorch.plugins.environments.LightningEnvironment}]",
            lambda t: type(t.strategy.checkpoint_io) is AtomicCheckpointIO,
        ),
        (
            "{_target_: lightning.pytorch.plugins.AsyncCheckpointIO}",
            lambda t: type(t.strategy.checkpoint_io) is AsyncCheckpointIO,
        ),
    ],
    "sync_batchnorm": [("true", lambda t: t._accelerator_connector._layer_sync is not None)],
    "reload_dataloaders_every_n_epochs": [(2, lambda t: t.reload_dataloaders_every_n_epochs == 2)],
    "enable_autolog_hparams": [("false", lambda t: not t.enable_autolog_hparams)],
}
# the module's, not the Trainer's
OF_THE_GAN = {
    "accumulate_grad_batches": (2, lambda gan: gan.accumulate_grad_batches == 2),
    "cuda_graphs": ("true", lambda gan: gan.cuda_graphs),
    "gradient_clip_val": (0.5, lambda gan: gan.gradient_clip_val == 0.5),
    "gradient_clip_algorithm": ("value", lambda gan: gan.gradient_clip_algorithm == "value"),
}
OF_THE_RUN = {"threads", "compile", "float32_matmul_precision"}
REFUSED = {
    "barebones": ("true", "use logger=none and callbacks=none to save time"),
    "model_registry": ("mine", "a run uploads nothing"),
    "log_every_n_steps": ("0", "give a whole number, at least 1"),
    "profiler": ("xla", "one of simple, advanced, pytorch"),
    "precision": ("8-true", "one of 32-true"),
}


def has(trainer: Trainer, kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def timer(trainer: Trainer) -> Timer:
    (only,) = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return only


def test_every_argument_of_the_trainer_is_tried() -> None:
    options = set(OmegaConf.load(ROOT / "conf" / "trainer" / "default.yaml"))
    assert options == BUILT.keys() | OF_THE_GAN.keys() | OF_THE_RUN | REFUSED.keys()


@pytest.mark.parametrize(("option", "value", "holds"), [(o, v, h) for o, cases in BUILT.items() for v, h in cases])
def test_an_option_reaches_the_trainer(
    configure: Configure, tmp_path: Path, option: str, value: Any, holds: Callable[[Trainer], bool]
) -> None:
    def built(*overrides: str) -> Trainer:
        config = configure("trainer.accelerator=cpu", *overrides)
        check(config, {})
        return build_trainer(config, tmp_path, [RunCheckpoint(), progress()])

    if option not in ("accelerator", "max_time", "plugins", "profiler"):  # which have no other value to be told from
        assert not holds(built()), "the default has this value"
    assert holds(built(f"trainer.{option}={value}"))


@pytest.mark.parametrize("option", OF_THE_GAN)
def test_an_option_reaches_the_gan(configure: Configure, option: str) -> None:
    value, holds = OF_THE_GAN[option]
    assert not holds(build_gan(configure(), (1,), 0))
    assert holds(build_gan(configure(f"trainer.{option}={value}"), (1,), 0))


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_a_run_cannot_honor_is_refused(configure: Configure, option: str) -> None:
    value, instead = REFUSED[option]
    with pytest.raises(UsageError, match=rf"(?i)^trainer\.{option}.*{value}.*{instead}.*\.$"):
        check(configure(f"trainer.{option}={value}"), {})


# ---------------------------------------------------------------------------------------------- what a run shows of it


@pytest.mark.parametrize(
    ("option", "state"),
    [
        ("detect_anomaly=true", "anomaly"),
        ("deterministic=true", "deterministic"),
        ("benchmark=true", "benchmark"),
    ],
)
def test_an_option_holds_while_it_trains(configure: Configure, tmp_path: Path, option: str, state: str) -> None:
    assert not watched(configure, tmp_path / "without").states[state]
    assert watched(configure, tmp_path / "with", f"trainer.{option}").states[state]


def test_the_last_validation_is_in_inference_mode_unless_told_otherwise(configure: Configure, tmp_path: Path) -> None:
    """Lightning has it only outside training: of a run that ends within an epoch."""
    for option in (True, False):
        options = (f"trainer.inference_mode={option}", "trainer.max_steps=10", "trainer.max_epochs=-1")
        assert watched(configure, tmp_path / str(option), *options).states["inference"] is option


def test_the_limits_cut_an_epoch_and_a_validation(configure: Configure, tmp_path: Path) -> None:
    watch = watched(configure, tmp_path / "a", "trainer.limit_train_batches=3", "data.validation_samples=10001")
    assert watch.steps == [5, 10, 15, 20, 25, 30]
    assert (watch.validated, watch.validation_batches) == ([15, 30], 4)
    options = ("trainer.limit_val_batches=1", "data.validation_samples=10001")
    assert watched(configure, tmp_path / "b", *options).validation_batches == 2


def test_a_run_goes_on_to_its_least_length(configure: Configure, tmp_path: Path) -> None:
    """An EarlyStopping that would stop at once may not before."""
    early = "_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/ks, divergence_threshold: 0"
    stop = f"+callbacks.stop={{{early}}}"
    for options, steps in (((), 20), (("trainer.min_epochs=2",), 40), (("trainer.min_steps=45",), 45)):
        assert watched(configure, tmp_path / str(steps), stop, "trainer.max_epochs=4", *options).steps[-1] == steps


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("trainer.min_epochs=5",), r"trainer\.min_epochs asks for at least 100 updates, but the run has 80: give"),
        (("trainer.min_steps=81",), r"trainer\.min_steps asks for at least 81 updates, but the run has 80: give"),
        (
            ("trainer.min_epochs=2", "trainer.max_steps=30"),
            r"at least 40 updates, but the run has 30: give trainer\.max",
        ),
    ],
)
def test_a_least_length_above_the_runs_is_refused(
    configure: Configure, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    """Of at most 4 epochs of 20 updates."""
    with pytest.raises(UsageError, match=says):
        watched(configure, tmp_path, "trainer.max_epochs=4", *options)
    assert not list(tmp_path.rglob("*.*"))


def test_a_trial_of_a_run_may_be_shorter_than_its_least_length(configure: Configure, tmp_path: Path) -> None:
    assert watched(configure, tmp_path, "trainer.fast_dev_run=2", "trainer.min_steps=50").steps[-1] == 2


def test_a_least_length_of_all_that_the_run_has_is_taken(configure: Configure, tmp_path: Path) -> None:
    options = ("trainer.max_epochs=2", "trainer.min_epochs=2", "trainer.min_steps=40")
    assert watched(configure, tmp_path, *options).steps[-1] == 40


def test_a_callback_that_draws_more_often_than_batches_end_is_refused(configure: Configure, tmp_path: Path) -> None:
    """Of 5 updates each."""
    pictures = "+callbacks.samples={_target_: gan_lightning.callbacks.samples.SamplePictures, every_n_steps: %d}"
    says = (
        r"^SamplePictures has every_n_steps=4, but draws after whole batches, of 5 updates: give at least 5, or start"
    )
    with pytest.raises(UsageError, match=says):
        watched(configure, tmp_path / "4", pictures % 4)
    assert not list((tmp_path / "4").rglob("*.*"))
    watched(configure, tmp_path / "5", pictures % 5, "trainer.max_steps=15")
    assert sorted(path.stem for path in (tmp_path / "5" / "samples").iterdir()) == [f"{n:07d}" for n in (0, 5, 10, 15)]


def test_a_callback_that_waits_for_a_validation_that_never_comes_is_refused(
    configure: Configure, tmp_path: Path
) -> None:
    early = "_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/ks"
    options = ("trainer.limit_val_batches=0", "trainer.check_val_every_n_epoch=2")
    with pytest.raises(UsageError, match=r"^EarlyStopping has monitor=val/ks, but nothing is validated: give"):
        watched(configure, tmp_path, f"+callbacks.stop={{{early}}}", *options)
    assert not list(tmp_path.rglob("*.*"))


def test_validation_comes_as_often_as_told(configure: Configure, tmp_path: Path) -> None:
    assert watched(configure, tmp_path / "a", "trainer.val_check_interval=0.5").validated == [10, 20, 30, 40]
    assert watched(configure, tmp_path / "b", "trainer.check_val_every_n_epoch=2").validated == [40]


def test_a_validation_that_would_never_come_is_refused_before_anything_is_written(
    configure: Configure, tmp_path: Path
) -> None:
    """An epoch has four batches, of which the limit leaves three."""
    for interval, limit in ((5, 1.0), (4, 3), (4, 0.75)):
        options = (f"trainer.val_check_interval={interval}", f"trainer.limit_train_batches={limit}")
        with pytest.raises(UsageError, match=f"val_check_interval is {interval}, but an epoch has"):
            watched(configure, tmp_path, *options)
        assert not list(tmp_path.rglob("*.*"))
    options = ("trainer.val_check_interval=6", "trainer.check_val_every_n_epoch=null")
    assert watched(configure, tmp_path, *options).validated == [30, 40]


@pytest.mark.parametrize("limit", ["limit_train_batches", "limit_val_batches", "overfit_batches"])
def test_a_share_of_less_than_a_batch_is_refused_before_anything_is_written(
    configure: Configure, tmp_path: Path, limit: str
) -> None:
    with pytest.raises(UsageError, match=r"is 0.01, which is less than one of the \d+ batches: give at least"):
        watched(configure, tmp_path, f"trainer.{limit}=0.01")
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("finder", ["BatchSizeFinder", "LearningRateFinder"])
def test_a_search_for_one_optimizer_is_refused(configure: Configure, tmp_path: Path, finder: str) -> None:
    with pytest.raises(UsageError, match=f"{finder} works with a single optimizer, and a GAN has two: leave it out"):
        watched(configure, tmp_path, f"+callbacks.finder._target_=lightning.pytorch.callbacks.{finder}")


def test_a_sanity_check_leaves_no_trace_in_the_log_and_the_weights(configure: Configure, tmp_path: Path) -> None:
    plain = watched(configure, tmp_path / "plain")
    checked = watched(configure, tmp_path / "checked", "trainer.num_sanity_val_steps=1")
    assert (plain.sanity_batches, checked.sanity_batches) == (0, 1)
    assert torch.equal(plain.weights, checked.weights)
    rows = [
        [line for line in (tmp_path / run / "metrics.csv").read_text().splitlines() if not is_speed(line)]
        for run in ("plain", "checked")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1 + 8 + 2  # the names, eight lines of the log, two validations


def is_speed(row: str) -> bool:
    """Whether a row of metrics.csv holds a speed, which differs from run to run, and its step."""
    return sum(cell != "" for cell in row.split(",")) == 2


def test_reloaded_data_are_the_same_data(configure: Configure, tmp_path: Path) -> None:
    plain = watched(configure, tmp_path / "plain", "trainer.max_epochs=3")
    reloaded = watched(
        configure, tmp_path / "re", "trainer.max_epochs=3", "trainer.reload_dataloaders_every_n_epochs=1"
    )
    assert (plain.loads, reloaded.loads) == (0, 2)  # after the first
    assert torch.equal(plain.weights, reloaded.weights)


@pytest.mark.parametrize(("batches", "rounds"), [("2", 10), ("0.5", 10), ("1.0", 20)])
def test_overfitting_trains_on_the_same_rounds_in_every_epoch(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: str, rounds: int
) -> None:
    """Its weights are those of a short epoch whose data begin again, and no others."""
    epochs = ("trainer.max_epochs=3", "data.validation_samples=10001")  # of which a share is a batch too
    overfit = watched(configure, tmp_path / "overfit", *epochs, f"trainer.overfit_batches={batches}")
    plain = watched(configure, tmp_path / "plain", *epochs, f"trainer.limit_train_batches={batches}")
    fetcher = Synthetic.fetcher

    def beginning_again(data: Synthetic) -> Callable[[int, int], Rounds]:
        fetch = fetcher(data)
        return lambda start, stop: fetch(start % rounds, start % rounds + stop - start)

    monkeypatch.setattr(Synthetic, "fetcher", beginning_again)
    again = watched(configure, tmp_path / "again", *epochs, f"trainer.limit_train_batches={batches}")
    assert overfit.steps == plain.steps == again.steps == list(range(5, 3 * rounds + 1, 5))
    assert torch.equal(overfit.weights, again.weights)
    assert not torch.isclose(overfit.weights, plain.weights, rtol=1e-3).all()


def test_a_fast_run_is_short_and_leaves_nothing(configure: Configure, tmp_path: Path) -> None:
    watch = watched(configure, tmp_path, "trainer.fast_dev_run=2", "data.rounds_per_batch=1")
    assert watch.steps == [1, 2]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"config.yaml"}


@pytest.mark.parametrize(("profiler", "told"), [("simple", "optimizer_step"), ("advanced", "function calls")])
def test_a_profilers_report_is_in_the_runs_folder(
    configure: Configure, tmp_path: Path, profiler: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(configure, tmp_path, f"trainer.profiler={profiler}")
    assert told in (tmp_path / "fit-profile.txt").read_text()
    assert "\nProfile: " in capsys.readouterr().out


def test_a_summary_is_printed(configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched(configure, tmp_path, "trainer.enable_model_summary=true")
    said = capsys.readouterr().out
    assert "generator" in said
    assert "Trainable params" in said


# ------------------------------------------------------------------------------------------- callbacks of Lightning's


@pytest.mark.parametrize("monitor", ["val/ks", "loss/generator"])
def test_early_stopping_stops_and_says_why(
    configure: Configure, tmp_path: Path, monitor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A score that must rise by 1000 does not: the second look is the last."""
    stop = ("+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.mode=max")
    stop += (f"+callbacks.stop.monitor={monitor}", "+callbacks.stop.patience=1", "+callbacks.stop.min_delta=1000")
    watch = watched(configure, tmp_path, *stop, "trainer.max_epochs=9")
    assert watch.steps[-1] == 40
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"Stopped early: Monitored metric {monitor} did not improve in the last 1 records.")
    assert first.endswith(".")


def test_a_run_that_was_not_stopped_gives_no_reason(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = ("+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.monitor=val/ks")
    watched(configure, tmp_path, *stop)
    assert capsys.readouterr().out.startswith("Trained to step 40 ")


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_a_run_may_end_before_the_first_validation(configure: Configure, tmp_path: Path, kind: str) -> None:
    options = (f"+callbacks.mine._target_=lightning.pytorch.callbacks.{kind}", "+callbacks.mine.monitor=val/ks")
    assert watched(configure, tmp_path, *options, "trainer.max_steps=3").steps[-1] == 3
    assert "val/ks" in json.loads((tmp_path / "metrics.json").read_text())


def test_the_best_checkpoint_has_the_final_weights_if_these_are_best(configure: Configure, tmp_path: Path) -> None:
    """A run that ends within an epoch is validated after its last step; with no other validation, that is the best."""
    watched(configure, tmp_path, "trainer.max_steps=3")
    best, last = (torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["global_step"] == 3
    assert_close(best["state_dict"], last["state_dict"], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_a_monitor_that_nobody_logs_is_told_in_a_sentence(configure: Configure, tmp_path: Path, kind: str) -> None:
    options = (f"+callbacks.mine._target_=lightning.pytorch.callbacks.{kind}", "+callbacks.mine.monitor=val/kss")
    with pytest.raises(UsageError, match=rf"^{kind} has monitor=val/kss, .* one of .*loss/generator.*val/ks.*\.$"):
        watched(configure, tmp_path, *options)


def test_an_error_of_ones_own_callback_keeps_its_kind(configure: Configure, tmp_path: Path) -> None:
    class Broken(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        train(configure(*TINY), tmp_path, [Broken()])


@pytest.mark.parametrize(("limit", "steps"), [("{seconds: 0}", 0), ("{microseconds: 1}", 1)])
def test_a_run_that_ran_out_of_time_says_so(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str, steps: int
) -> None:
    watch = watched(configure, tmp_path, f"trainer.max_time={limit}", "trainer.max_epochs=9")
    assert len(watch.steps) == steps
    assert capsys.readouterr().out.startswith("Stopped by trainer.max_time.\n")


def test_a_model_checkpoint_follows_a_loss(configure: Configure, tmp_path: Path) -> None:
    keep = ("+callbacks.keep._target_=lightning.pytorch.callbacks.ModelCheckpoint", "+callbacks.keep.filename=kept")
    watched(configure, tmp_path, *keep, "+callbacks.keep.monitor=loss/generator", "logger=[csv,tensorboard]")
    saved = torch.load(tmp_path / "checkpoints" / "kept.ckpt", weights_only=True)
    (state,) = [state for name, state in saved["callbacks"].items() if name.startswith("ModelCheckpoint")]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        losses = {int(r["step"]): float(r["loss/generator"]) for r in csv.DictReader(file) if r["loss/generator"]}
    assert float(state["best_model_score"]) == pytest.approx(min(losses[20], losses[40]))


@pytest.mark.parametrize(
    ("typed", "environment", "overrides", "expected"),
    [
        ("null", None, (), 1),  # a toy
        ("null", None, ("model.generator.widths=[2048,3072]",), 3),  # 6.3 million weights on 16 points
        ("null", "3", (), 3),  # as the environment said before torch was imported
        ("2", "3", (), 2),
        ("2", None, ("model.generator.widths=[2048,3072]",), 2),
    ],
)
def test_threads_are_as_many_as_the_work_is_worth(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    environment: str | None,
    overrides: tuple[str, ...],
    expected: int,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        watch = watched(configure, tmp_path, f"trainer.threads={typed}", "trainer.max_steps=1", *overrides)
        assert torch.get_num_threads() == 3  # the user's own program goes on with its own
    finally:
        torch.set_num_threads(before)
    assert watch.states["threads"] == expected


@pytest.mark.parametrize(
    ("overrides", "is_shared"),
    [
        (("data=gaussian",), False),
        (("experiment=ring_collapse",), False),
        (("experiment=even_integers",), False),
        (("data=mnist", "model=mlp"), True),
        (("data=mnist", "model=dcgan"), True),
    ],
)
def test_toys_are_little_work_and_images_are_much(
    configure: Configure, overrides: tuple[str, ...], is_shared: bool
) -> None:
    config = configure(*overrides)
    data = build_data(config)
    gan = build_gan(config, data.sample_shape, 0)
    assert (multiply_adds(gan, data) >= WORTH_SHARING) == is_shared
