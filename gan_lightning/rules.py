"""Valid values of options, by the last part of an option's name."""

import re
from typing import Any

from omegaconf import DictConfig, ListConfig

from gan_lightning.checks import (
    COUNT,
    FLAG,
    KEEP,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SEED,
    SHARE,
    SIZE,
    Rule,
    is_number,
    is_whole,
    one_of,
)

# float32 can hold the squares of such values and of their ratios
SCALE = (lambda v: is_number(v) and 1e-9 <= v <= 1e9, "a number above 0, from 1e-9 to 1e9")
PLACE = (lambda v: is_number(v) and abs(v) <= 1e9, "a number from -1e9 to 1e9")
LIMIT = (
    lambda v: (is_whole(v) and v >= 0) or (is_number(v) and 0.01 <= v <= 1) or v == 0,
    "a whole number of batches, or a share of them from 0.01 to 1",
)
EXTENT = (
    lambda v: SIZE[0](v) or (isinstance(v, ListConfig) and len(v) == 2 and all(map(SIZE[0], v))),
    "a whole number, at least 1, or two, [height, width]",
)
SIZES = (lambda v: isinstance(v, ListConfig) and all(map(SIZE[0], v)), "a list of whole numbers, each at least 1")
MEANS = (lambda v: isinstance(v, ListConfig) and all(map(PLACE[0], v)), "a list of numbers from -1e9 to 1e9")
SCALES = (lambda v: isinstance(v, ListConfig) and all(map(SCALE[0], v)), "a list of numbers above 0, from 1e-9 to 1e9")
POSITIVES = (lambda v: isinstance(v, ListConfig) and all(map(POSITIVE[0], v)), "a list of numbers above 0")
TIMES = (lambda v: POSITIVES[0](v) and len(v) > 0, "a list of numbers above 0, at least one")
BETAS = (
    lambda v: isinstance(v, ListConfig) and len(v) == 2 and all(map(SHARE[0], v)),
    "a list of two numbers from 0 up to but not including 1",
)
NAMES = (lambda v: isinstance(v, ListConfig) and all(isinstance(n, str | int) for n in v), "a list of names")
RANGE = (
    lambda v: isinstance(v, ListConfig) and len(v) == 2 and all(map(is_number, v)) and v[0] < v[1],
    "a list of two numbers, the smaller first",
)
DEVICES = (
    lambda v: (
        v in ("auto", "-1", -1)
        or (is_whole(v) and v >= 1)
        or (isinstance(v, ListConfig) and len(v) > 0 and all(map(COUNT[0], v)))
        or (isinstance(v, str) and re.fullmatch(r"\d+(,\d+)*,?", v) is not None)
    ),
    "a whole number, at least 1, -1 or auto for all, or a list of devices",
)
PROFILER = (
    lambda v: v in ("simple", "advanced", "pytorch") or (isinstance(v, DictConfig) and "_target_" in v),
    "one of simple, advanced, pytorch, or the _target_ of a profiler",
)
UNITS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")  # of datetime.timedelta
_DURATION = "DD:HH:MM:SS or a mapping such as {hours: 1}"


def _is_duration(value: Any) -> bool:
    if isinstance(value, DictConfig):
        return len(value) > 0 and all(key in UNITS and NOT_NEGATIVE[0](value[key]) for key in value)
    return isinstance(value, str) and re.fullmatch(r"\d+(:\d\d){3}", value.strip(), re.ASCII) is not None


DURATION = (_is_duration, _DURATION)
CHECKS = (
    lambda v: (is_whole(v) and v >= 1) or (isinstance(v, float) and 0 < v <= 1) or _is_duration(v),
    f"a whole number of batches, a share of an epoch above 0, at most 1, or {_DURATION}",
)
PLUGINS = (
    lambda v: all(isinstance(p, DictConfig) and "_target_" in p for p in (v if isinstance(v, ListConfig) else [v])),
    "the _target_ of a plugin, or a list of them",
)
UNLIMITED = (lambda v: is_whole(v) and (v >= 1 or v == -1), "a whole number, at least 1, or -1 for no limit")

# by an option's full name or its last part, so that the options of a new network are checked too
RULES: dict[str, Rule] = {
    **dict.fromkeys(("batch_size", "critic_steps", "latent_size", "rounds_per_batch", "rounds_per_epoch"), SIZE),
    **dict.fromkeys(("categories", "output_units", "packing", "fixed_samples", "blocks", "layers"), SIZE),
    **dict.fromkeys(("size", "width", "modes", "side", "interval", "n", "subset"), SIZE),
    "data.size": EXTENT,
    "data.steps": SIZE,
    **dict.fromkeys(("every_n_steps", "log_every_n_steps", "accumulate_grad_batches"), SIZE),
    **dict.fromkeys(("pieces", "units", "unit_pieces", "saturate", "steps"), SIZE),
    "seed": SEED,
    **dict.fromkeys(("workers", "validation_samples", "continuous", "freeze_discriminator"), COUNT),
    **dict.fromkeys(("category_weight", "continuous_weight", "l1_weight", "adversarial_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("initial", "images"), NOT_NEGATIVE),
    **dict.fromkeys(("lr", "memory_limit", "limit", "speed", "temperature"), POSITIVE),
    **dict.fromkeys(("std", "sigma", "spacing", "radius"), SCALE),
    "mean": PLACE,
    **dict.fromkeys(("weight", "every_seconds", "weight_decay", "momentum", "slope", "final"), NOT_NEGATIVE),
    **dict.fromkeys(("init_range", "output_range", "min_lr", "norm_eps", "fourier_scale"), POSITIVE),
    **dict.fromkeys(("keep_input", "keep_hidden"), KEEP),
    **dict.fromkeys(("ema_decay", "label_smoothing", "start", "final_momentum", "beta2", "held_out_share"), SHARE),
    **dict.fromkeys(("reuse_fakes", "ema_warmup", "batch_norm", "horizontal_flips"), FLAG),
    **dict.fromkeys(("conditional", "conditional_norm", "spectral_norm"), FLAG),
    **dict.fromkeys(("download", "fused", "compile", "cuda_graphs"), FLAG),
    **dict.fromkeys(("max_steps", "max_epochs"), UNLIMITED),
    "devices": DEVICES,
    "num_nodes": SIZE,
    "threads": (lambda v: is_whole(v) and 1 <= v <= 1024, "a whole number from 1 to 1024"),
    **dict.fromkeys(("widths", "cardinalities"), SIZES),
    "betas": BETAS,
    "limits": RANGE,
    **dict.fromkeys(("categorical", "columns"), NAMES),
    "kind": one_of("images", "sequences"),
    **dict.fromkeys(("amplitudes", "frequencies"), RANGE),
    "scaling": one_of("range", "standard", "none"),
    **dict.fromkeys(("p", "blit", "color"), PROBABILITY),
    "target": (lambda v: is_number(v) and -1 <= v <= 1, "a number from -1 to 1, or null"),
    "means": MEANS,
    "stds": SCALES,
    "weights": POSITIVES,
    "at_seconds": TIMES,
    "check_val_every_n_epoch": SIZE,
    **dict.fromkeys((f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")), LIMIT),
    **dict.fromkeys(("min_steps", "min_epochs", "reload_dataloaders_every_n_epochs"), COUNT),
    **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), FLAG),
    **dict.fromkeys(("enable_autolog_hparams", "use_distributed_sampler", "sync_batchnorm"), FLAG),
    **dict.fromkeys(("benchmark", "inference_mode", "detect_anomaly", "barebones"), FLAG),
    "deterministic": (lambda v: isinstance(v, bool) or v == "warn", "true, false or warn"),
    "fast_dev_run": (lambda v: isinstance(v, bool) or COUNT[0](v), "true, false or a whole number of batches"),
    "overfit_batches": LIMIT,
    "num_sanity_val_steps": (lambda v: is_whole(v) and v >= -1, "a whole number, at least 0, or -1 for all"),
    "val_check_interval": CHECKS,
    "max_time": DURATION,
    "accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "plugins": PLUGINS,
    "gradient_clip_val": POSITIVE,
    "channels": one_of(1, 2, 3, 4),
    "fit": one_of("crop", "pad", "stretch"),
    "depth": one_of(8, 16, "float"),
    "order": one_of("discriminator_first", "generator_first", "simultaneous"),
    "scheduled": one_of("both", "generator", "discriminator"),
    "decay": (lambda v: is_number(v) and v >= 1, "a number, at least 1"),
    "pooling": one_of("max", "mean"),
    "conditioning": one_of("projection", "joined"),
    "unreadable": one_of("refuse", "skip"),
    "features": one_of("own", "inception"),
    "gradient_clip_algorithm": one_of("norm", "value"),
    "float32_matmul_precision": one_of("highest", "high", "medium"),
    "precision": one_of("32-true", "bf16-mixed", "16-mixed", "64-true"),
    "strategy": one_of("auto", "ddp"),
    "profiler": PROFILER,
    "offline": FLAG,
    "changed_data": one_of("refuse", "accept"),
}
OPTIONAL = {
    *("gradient_clip_val", "gradient_clip_algorithm", "max_epochs", "n", "weights", "profiler", "threads"),
    *("deterministic", "benchmark", "plugins", "fixed_samples", "subset", "steps", "beta2", "target"),
    *("limits", "scaling", "columns", "fourier_scale"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
    *("check_val_every_n_epoch", "val_check_interval", "max_time", "min_steps", "min_epochs"),
}
# may be schedules
SCHEDULED = re.compile(r"(generator_)?regularizer\.\w+\.weight|model\.ema_decay(\.images)?|augment\.p")
WRITTEN = ("save_dir", "log_dir", "dirpath")  # options of loggers and callbacks that name folders
PLACES = ("root", "path", "held_out", "inception_weights")  # options of data that name files
# last parts of the names of options that take any text, or null
TEXTS = (
    *(*PLACES, "key", "labels", "cache", "name", "objective", "resume", "start_from", "gives", "needs", "save_dir"),
    *("experiment", "project"),
)
# Hydra's own keys, checked in every part
HYDRAS = {
    **dict.fromkeys(("_partial_", "_recursive_"), FLAG),
    "_convert_": one_of("none", "partial", "object", "all"),
}
